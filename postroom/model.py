"""The glossary as code: frozen values that move through Postroom.

Times are `Instant`s: integers of microseconds since the epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import TypeAlias

Instant: TypeAlias = int
Clock: TypeAlias = Callable[[], Instant]

SECOND = 1_000_000


def system_clock() -> Instant:
    """Return the present, in microseconds since the epoch."""
    return time.time_ns() // 1000


def rfc3339(at: Instant) -> str:
    """Return a time in UTC, to the millisecond (RFC 3339)."""
    moment = datetime.fromtimestamp(at / SECOND, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Security(Enum):
    """How a connection to an SMTP server is protected."""

    STARTTLS = "starttls"  # RFC 3207
    TLS = "tls"  # RFC 8314 §3.3: TLS from the first byte
    NONE = "none"  # loopback only, unless forced


class InDoubtPolicy(Enum):
    """What becomes of a message whose final dot went out and whose reply never came."""

    RETRY = "retry"  # send again; a possible duplicate, and flagged as one
    HOLD = "hold"  # wait for a person
    FAIL = "fail"


class Secret:
    """Text that must never be printed. `reveal()` is the only way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__


class AccountState(Enum):
    ACTIVE = "active"
    PARKED = "parked"  # its limits are reached; resumes by itself at `resume_at`
    PAUSED = "paused"  # its credentials or server are at fault; resumes when they change or a probe succeeds


@dataclass(frozen=True, slots=True)
class ServerLacks:
    """What the server of an account offers and does not take, by what it said, and since when that is known."""

    server: str  # host:port
    extensions: tuple[str, ...]
    said: str
    since: Instant


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox that we send through, with its server and credentials.

    Fields that are None were not given for this account: the configured server,
    or the preset of the sender's domain, fills them (`providers.server_for`).
    """

    id: int
    email: str
    name: str = ""
    host: str | None = None
    port: int | None = None
    security: Security | None = None
    username: str | None = None
    password: Secret = field(default=Secret(""), repr=False)
    daily_limit: int | None = None
    connections: int | None = None
    logins_per_minute: int | None = None
    pipelining: bool | None = None
    chunking: bool | None = None
    state: AccountState = AccountState.ACTIVE
    state_reason: str | None = None
    state_since: Instant | None = None
    resume_at: Instant | None = None
    worked_at: Instant | None = None
    worked_with: str | None = None  # the server's host, where nobody has named it and no preset knows it
    passed_at: Instant | None = None  # when a message last showed that it goes on after it was set aside
    gap: int | None = None  # between messages, in microseconds; None: as fast as it goes
    paid_until: Instant | None = None  # nothing is claimed before, by that pace
    server_lacks: ServerLacks | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to send, before acceptance. `recipients` are as the client wrote them."""

    account: Account
    recipients: tuple[str, ...]
    subject: str
    body: str
    is_html: bool = False
    idempotency_key: str | None = None
    in_doubt: InDoubtPolicy | None = None  # None: as the service has it


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


@dataclass(frozen=True, slots=True)
class Accepted:
    """What `accept` gives back: the message is durable under this id.

    `replayed` is True when the same idempotency key had been accepted before.
    """

    request_id: str
    replayed: bool = False


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


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A delivery job that this worker owns as long as `token` stands in its row.

    Its content is in `mime`, or, where it is large, still in the database: then `large` says which it is.
    """

    id: int
    token: int
    attempt: int
    message_id: int
    request_id: str
    account_id: int
    reverse_path: str
    deliveries: tuple[PendingDelivery, ...]
    mime: bytes = field(repr=False)
    smtputf8: bool
    accepted_at: Instant
    reserved_slot: int | None = None  # where its recipients count towards the account's daily limit
    in_doubt: InDoubtPolicy | None = None
    partial: bool = False  # the limit had no room for all recipients: the others wait
    one_recipient: bool = False  # the message has no other, nor had it one
    drawn: int = 0  # refusals of the account that it drew, others having passed in between
    drawn_at: Instant | None = None  # the last one
    large: LargeContent | None = None

    @property
    def size(self) -> int:
        """Octets of the message."""
        return len(self.mime) if self.large is None else self.large.size

    @property
    def octets_in_hand(self) -> int:
        """What it takes of the worker's memory."""
        return min(self.size, MOST_IN_MEMORY)


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's reply (RFC 5321 §4.2): code, enhanced status code (RFC 3463), text.

    `text` is the lines without their codes, joined by line feeds; it is the
    server's, so it may say anything.
    """

    code: int
    text: str
    enhanced: str | None = None

    @property
    def positive(self) -> bool:
        return 200 <= self.code < 300

    @property
    def transient(self) -> bool:
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        return 500 <= self.code < 600

    def __str__(self) -> str:
        text = self.text.replace("\n", " ")
        return " ".join(filter(None, (str(self.code), self.enhanced, text)))


class Blame(Enum):
    """Who caused a result that is not `Sent`; decides what happens next."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    CONNECTION = "connection"
    ACCOUNT = "account"


class Meaning(Enum):
    """What a refusal says, and of whom (`replies.read`)."""

    LIMIT = "limit"  # the account has used up what it may send for now: keep its messages, count no attempt
    RATE = "rate"  # too fast: the same for seconds to minutes, and slower afterwards
    ACCOUNT = "account"  # blocked, misconfigured, or not entitled to its own address: pause it
    CONNECTIONS = "connections"  # no more connections just now: use those that are open, count no attempt
    SESSION = "session"  # this connection has done enough: go on at once over a new one, count no attempt
    RECIPIENT = "recipient"  # this recipient alone; the basic code decides between deferred and failed
    MESSAGE = "message"  # this message alone; the same
    LATER = "later"  # an ordinary retry


@dataclass(frozen=True, slots=True)
class Sent:
    """The next hop answered 2xx after the dot."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now. `burns_attempt` is False where the message itself was not at fault."""

    reason: str
    blame: Blame
    reply: Reply | None = None
    burns_attempt: bool = True
    meaning: Meaning | None = None  # of `reply`
    period: int | None = None  # that the reply speaks of, in microseconds


@dataclass(frozen=True, slots=True)
class Failed:
    """Never."""

    reason: str
    blame: Blame
    reply: Reply | None = None
    meaning: Meaning | None = None  # of `reply`


@dataclass(frozen=True, slots=True)
class InDoubt:
    """The dot went out and no reply to it came back: the server may or may not have the message."""

    reason: str


Outcome: TypeAlias = Sent | Deferred | Failed | InDoubt


class MessageState(Enum):
    """What `GET /email-status` says, before any reason is added."""

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

    def __str__(self) -> str:
        return f"{self.state.value} ({self.reason})" if self.reason else self.state.value
