"""Counts per account and day: days, and the scale on which times to sent are counted, for percentiles. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, timedelta
from math import exp, log
from typing import Final

from postroom.core.clock import DAY, Instant, parse_rfc3339

ACCEPTED: Final = "accepted"
SENT: Final = "sent"
DEFERRED: Final = "deferred"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
AFTER: Final = "after"  # messages that were sent, by the time that it took
DAYS: Final = 30  # that are counted where nobody says since when
_EPOCH: Final = date(1970, 1, 1)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MILLISECOND: Final = 1000
_RATIO: Final = log(1.05)  # of one step of the scale to the next


def day_of(at: Instant) -> int:
    """Return the day of a time, since the epoch, in UTC."""
    return at // DAY


def step_of(took: int) -> int:
    """Return the step of a time, in microseconds; 0 is a millisecond or less."""
    return max(0, round(log(max(took, _MILLISECOND) / _MILLISECOND) / _RATIO))


def time_of(step: int) -> int:
    """Return the time of a step, right to 2.5 percent, in microseconds."""
    return round(exp(step * _RATIO) * _MILLISECOND)


def percentile(steps: Mapping[int, int], part: float) -> int | None:
    """Return the time within which this part of the messages was sent; None without any."""
    wanted, seen = part * sum(steps.values()), 0
    for step in sorted(steps):
        seen += steps[step]
        if seen >= wanted:
            return time_of(step)
    return None


def date_of(day: int) -> str:
    """Return a day as YYYY-MM-DD."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def parse_time_or_day(text: str) -> Instant:
    """Return a time with its zone, or the beginning of a day in UTC. Raises ValueError, whose text says how to write one."""
    if _DATE.fullmatch(text):
        try:
            return (date.fromisoformat(text) - _EPOCH).days * DAY
        except ValueError:
            pass
    else:
        with suppress(ValueError):
            return parse_rfc3339(text)
    raise ValueError("must be a day such as 2027-01-31, or a time with its zone such as 2027-01-31T12:00:00Z")
