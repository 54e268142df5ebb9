"""The job of the queue: its reference (`JobRef`), and a claimed one with its message (`ClaimedJob`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from postroom.core.clock import Instant
from postroom.core.message import InDoubtPolicy

# Kinds of jobs of messages.
DELIVERY = "delivery"  # to a mail server
CAPTURE = "capture"  # of a test key: to the inbox in the database, and no further


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """One recipient of a claimed job that still waits for its result."""

    id: int
    forward_path: str


MOST_IN_MEMORY = 1024 * 1024
"""Octets of a message that are in memory at a time while it is sent: a piece, and what is held back for its end."""


@dataclass(frozen=True, slots=True)
class LargeContent:
    """A content that stays in the database until it is sent: its octets and their CRC-32, if it is known."""

    message_id: int
    size: int
    checksum: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job of whatever kind, owned by a worker as long as `token` stands in its row."""

    id: int
    token: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRef(Claim):
    """One attempt at a delivery job: what `finish` needs of it."""

    message_id: int
    deliveries: tuple[PendingDelivery, ...]
    reserved_bucket: int | None = None  # where its recipients count towards the account's daily limit
    partial: bool = False  # the limit had no room for all recipients: the others wait
    one_recipient: bool = False  # the message has no other, nor had it one
    in_doubt: InDoubtPolicy | None = None  # the message's own; None: the installation's


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJob(JobRef):
    """A delivery job that this worker owns, with all that sending needs.

    Its content is in `mime`, or, where it is large, still in the database: then `large` says which it is.
    """

    request_id: str
    account_id: int
    reverse_path: str
    mime: bytes = field(repr=False)
    smtputf8: bool
    accepted_at: Instant  # or its `not_before`, where that is later: the periods of retrying begin then
    drawn: int = 0  # refusals of the account that it drew, others having passed in between
    drawn_at: Instant | None = None  # the last one
    large: LargeContent | None = None
    traceparent: str | None = None  # W3C Trace Context, of the request that it was accepted with

    @property
    def size(self) -> int:
        """Octets of the message."""
        return len(self.mime) if self.large is None else self.large.size

    @property
    def octets_in_hand(self) -> int:
        """What it takes of the worker's memory."""
        return min(self.size, MOST_IN_MEMORY)
