"""Quiet hours: a span of the day, in local time, in which only urgent notices are sent, and no recovery. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, NamedTuple

from postroom.core.clock import SECOND, Instant

_SPAN: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9]) *- *([01][0-9]|2[0-3]):([0-5][0-9])")


class QuietHours(NamedTuple):
    """From one minute of the day up to another one, which may be on the next day."""

    begin: int  # minutes since midnight
    end: int

    def holds(self, minute: int) -> bool:
        """Whether this minute of the day is quiet."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


def parse_quiet_hours(text: str) -> QuietHours:
    """Return the quiet hours that a text such as 22:00-07:00 names. Raises ValueError."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be two times of the day, such as 22:00-07:00")
    hour, minute, until_hour, until_minute = map(int, found.groups())
    hours = QuietHours(hour * 60 + minute, until_hour * 60 + until_minute)
    if hours.begin == hours.end:
        raise ValueError(
            "must not begin and end at the same minute; leave POSTROOM_NOTIFY empty to be told nothing"
        )
    return hours


def local_minute(at: Instant) -> int:
    """Return the minute of the day, by the local time of this machine (TZ)."""
    local = datetime.fromtimestamp(at // SECOND)  # noqa: DTZ006
    return local.hour * 60 + local.minute
