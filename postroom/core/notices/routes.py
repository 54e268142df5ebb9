"""Which ways a notice goes: none that needs what is broken. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from postroom.core.notices.values import Notice
from postroom.core.notices.ways import Way


def ways_for(
    notice: Notice, ways: Iterable[Way], *, broken: frozenset[str], nothing_is_sent: bool
) -> tuple[Way, ...]:
    """Return the ways of a notice. A message is none while nothing is sent, or where its account cannot send.

    `broken`: the mailboxes of accounts that are paused. With no other way there is none: a message would wait for the very
    thing that it tells of.
    """
    stopped = broken | set(notice.broken_accounts)
    no_message = nothing_is_sent or notice.nothing_is_sent
    return tuple(way for way in ways if not (way.is_message and (no_message or way.account in stopped)))
