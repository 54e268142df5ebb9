"""Matrices over both engines: all of it in `make soak`, the engines in turn in `make test`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import cycle

import pytest

ENGINES = ("sqlite", "postgres")


def in_turn(
    name: str, values: Sequence[str], *, soak: bool, both: Collection[str] = ()
) -> pytest.MarkDecorator:
    """Parametrize `name` and the fixture `database_settings`: each value on one engine, those of `both` on each.

    The code that they test is the same on both engines, but for those of `both`.
    """
    turn = cycle(ENGINES)
    pairs = []
    for value in values:
        engines = ENGINES if soak or value in both else (next(turn),)
        pairs += [(engine, value) for engine in engines]
    return pytest.mark.parametrize(("database_settings", name), pairs, indirect=["database_settings"])
