"""What is another's and what is nobody's answer alike: the same words, by the same statements, in the same time.

The time is measured by `POSTROOM_SOAK=1` (`make soak`) alone: 2,000 interleaved pairs, compared by a Mann–Whitney test.
`make test` looks at the cause: the statements that are run for each of the two.
"""

from __future__ import annotations

import functools
import math
import random
import time
from dataclasses import dataclass
from typing import Any

import pytest

from postroom.accounts.rights import RIGHTS, Right
from postroom.store.queries import Session
from tests.http.admin import Admin
from tests.http.conftest import ALICE
from tests.http.test_admin_matrix import NO_ID, Two, call, two
from tests.soak import SOAK

pytestmark = pytest.mark.usefixtures("admin_token")

__all__ = ["two"]  # pytest finds it here
PAIRS = 2000
LEAST_P = 0.01
WITH_ID = [right for right in RIGHTS if "{" in right.path]
KEYS = ("of data.csv", "of an account", "of a pool")


@dataclass(frozen=True)
class Pair:
    """The two questions of one key, for one call."""

    admin: Admin
    right: Right
    foreign: str

    def ask(self, id_: str) -> tuple[int, Any]:
        return call(self.admin, self.right, id_)


@pytest.fixture(params=KEYS)
def key(request: pytest.FixtureRequest, two: Two) -> Admin:
    return two.admin.as_key(two.one.keys[KEYS.index(request.param)])


@pytest.fixture(params=WITH_ID, ids=lambda right: f"{right.method} {right.path}")
def pair(request: pytest.FixtureRequest, two: Two, key: Admin) -> Pair:
    right = request.param
    account, issued, pool, _ = two.other.ids
    ids = {"/v1/accounts": account, "/v1/keys": issued, "/v1/pools": pool}
    foreign = next((id_ for path, id_ in ids.items() if right.path.startswith(path)), two.other.message)
    return Pair(key, right, foreign)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that were run."""
    names: list[str] = []
    for method in ("rows", "row", "column", "value", "change", "count_changed"):
        original = getattr(Session, method)

        @functools.wraps(original)
        def noted(self: Session, *args: Any, _original: Any = original, **parameters: Any) -> Any:
            names.append(next(arg for arg in args if isinstance(arg, str)))
            return _original(self, *args, **parameters)

        monkeypatch.setattr(Session, method, noted)
    return names


def test_a_foreign_id_runs_the_statements_of_an_unknown_one(pair: Pair, ran: list[str]) -> None:
    """What is asked from time to time, whatever the request, may fall to one of the two: then they are asked again."""

    def ask(id_: str) -> tuple[tuple[int, Any], list[str]]:
        ran.clear()
        return pair.ask(id_), [*ran]

    found = []
    for _ in range(10):
        foreign, unknown = ask(pair.foreign), ask(NO_ID)
        assert foreign[0] == unknown[0]
        assert foreign[0][0] in (403, 404)
        found.append((foreign[1], unknown[1]))
        if foreign[1] == unknown[1]:
            return
    pytest.fail(f"the statements differ: {found}")


def test_the_statements_of_a_message_of_ones_own_are_noticed(two: Two, ran: list[str]) -> None:
    """So that the test above could fail."""
    right = next(right for right in RIGHTS if right.path == "/email-status/{request_id}")
    alice = two.admin.as_key(ALICE)
    call(alice, right, two.one.message)
    ran.clear()
    assert call(alice, right, two.one.message)[0] == 200
    mine = [*ran]
    ran.clear()
    call(alice, right, NO_ID)
    assert "deliveries_of" in mine
    assert "deliveries_of" not in ran


if SOAK:

    def test_a_foreign_id_takes_as_long_as_an_unknown_one(pair: Pair) -> None:
        """One that differs by chance does not do so again."""
        found = [compare(*measure(pair, seed=0))]
        if found[0] <= LEAST_P:
            found.append(compare(*measure(pair, seed=1)))
        print(f"{pair.right.method} {pair.right.path}: p = {', '.join(f'{p:.3f}' for p in found)}")
        assert found[-1] > LEAST_P, "the answer to a foreign id is told by its time"


def measure(pair: Pair, seed: int) -> tuple[list[int], list[int]]:
    """Return the times, in ns, of the foreign id and of the unknown one; which of a pair comes first is chance."""
    chance = random.Random(seed)
    times: dict[str, list[int]] = {pair.foreign: [], NO_ID: []}
    for number in range(-50, PAIRS):  # the first warm up
        both = [pair.foreign, NO_ID]
        chance.shuffle(both)
        for id_ in both:
            began = time.perf_counter_ns()
            pair.ask(id_)
            took = time.perf_counter_ns() - began
            if number >= 0:
                times[id_].append(took)
    return times[pair.foreign], times[NO_ID]


def compare(one: list[int], other: list[int]) -> float:
    """Return the p value of a two-sided Mann–Whitney test, by its normal approximation, with ties."""
    order = sorted((value, side) for side, values in enumerate((one, other)) for value in values)
    ranks, ties, at = 0.0, 0, 0
    while at < len(order):
        end = at
        while end < len(order) and order[end][0] == order[at][0]:
            end += 1
        ranks += (at + end + 1) / 2 * sum(side == 0 for _, side in order[at:end])
        ties += (end - at) ** 3 - (end - at)
        at = end
    n, m = len(one), len(other)
    u = ranks - n * (n + 1) / 2
    deviation = math.sqrt(n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1))))
    return math.erfc(abs(u - n * m / 2) / deviation / math.sqrt(2))


def test_the_comparison_finds_what_differs() -> None:
    chance = random.Random(1)
    base = [chance.gauss(1000, 100) for _ in range(4000)]
    one, other = [[round(value) for value in part] for part in (base[:2000], base[2000:])]
    assert compare(one, other) > LEAST_P
    assert compare([value + 10 for value in one], other) < LEAST_P
    assert compare([1] * 2000, [2] * 2000) == 0
