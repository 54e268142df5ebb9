"""Events of messages in the database, appended in the transaction that causes them; read by `postroom status`."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.core.events import NewEvent
from postroom.store.noun import Noun
from postroom.store.totals import EVENTS


class Event(NamedTuple):
    """Something that happened to a message, or to one delivery of it."""

    at: Instant
    kind: str
    forward_path: str | None
    detail: str | None


class Events(Noun):
    def append(self, message_id: int, event: NewEvent, now: Instant) -> None:
        """Append an event; its transaction is the one that causes it."""
        self._tx.change(
            "insert_event",
            message_id=message_id,
            delivery_id=event.delivery_id,
            at=now,
            kind=event.kind.value,
            detail=event.detail,
        )
        self._tx.totals.add(EVENTS, event.kind.value)

    def of_message(self, request_id: str) -> list[Event]:
        """Return everything that happened to a message, oldest first."""
        message_id = self._tx.value(int, "message_id", request_id=request_id)
        return [] if message_id is None else self._tx.rows(Event, "events_of", message_id=message_id)
