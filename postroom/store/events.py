"""Events of messages in the database, appended in the transaction that causes them; read by `postroom status`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from postroom.core.clock import Instant
from postroom.core.decide import Decision
from postroom.core.dialogue import AttemptRecord
from postroom.core.events import EventKind, EventListener, Happened, NewEvent
from postroom.core.job import ClaimedJob, JobRef
from postroom.core.message import NewMessage
from postroom.core.outcome import blame_of
from postroom.store.noun import Noun
from postroom.store.totals import EVENTS

if TYPE_CHECKING:
    from postroom.store.captures import EndedCapture

log = logging.getLogger(__name__)


class Event(NamedTuple):
    """Something that happened to a message, or to one delivery of it."""

    at: Instant
    kind: str
    forward_path: str | None
    detail: str | None


class _Names(NamedTuple):
    """What an event of a message is told with, where its transaction does not know it."""

    request_id: str
    reverse_path: str
    traceparent: str | None


def tell(listener: EventListener | None, happened: Sequence[Happened]) -> None:
    """Tell what is committed. A listener's fault is no reason to say that it is not."""
    if listener is None or not happened:
        return
    try:
        listener(happened)
    except Exception:
        log.exception("a listener to events has failed")


class Events(Noun):
    def append(self, message_id: int, event: NewEvent, now: Instant) -> None:
        """Append an event that no attempt has caused; its transaction is the one that causes it."""
        self.insert(message_id, event, now)
        if self._tx.happened is not None:
            names = self._names(message_id)
            paths = self._forward_paths(message_id, event.delivery_id)
            self._tx.happened.append(
                Happened(
                    event.kind,
                    now,
                    names.request_id,
                    names.reverse_path,
                    paths,
                    event.delivery_id,
                    detail=event.detail,
                    traceparent=names.traceparent,
                )
            )

    def insert(self, message_id: int, event: NewEvent, now: Instant) -> None:
        """Append an event; the caller tells it to those who listen."""
        self._tx.change(
            "insert_event",
            message_id=message_id,
            delivery_id=event.delivery_id,
            at=now,
            kind=event.kind.value,
            detail=event.detail,
        )
        self._tx.totals.add(EVENTS, event.kind.value)

    def tell_accepted(self, message: NewMessage) -> None:
        if self._tx.happened is not None:
            self._tx.happened.append(
                Happened(
                    EventKind.ACCEPTED,
                    message.accepted_at,
                    message.request_id,
                    message.reverse_path,
                    message.forward_paths,
                    traceparent=message.traceparent,
                )
            )

    def tell_attempt(
        self, job: JobRef, decision: Decision, began_at: Instant, now: Instant, record: AttemptRecord
    ) -> None:
        """Tell the events of an attempt."""
        happened = self._tx.happened
        if happened is None or not decision.events:
            return
        if isinstance(job, ClaimedJob):  # mypy would not know it in one line
            names = _Names(job.request_id, job.reverse_path, job.traceparent)
        else:
            names = self._names(job.message_id)
        paths = {delivery.id: delivery.forward_path for delivery in job.deliveries}
        replies = {result.id: result.reply for result in decision.deliveries}
        blame = blame_of(decision.outcome)
        for event in decision.events:
            id_ = event.delivery_id
            happened.append(
                Happened(
                    event.kind,
                    now,
                    names.request_id,
                    names.reverse_path,
                    tuple(paths.values()) if id_ is None else (paths[id_],),
                    id_,
                    job.attempt,
                    event.detail,
                    None if id_ is None else replies.get(id_),
                    None if event.kind is EventKind.SENT else blame,
                    record.phase,
                    began_at,
                    names.traceparent,
                    record.dialogue,
                )
            )

    def tell_captured(self, row: EndedCapture, now: Instant, detail: str) -> None:
        """Tell the end of a message of a test key: one event for all of its recipients."""
        if self._tx.happened is not None:
            paths = self._forward_paths(row.message_id, None)
            self._tx.happened.append(
                Happened(
                    EventKind.SENT,
                    now,
                    row.request_id,
                    row.reverse_path,
                    paths,
                    detail=detail,
                    traceparent=self._names(row.message_id).traceparent,
                )
            )

    def _names(self, message_id: int) -> _Names:
        names = self._tx.row(_Names, "names_of_message", message_id=message_id)
        assert names is not None
        return names

    def _forward_paths(self, message_id: int, delivery_id: int | None) -> tuple[str, ...]:
        return tuple(
            self._tx.column(str, "recipients_of_event", message_id=message_id, delivery_id=delivery_id)
        )

    def of_message(self, request_id: str) -> list[Event]:
        """Return everything that happened to a message, oldest first."""
        message_id = self._tx.value(int, "message_id", request_id=request_id)
        return [] if message_id is None else self._tx.rows(Event, "events_of", message_id=message_id)
