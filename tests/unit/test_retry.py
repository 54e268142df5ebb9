"""When a message is tried again, and when no more."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core import retry
from postroom.core.clock import SECOND

SCHEDULE = [30 * SECOND, 120 * SECOND, 600 * SECOND]

schedules = st.lists(st.integers(1, 7 * 86_400 * SECOND), min_size=1, max_size=12)
randoms = st.floats(0, 1, exclude_max=True)


def middle() -> float:
    return 0.5


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 30), (2, 120), (3, 600), (4, 600), (1000, 600)])
def test_the_schedule_is_followed_and_its_last_wait_repeated(attempt: int, seconds: int) -> None:
    assert retry.delay(attempt, SCHEDULE, middle) == seconds * SECOND


def test_an_attempt_that_was_given_back_waits_like_the_first() -> None:
    assert retry.delay(0, SCHEDULE, middle) == 30 * SECOND


@given(st.integers(0, 100), schedules, randoms)
def test_the_wait_varies_by_a_tenth(attempt: int, schedule: list[int], random: float) -> None:
    base = schedule[min(max(attempt, 1), len(schedule)) - 1]
    wait = retry.delay(attempt, schedule, lambda: random)
    assert 0.9 * base - 1 <= wait <= 1.1 * base + 1
    assert isinstance(wait, int)


@given(st.integers(0, 20), schedules)
def test_the_jitter_is_used_in_both_directions(attempt: int, schedule: list[int]) -> None:
    waits = [retry.delay(attempt, schedule, lambda at=at: at) for at in (0.0, 0.5, 0.999)]  # type: ignore[misc]
    assert all(earlier <= later for earlier, later in pairwise(waits))
    base = schedule[min(max(attempt, 1), len(schedule)) - 1]
    assert base < 100 or waits[0] < base < waits[2]


@given(
    st.integers(5, 20),
    st.integers(0, 2**53),
    st.integers(0, 10 * 86_400 * SECOND),
    schedules,
    st.integers(0, 10 * 86_400 * SECOND),
    randoms,
)
def test_not_after_retry_for_once_there_were_some_tries(
    attempt: int, accepted_at: int, passed: int, schedule: list[int], retry_for: int, random: float
) -> None:
    now = accepted_at + passed
    due = retry.next_try(
        attempt,
        accepted_at=accepted_at,
        now=now,
        schedule=schedule,
        retry_for=retry_for,
        random=lambda: random,
    )
    wait = retry.delay(attempt, schedule, lambda: random)
    assert due == (now + wait if passed + wait <= retry_for else None)


@pytest.mark.parametrize(("retry_for", "due"), [(130 * SECOND, 1130 * SECOND), (130 * SECOND - 1, None)])
def test_the_last_moment_still_counts(retry_for: int, due: int | None) -> None:
    answer = retry.next_try(
        5,
        accepted_at=1000 * SECOND,
        now=1100 * SECOND,
        schedule=[30 * SECOND],
        retry_for=retry_for,
        random=middle,
    )
    assert answer == due


@pytest.mark.parametrize(
    ("attempt", "retry_for", "goes_on"),
    [
        (1, 4 * 86_400 * SECOND, True),
        (4, 4 * 86_400 * SECOND, True),
        (5, 4 * 86_400 * SECOND, False),
        (2, 151 * SECOND, True),
        (2, 150 * SECOND, False),
        (1, 10 * SECOND, False),
    ],
)
def test_what_waited_for_its_account_for_longer_than_retry_for_has_its_tries(
    attempt: int, retry_for: int, goes_on: bool
) -> None:
    answer = retry.next_try(
        attempt,
        accepted_at=0,
        now=5 * 86_400 * SECOND,
        schedule=SCHEDULE,
        retry_for=retry_for,
        random=middle,
    )
    assert (answer is not None) is goes_on
