"""Messages of test keys: ended as sent without a server, and read as the messages of an inbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from postroom.core import failpoint
from postroom.core.clock import Instant
from postroom.core.job import LargeContent
from postroom.core.stored_text import PIECE
from postroom.store.noun import Noun
from postroom.store.totals import TESTS_CAPTURED

CAPTURED = "kept in the inbox of the database: its key is a test key, and nothing was sent to a server"


class EndedCapture(NamedTuple):
    """A message of a test key that has just ended."""

    job_id: int
    message_id: int
    request_id: str
    reverse_path: str
    recipients: str


class _CaptureRow(NamedTuple):
    message_id: int
    request_id: str
    reverse_path: str
    subject: str
    size: int
    finished_at: Instant


@dataclass(frozen=True, slots=True)
class Captured:
    """A captured message, with its first octets or, where it was asked for, all of them."""

    request_id: str
    captured_at: Instant
    reverse_path: str
    forward_paths: tuple[str, ...]
    subject: str
    size: int
    mime: bytes


class Captures(Noun):
    def is_due(self, now: Instant) -> bool:
        """Whether there is a message to end."""
        return bool(self._tx.value(int, "capture_is_due", now=now))

    def end_due(self, now: Instant, most: int) -> list[EndedCapture]:
        """End up to `most` messages of all accounts, whatever the accounts' state: from queued to sent, in one transaction.

        There is no claim and so nothing to recover: a worker that dies has ended all of them or none.
        """
        ended = self._tx.rows(EndedCapture, "captures_due", now=now, most=most)
        for row in ended:
            self._tx.guard(self._tx.change("end_capture", job_id=row.job_id, now=now))
            self._tx.change("add_capture_events", message_id=row.message_id, now=now, detail=CAPTURED)
            self._tx.change("end_capture_deliveries", message_id=row.message_id, now=now)
            self._tx.log_lines.add(row.message_id)
            self._tx.events.tell_captured(row, now, CAPTURED)
        if ended:
            self._tx.totals.add(TESTS_CAPTURED, amount=len(ended))
        failpoint.hit("capture.inside")
        return ended

    def newest(self, most: int, *, octets: int) -> list[Captured]:
        """Return the captured messages that came last, the newest first, each with up to `octets` of its beginning."""
        return [self._read(row, octets) for row in self._tx.rows(_CaptureRow, "newest_captures", most=most)]

    def between(self, first: str, last: str, most: int) -> list[Captured]:
        """Return the captured messages with ids from `first` to `last`, without their content."""
        rows = self._tx.rows(_CaptureRow, "captures_between", first=first, last=last, most=most)
        return [self._read(row, 0) for row in rows]

    def whole(self, request_id: str) -> Captured | None:
        """Return a captured message with all of its content; None once that was pruned."""
        rows = self._tx.rows(_CaptureRow, "captures_between", first=request_id, last=request_id, most=1)
        return self._read(rows[0], rows[0].size) if rows else None

    def _read(self, row: _CaptureRow, octets: int) -> Captured:
        content = LargeContent(row.message_id, row.size, None)
        pieces = [self._tx.contents.piece(content, number) for number in range(-(-octets // PIECE))]
        return Captured(
            request_id=row.request_id,
            captured_at=row.finished_at,
            reverse_path=row.reverse_path,
            forward_paths=tuple(self._tx.column(str, "forward_paths_of", message_id=row.message_id)),
            subject=row.subject,
            size=row.size,
            mime=b"".join(pieces)[:octets],
        )
