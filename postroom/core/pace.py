"""The arithmetic of how fast an account may send after the server said that it was too fast. Pure.

The pace is a gap between messages. Each refusal halves it and lets the account rest, twice as long
each time in a row; each message that the server takes raises it a step: quickly up to what the server has been
taking on average (pauses included), slowly beyond. No unit of time is built in, so that 14 a second and
20 a minute are found alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from postroom.core.clock import SECOND, Instant

LONGEST = 600 * SECOND  # between messages
_FREE = SECOND // 100  # an interval below which no pace is kept any more
_BURST = SECOND // 4  # what a worker that looks for due messages may be late
_FIRST_REST = SECOND
_LONGEST_REST = 300 * SECOND
_CATCH_UP = 2  # each step halves the distance to the average
_STEP = 128


@dataclass(frozen=True, slots=True)
class Pace:
    """An account's pace, as the database has it. Gaps are in microseconds."""

    gap: int  # between messages
    average: int  # gap of what the server has taken, its refusals and rests included
    since: Instant  # beginning of the present stretch: it ends with a message taken after a refusal
    taken: int = 0  # messages taken in it
    slowed_at: Instant = 0  # when it was last halved
    refusals: int = 0  # in a row

    @property
    def per_minute(self) -> float:
        return 60 * SECOND / self.gap


def first(taken: int, since: Instant, now: Instant) -> Pace:
    """Return the pace at which an account without one has sent: so many messages since then."""
    gap = max(_FREE, (now - since) // max(1, taken))
    return Pace(gap, gap, since, taken)


def slowed(pace: Pace, *, tried_at: Instant, now: Instant) -> Pace:
    """Halve the pace. What was tried before the last halving tells nothing new."""
    if tried_at < pace.slowed_at:
        return pace
    return replace(pace, gap=min(2 * pace.gap, LONGEST), slowed_at=now, refusals=pace.refusals + 1)


def rest(pace: Pace) -> int:
    """Return how long to send nothing after a refusal."""
    doubled = _FIRST_REST << min(max(pace.refusals - 1, 0), 16)
    return min(max(doubled, pace.gap), _LONGEST_REST)


def quickened(pace: Pace, *, began_at: Instant, now: Instant) -> Pace | None:
    """Return the pace after a message was taken; None when none is needed any more."""
    pace = replace(pace, taken=pace.taken + 1)
    if began_at < pace.slowed_at:
        return pace  # it was on its way when another one was refused
    if pace.refusals:
        average = (now - pace.since) // pace.taken if pace.taken > 1 else pace.average  # one tells of no pace
        pace = replace(pace, average=max(average, _FREE), since=now, taken=0, refusals=0)
    frequency, usual = 1 / pace.gap, 1 / pace.average
    if frequency < usual * (1 - 1 / _STEP):
        quicker = frequency + (usual - frequency) / _CATCH_UP
    else:
        quicker = frequency * (1 + frequency / usual / _STEP)
    gap = round(1 / min(quicker, 2 * frequency))
    return None if gap < _FREE else replace(pace, gap=gap)


def is_due(paid_until: Instant | None, now: Instant) -> bool:
    """Say whether a message may go now; a time that only a clock that was ahead can have set does not count."""
    return paid_until is None or not now < paid_until <= now + LONGEST


def due(paid_until: Instant, gap: int, now: Instant, most: int) -> tuple[int, Instant]:
    """Return how many messages may go now, up to `most`, and until when they use the pace up."""
    if not is_due(paid_until, now):
        return 0, paid_until
    start = min(max(paid_until, now - _BURST), now)
    count = min(most, (now - start) // gap + 1)
    return count, start + count * gap
