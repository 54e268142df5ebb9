"""The values of notices: what was seen, what is remembered of it, and what is to be sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

from postroom.core.clock import Instant
from postroom.core.notices.kinds import Kind
from postroom.core.notices.quiet import QuietHours

MOST_EXAMPLES: Final = 3
MOST_CAUSES: Final = 50  # kept apart while they are counted
Key: TypeAlias = "tuple[Kind, str]"


@dataclass(frozen=True, slots=True)
class Seen:
    """A state that is wrong at a look: `subject` tells it from others of its kind."""

    kind: Kind
    subject: str
    since: Instant
    name: str  # of the subject, for people
    cause: str = ""
    effect: str = ""  # instead of the kind's own words
    fix: str = ""
    urgent: bool = False  # nothing at all is sent, or accepted
    account: str = ""  # the mailbox that cannot be used to tell of it


@dataclass(frozen=True, slots=True)
class Happened:
    """Something that happened so many times since the look before."""

    kind: Kind
    count: int
    since: Instant
    causes: Mapping[str, int]  # how many of those that were looked at have each cause
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the installation. A kind that is not in `known` could not be seen: nothing is concluded of it."""

    known: frozenset[Kind]
    seen: tuple[Seen, ...] = ()
    happened: tuple[Happened, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is remembered of one subject of a kind; of a kind that happens, what is not told yet."""

    kind: Kind
    subject: str
    first_at: Instant  # since when it is so
    noticed_at: Instant  # when it was first seen here
    last_at: Instant  # when it last happened; of a state, when it was noticed
    count: int = 1
    told_at: Instant | None = None
    ended_at: Instant | None = None  # it is over, and that is not told yet
    notice_id: str | None = None  # of the notice that told of it
    name: str = ""
    cause: str = ""
    effect: str = ""
    fix: str = ""
    urgent: bool = False
    is_worse: bool = False  # it was told, and has become urgent since
    account: str = ""
    causes: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether it is to be told, and is not yet."""
        return self.ended_at is None and (self.told_at is None or self.is_worse)


class Told(NamedTuple):
    """When a kind was last told of, for its window."""

    alert_at: Instant | None = None
    urgent_at: Instant | None = None
    recovery_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class State:
    """All that is remembered between two looks."""

    troubles: Mapping[Key, Trouble] = field(default_factory=dict)
    told: Mapping[Kind, Told] = field(default_factory=dict)

    def with_troubles(self, troubles: Mapping[Key, Trouble]) -> State:
        return replace(self, troubles=troubles)


class Event(StrEnum):
    """What a notice tells of its kind."""

    ALERT = "alert"
    RECOVERY = "recovery"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice to be sent: a title, a text, and fields for programs."""

    id: str
    kind: Kind | None  # None: a test
    event: Event
    at: Instant
    since: Instant
    count: int
    title: str
    text: str
    urgent: bool = False
    broken_accounts: tuple[str, ...] = ()  # mailboxes that cannot be used to tell of it
    nothing_is_sent: bool = False  # no message would get anywhere


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that decide when a notice is due."""

    kinds: frozenset[Kind]
    window: int  # at most one notice of a kind in it
    gather: int  # for how long nothing more has to happen before it is told
    quiet: QuietHours | None
    failed: int  # how many failed messages within a window are worth a notice


@dataclass(frozen=True, slots=True)
class Decision:
    """What one look leads to."""

    state: State
    notices: tuple[Notice, ...]
