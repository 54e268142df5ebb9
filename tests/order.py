"""The order of the tests where several workers share them: the long ones first, dealt to all, with short modules between.

pytest-xdist gives each worker an even slice of the list, and lets one that has done its own take over half of another's
rest. In the order of the folders, one worker would have most of what starts processes, and the end would wait for it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import pytest

Unit: TypeAlias = (
    "list[pytest.Item]"  # tests that stay beside each other, for they share what is started for them
)

# What starts servers and processes, and waits for them; longest first. The marker `slow` goes before all.
LONG = ("databases", "peers", "process", "clients", "controls", "contract")
_LATEST = 0.8  # of a worker's share: by then its long tests have begun, and the short ones fill up the end


def arrange(items: list[pytest.Item]) -> None:
    """Put the tests in order, when pytest-xdist is about to share them."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        items[:] = shared(items, workers)


def shared(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return the tests in an order whose even slices have their parts of the long ones."""
    units = sorted(
        (unit for unit in _units(items) if _rank(unit[0]) < len(LONG)), key=lambda unit: _rank(unit[0])
    )
    short = [item for item in items if _rank(item) == len(LONG)]
    found: list[pytest.Item] = []
    for number in range(workers):
        mine = units[number::workers]
        size = (len(items) - len(found)) // (workers - number)
        rest = size - sum(map(len, mine)) if number < workers - 1 else len(short)
        others, short = short[: max(0, rest)], short[max(0, rest) :]
        found += _mixed(mine, others)
    return found


def _rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    if folder not in LONG:
        return len(LONG)
    return -1 if item.get_closest_marker("slow") else LONG.index(folder)


def _units(items: Iterable[pytest.Item]) -> Iterator[Unit]:
    """Give each test alone, but those of a module that has a fixture for all of them together."""
    for _, module in itertools.groupby(items, key=lambda item: item.path):
        tests = list(module)
        if any(_shares(test) for test in tests):
            yield tests
        else:
            yield from ([test] for test in tests)


def _shares(item: pytest.Item) -> bool:
    definitions = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - no type that pytest shows
    return any(each.scope in ("module", "class") for each in itertools.chain(*definitions.values()))


def _mixed(units: Sequence[Unit], short: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Give the units in their order, and the modules of the short tests between them."""
    modules = [list(module) for _, module in itertools.groupby(short, key=lambda item: item.path)]
    gaps = max(1, int(len(modules) * _LATEST))
    waiting = iter(units)
    for number, module in enumerate(modules):
        count = (number + 1) * len(units) // gaps - number * len(units) // gaps if number < gaps else 0
        for unit in itertools.islice(waiting, count):
            yield from unit
        yield from module
    for unit in waiting:
        yield from unit
