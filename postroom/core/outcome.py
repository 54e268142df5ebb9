"""Values of a result: the server's reply (`Reply`), and a recipient's outcome: Sent, Deferred, Failed, InDoubt."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


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


def blame_of(outcome: Outcome | None) -> Blame | None:
    """Return who caused a result; a connection that broke after the dot caused a doubt. None: nobody is to blame."""
    if outcome is None or isinstance(outcome, Sent):
        return None
    return Blame.CONNECTION if isinstance(outcome, InDoubt) else outcome.blame
