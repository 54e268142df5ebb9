"""The account: a mailbox that messages are sent through, with its server, credentials, state and pace."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from postroom.core.clock import Instant


class Security(Enum):
    """How a connection to an SMTP server is protected."""

    STARTTLS = "starttls"  # RFC 3207
    TLS = "tls"  # RFC 8314 §3.3: TLS from the first byte
    NONE = "none"  # loopback only, unless forced


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
    """Extensions that an account's server offers and does not accept, with its words and the time."""

    server: str  # host:port
    extensions: tuple[str, ...]
    said: str
    since: Instant


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """What a person may set of an account, apart from the mailbox, the server and the secret."""

    name: str
    security: Security | None
    daily_limit: int | None
    connections: int | None
    logins_per_minute: int | None
    pipelining: bool | None
    chunking: bool | None


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
    uid: str = ""  # its id in the API
    source: str = "csv"  # csv: as data.csv says; api: managed at run time
    paused_by: str | None = None  # person or breaker
    dkim_selector: str | None = None
    closing_at: Instant | None = None  # when its deletion was asked for
    created_at: Instant = 0
    worked_with: str | None = None  # the server's host, where it is neither configured nor a preset
    passed_at: Instant | None = None  # when a message last showed that the account works again
    gap: int | None = None  # between messages, in microseconds; None: no pause
    paid_until: Instant | None = None  # no job is claimed before, by that pace
    server_lacks: ServerLacks | None = None
    hold: bool = False  # retention deletes nothing of its messages
    is_confined: bool = False  # to public addresses: a key without the scope admin has named its host
