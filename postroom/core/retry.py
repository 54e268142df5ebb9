"""The retry schedule (POSTROOM_RETRY_SCHEDULE, POSTROOM_RETRY_FOR): when to try again, and when to give up. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from postroom.core.clock import SECOND, Instant

_JITTER = 0.2
_FEWEST_TRIES = 5


def delay(attempt: int, schedule: Sequence[int], random: Callable[[], float]) -> int:
    """Return the wait in microseconds after the given attempt (the first is 1).

    The schedule's last wait is repeated. `random` gives [0, 1); the wait varies by
    ±10 %, so that mail deferred together does not come back together.
    """
    base = schedule[min(max(attempt, 1), len(schedule)) - 1]
    return round(base * (1 + _JITTER * (random() - 0.5)))


def longest(schedule: Sequence[int]) -> int:
    """Return the longest wait in microseconds that `delay` gives."""
    return round(max(schedule) * (1 + _JITTER / 2))


_FIRST_PROBE = 300 * SECOND
_LONGEST_PROBE = 6 * 3600 * SECOND


def probe_after(setbacks: int) -> int:
    """Return how long a paused account waits for its next try, after so many in a row that failed.

    Each wait is twice the one before, up to six hours: a try every five minutes makes a block worse.
    """
    return min(_FIRST_PROBE << min(setbacks, 16), _LONGEST_PROBE)


def next_try(
    attempt: int,
    *,
    accepted_at: Instant,
    now: Instant,
    schedule: Sequence[int],
    retry_for: int,
    random: Callable[[], float],
) -> Instant | None:
    """Return when to try again, or None when that would be after `retry_for` microseconds of trying.

    A message may have waited for its account for most of that time: it has its tries all the same,
    some at least, or as many as the schedule has in `retry_for`.
    """
    due = now + delay(attempt, schedule, random)
    is_late = due > accepted_at + retry_for
    return None if is_late and _has_been_tried(attempt, schedule, retry_for) else due


def _has_been_tried(attempt: int, schedule: Sequence[int], retry_for: int) -> bool:
    if attempt >= _FEWEST_TRIES:
        return True
    return sum(schedule[min(index, len(schedule) - 1)] for index in range(attempt)) >= retry_for
