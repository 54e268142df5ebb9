"""The values of a message: as submitted (Submission), as stored (NewMessage), and as reported (MessageStatus)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from postroom.core.account import Account
from postroom.core.api_key import ApiKey
from postroom.core.clock import Instant
from postroom.core.status_word import StatusWord


class InDoubtPolicy(Enum):
    """What is done with a message whose final dot was sent and whose reply never came (POSTROOM_IN_DOUBT)."""

    RETRY = "retry"  # send again; a possible duplicate, and flagged as one
    HOLD = "hold"  # wait for a person
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to send, before acceptance. `recipients` are as the client wrote them."""

    account: Account
    recipients: tuple[str, ...]
    subject: str
    body: str
    is_html: bool = False
    idempotency_key: str | None = None
    in_doubt: InDoubtPolicy | None = None  # None: the service's setting
    key: ApiKey | None = None  # None: a person at the command line
    in_reply_to: str | None = None  # the Message-ID of the message that this one answers
    idempotency_account: int | None = None  # where the idempotency key stands; None: it is the account's
    sender: str | None = None  # the From, as the client wrote it; None: the account's mailbox
    aliases: tuple[str, ...] = ()  # of the account: what else its From may be
    references: tuple[str, ...] = ()  # Message-IDs of the thread, oldest first
    traceparent: str | None = None  # W3C Trace Context, of the request


@dataclass(frozen=True, slots=True)
class NewMessage:
    """All that acceptance commits in one transaction: content and envelope, final."""

    request_id: str
    account_id: int
    reverse_path: str
    forward_paths: tuple[str, ...]
    subject: str
    mime: bytes = field(repr=False)
    smtputf8: bool
    accepted_at: Instant
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    in_doubt: InDoubtPolicy | None = None
    not_before: Instant | None = None  # nothing is sent before; None: at once
    key: ApiKey | None = None  # that must still work when the message is committed
    idempotency_account: int | None = None  # where the idempotency key stands; None: it is the account's
    traceparent: str | None = None  # W3C Trace Context, of the request

    @property
    def is_test(self) -> bool:
        """Whether it goes no further than the inbox in the database."""
        return self.key is not None and self.key.is_test


@dataclass(frozen=True, slots=True)
class Accepted:
    """The result of `accept`: the message is durable under this id.

    `replayed` is True when the same idempotency key had been accepted before.
    """

    request_id: str
    replayed: bool = False


class MessageState(Enum):
    """The state of a message in `GET /email-status`, before any reason is added."""

    QUEUED = "queued"
    SENDING = "sending"
    DEFERRED = "deferred"
    SENT = "sent"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class MessageStatus:
    """The present state of a message, with the server's own words where there are any.

    `will_send_at` is the next time at which a waiting message can go, where that is not now.
    """

    request_id: str
    state: MessageState
    reason: str | None
    possible_duplicate: bool
    account_id: int
    will_send_at: Instant | None = None
    key_id: int | None = None  # the issued key that it was accepted with
    is_test: bool = False
    sender: str = ""  # the mailbox that it is sent from
    is_held: bool = False  # waits for a person
    not_before: Instant | None = None  # nothing is sent before; None: at once
    was_deferred: bool = False  # a recipient that still waits has a reason of its own

    def word(self, now: Instant) -> StatusWord:
        """Return its status in one word."""
        if self.is_held:
            return StatusWord.HELD
        waits = self.state in (MessageState.QUEUED, MessageState.DEFERRED)
        if waits and not self.was_deferred and self.not_before is not None and self.not_before > now:
            return StatusWord.SCHEDULED
        return StatusWord(self.state.value)

    def __str__(self) -> str:
        return f"{self.state.value} ({self.reason})" if self.reason else self.state.value
