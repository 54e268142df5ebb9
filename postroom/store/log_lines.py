"""The outbox of email_log.txt in the database: one line for each finished message, none twice after a crash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.core.errors import LeaseLost
from postroom.core.message import MessageState
from postroom.store.messages import DeliveryState, overall
from postroom.store.noun import Noun


@dataclass(frozen=True, slots=True)
class LogLine:
    """One finished message, as email_log.txt wants it."""

    message_id: int
    request_id: str
    sender: str
    recipients: tuple[str, ...]
    accepted_at: Instant
    status: str


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Lines that were on their way into the file, from this offset in bytes."""

    id: int
    start: int
    lines: tuple[LogLine, ...]


class _LogLineRow(NamedTuple):
    """A line with one of its recipients."""

    message_id: int
    request_id: str
    reverse_path: str
    accepted_at: Instant
    forward_path: str
    state: str
    reason: str | None


class _Batch(NamedTuple):
    id: int
    start: int


class LogLines(Noun):
    def add(self, message_id: int) -> None:
        """Have a line written for a message that has ended."""
        self._tx.change("insert_log_line", message_id=message_id)

    def unwritten(self, most: int) -> list[LogLine]:
        """Return the oldest lines that are not written."""
        return _log_lines(self._tx.rows(_LogLineRow, "unwritten_log_lines", count=most))

    def open_batch(self, writer: str) -> LogBatch | None:
        """Return the batch of log lines that this writer's crash may have left half written, if there is one."""
        batch = self._tx.row(_Batch, "open_log_batch", writer=writer)
        if batch is None:
            return None
        lines = _log_lines(self._tx.rows(_LogLineRow, "log_lines_of_batch", batch=batch.id))
        return LogBatch(batch.id, batch.start, tuple(lines))

    def begin_batch(self, *, start: int, messages: Sequence[int], writer: str) -> int:
        """Note at which byte of the writer's file these messages' lines are about to be written; return the batch's id.

        Raises LeaseLost when another writer has taken one of them.
        """
        batch = self._tx.value(int, "begin_log_batch", start=start, writer=writer)
        assert batch is not None
        if self._tx.count_changed("add_to_log_batch", batch=batch, messages=json.dumps(messages)) != len(
            messages
        ):
            raise LeaseLost
        return batch

    def end_batch(self, batch: int) -> None:
        """Forget a batch whose lines are safely in the file."""
        self._tx.change("delete_log_lines", batch=batch)
        self._tx.change("delete_log_batch", batch=batch)

    def take_back_batch(self, batch: int) -> None:
        """Forget a batch of which nothing came into the file; its lines are unwritten again."""
        self._tx.change("return_log_lines", batch=batch)
        self._tx.change("delete_log_batch", batch=batch)


def _log_lines(rows: Sequence[_LogLineRow]) -> list[LogLine]:
    """Gather the rows of each line, of which there is one for each recipient."""
    return [_log_line(list(of_one)) for _, of_one in groupby(rows, key=lambda row: row.message_id)]


def _log_line(rows: Sequence[_LogLineRow]) -> LogLine:
    first = rows[0]
    deliveries = [DeliveryState(row.forward_path, row.state, row.reason, 0) for row in rows]
    state, reason = overall("done", deliveries)
    if any(row.state == "cancelled" for row in rows):
        state = MessageState.CANCELLED
    status = f"{state.value} ({reason})" if reason else state.value
    recipients = tuple(row.forward_path for row in rows)
    return LogLine(
        first.message_id, first.request_id, first.reverse_path, recipients, first.accepted_at, status
    )
