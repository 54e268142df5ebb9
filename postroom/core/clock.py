"""Time: the system clock, `Instant`s (microseconds since the epoch) and their form in RFC 3339."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Instant: TypeAlias = int
Clock: TypeAlias = Callable[[], Instant]

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR


def system_clock() -> Instant:
    """Return the present, in microseconds since the epoch."""
    return time.time_ns() // 1000


def rfc3339(at: Instant) -> str:
    """Return a time in UTC, to the millisecond (RFC 3339)."""
    moment = datetime.fromtimestamp(at / SECOND, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
