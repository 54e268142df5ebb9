"""Every kind of event of a message, with its fields: the store records them, and tells them to those who listen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

from postroom.core.clock import Instant
from postroom.core.outcome import Blame, Reply

SENT_AGAIN: Final = "it is sent again, and may arrive twice"


class EventKind(StrEnum):
    """The kind of an event; docs/api.md#events explains each."""

    ACCEPTED = "accepted"
    SENT = "sent"
    DEFERRED = "deferred"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    POSSIBLE_DUPLICATE = "possible_duplicate"
    CRASHED = "crashed"
    HELD = "held"
    RELEASED = "released"
    CANCELLED = "cancelled"
    MOVED = "moved"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Fields:
    """What an event has besides its message, its kind and its time."""

    of_recipient: bool  # it concerns one recipient, and names its delivery
    detail: str | None  # the meaning of the detail; None: there is none


FIELDS: Final[Mapping[EventKind, Fields]] = {
    EventKind.ACCEPTED: Fields(of_recipient=False, detail=None),
    EventKind.SENT: Fields(of_recipient=True, detail="the server's reply"),
    EventKind.DEFERRED: Fields(of_recipient=True, detail="the reason"),
    EventKind.FAILED: Fields(of_recipient=True, detail="the reason"),
    EventKind.IN_DOUBT: Fields(of_recipient=True, detail="why no answer is known"),
    EventKind.POSSIBLE_DUPLICATE: Fields(of_recipient=True, detail=SENT_AGAIN),
    EventKind.CRASHED: Fields(of_recipient=False, detail="what the worker did"),
    EventKind.HELD: Fields(of_recipient=False, detail="why it waits for a person"),
    EventKind.RELEASED: Fields(of_recipient=False, detail=None),
    EventKind.CANCELLED: Fields(of_recipient=False, detail=None),
    EventKind.MOVED: Fields(of_recipient=False, detail="from which mailbox of its pool to which, and why"),
    EventKind.ERASED: Fields(of_recipient=False, detail=None),
}


class NewEvent(NamedTuple):
    """An event of a message that is about to be recorded."""

    kind: EventKind
    delivery_id: int | None = None
    detail: str | None = None


def sent_again(delivery_id: int) -> NewEvent:
    """Return the event of a message that may have been sent and is sent again."""
    return NewEvent(EventKind.POSSIBLE_DUPLICATE, delivery_id, SENT_AGAIN)


class Happened(NamedTuple):
    """An event that is committed, with what its transaction knows of it."""

    kind: EventKind
    at: Instant
    request_id: str
    account: str  # the mailbox that the message is sent from
    recipients: tuple[str, ...]
    delivery_id: int | None = None
    attempt: int | None = None
    detail: str | None = None
    reply: Reply | None = None
    blame: Blame | None = None
    phase: str | None = None  # the verb of the step at which the attempt ended
    began_at: Instant | None = None  # the attempt
    traceparent: str | None = None  # W3C Trace Context, of the request that the message was accepted with
    dialogue: str | None = None  # of the attempt, as it is stored

    @property
    def id(self) -> str:
        """The same in every process that reads the event, and in no other event: it is made of its row's columns."""
        return f"{self.request_id}-{self.kind.value}-{self.delivery_id or 0}-{self.at}"


EventListener: TypeAlias = Callable[[Sequence[Happened]], None]
"""Is told what a transaction has caused, once it is committed, in the thread that has committed it."""
