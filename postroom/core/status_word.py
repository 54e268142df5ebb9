"""The one word for what has become of a message so far, the same in API, lists, commands, webhooks and dashboard. Pure."""

from __future__ import annotations

from enum import StrEnum


class StatusWord(StrEnum):
    """The status of a message; why it has it is the reason, apart from it."""

    SCHEDULED = "scheduled"  # waits for the time that its sender chose
    QUEUED = "queued"
    SENDING = "sending"
    DEFERRED = "deferred"  # was tried, or its account is paused, and is tried again
    HELD = "held"  # waits for a person
    SENT = "sent"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPPRESSED = "suppressed"  # its recipient is on the list of those that nothing is sent to
