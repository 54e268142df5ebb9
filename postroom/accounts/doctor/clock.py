"""Findings about this machine's clock: compares it with the time that somebody else has said. Pure."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from postroom.accounts.doctor.finding import Finding, ok, warning
from postroom.core.clock import SECOND, Instant

_MOST_DIFFERENCE_S: Final = 60
# As Exim, Sendmail and others end their greeting (RFC 5322 §3.3).
_DATE: Final = re.compile(
    r"\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), )?\d{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} "
    r"\d{2}:\d{2}(?::\d{2})? (?:[+-]\d{4}|GMT|UTC?)"
)


def time_in_greeting(greeting: str) -> Instant | None:
    """Return the time that a server says in its greeting; None where it says none."""
    found = _DATE.search(greeting)
    if found is None:
        return None
    try:
        said = parsedate_to_datetime(found[0])
    except ValueError:
        return None
    if said.tzinfo is None:
        said = said.replace(tzinfo=UTC)
    return int(said.timestamp()) * SECOND


def about_clock(ours: Instant, theirs: Instant, whose: str) -> Finding:
    """Compare our clock with the time that somebody said at the same moment, to the minute."""
    seconds = round((ours - theirs) / SECOND)
    if abs(seconds) <= _MOST_DIFFERENCE_S:
        return ok("clock", f"this machine's clock agrees with that of {whose}")
    way = "ahead of" if seconds > 0 else "behind"
    return warning(
        "clock",
        f"this machine's clock is {abs(seconds)} s {way} that of {whose}",
        "certificates, access tokens and the times of retries are judged by it",
        "have the clock set by NTP: timedatectl set-ntp true",
    )
