"""Time: the system clock, `Instant`s (microseconds since the epoch) and their form in RFC 3339."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeAlias

Instant: TypeAlias = int
Clock: TypeAlias = Callable[[], Instant]

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def system_clock() -> Instant:
    """Return the present, in microseconds since the epoch."""
    return time.time_ns() // 1000


def rfc3339(at: Instant) -> str:
    """Return a time in UTC, to the millisecond (RFC 3339)."""
    moment = datetime.fromtimestamp(at / SECOND, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> Instant:
    """Return a time with its zone (RFC 3339). Raises ValueError, whose text says how to write one."""
    try:
        if _RFC3339.fullmatch(text):
            return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * SECOND)
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a time with its zone, such as 2027-01-31T12:00:00Z (RFC 3339)")
