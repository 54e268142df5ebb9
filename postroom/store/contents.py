"""Contents of messages: whole, or in pieces where they are large; written, read and dropped."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.core.job import LargeContent
from postroom.core.stored_text import PIECE
from postroom.store.noun import Noun


class _Kept(NamedTuple):
    message_id: int
    size: int


class Contents(Noun):
    def add_piece(self, upload_id: int, *, number: int, octets: bytes, now: Instant) -> None:
        """Store the next piece of a large content."""
        if number == 0:
            self._tx.change("begin_upload", upload=upload_id, now=now)
        self._tx.change("add_piece", upload=upload_id, number=number, octets=octets)

    def drop_upload(self, upload_id: int) -> None:
        """Drop the pieces of a content whose message is not accepted; those of one that is stay."""
        if self._tx.change("end_upload", upload=upload_id):
            self._tx.change("delete_pieces", upload=upload_id)

    def delete(self, message_id: int) -> None:
        """Drop a message's content."""
        self._tx.change("delete_pieces_of", message_id=message_id)
        self._tx.change("delete_pieced_content", message_id=message_id)
        self._tx.change("delete_content", message_id=message_id)

    def find(self, request_id: str) -> LargeContent | None:
        """Return which content a message has, for `piece`; None where it is not kept any more."""
        row = self._tx.row(_Kept, "kept_content", request_id=request_id)
        return None if row is None else LargeContent(row.message_id, row.size, None)

    def piece(self, content: LargeContent, number: int) -> bytes:
        """Return the piece with this number, from 0, of a large content; nothing where there is none."""
        piece = self._tx.value(bytes, "piece_of", message_id=content.message_id, number=number)
        if piece is None:  # it was stored as a whole
            first = number * PIECE + 1
            piece = self._tx.value(bytes, "part_of", message_id=content.message_id, first=first, octets=PIECE)
        return piece if piece is not None else b""
