"""Stores large contents in pieces, each in a commit of its own, before the message is accepted.

A commit holds the database for as long as the disk takes to flush it. In pieces, a message of 25 MB keeps nobody else's
commit waiting for longer than one of them, and neither the driver nor the database's log has it in memory as a whole.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from os import register_at_fork
from typing import TYPE_CHECKING, Protocol, TypeVar
from zlib import crc32

from postroom.core import failpoint
from postroom.core.errors import CommitUnknown, LeaseLost, StoreError, StoreUnavailable
from postroom.core.message import Accepted, NewMessage
from postroom.core.stored_text import PIECE
from postroom.store.acceptance import Acceptance, IdempotencyClash, Upload
from postroom.store.contents import Contents
from postroom.store.transaction import work

if TYPE_CHECKING:
    from postroom.store.writer import Work

T = TypeVar("T")


class Write(Protocol):
    """Commits a piece of work, and returns what it returned: `Store.write`, or a caller's own way."""

    def __call__(self, work: Work[T], /) -> T: ...


_ids = random.Random()  # noqa: S311  # they must differ, not be secret
register_at_fork(after_in_child=_ids.seed)


def accept_message(message: NewMessage, write: Write) -> Accepted | IdempotencyClash:
    """Store a message and return once it is durable; what has more octets than a piece in pieces first.

    Raises StoreUnavailable when it was not stored, CommitUnknown when nobody can say.
    """
    if len(message.mime) <= PIECE:
        return write(work(Acceptance.accept, message))
    upload_id = _ids.getrandbits(62) + 1
    try:
        upload = _upload(upload_id, message, write)
        outcome = write(work(Acceptance.accept, message, upload))
    except CommitUnknown:
        raise
    except LeaseLost as error:
        raise StoreUnavailable("the message took too long to be stored; nothing of it is kept") from error
    except Exception:
        with suppress(StoreError):  # retention finds what is left
            write(work(Contents.drop_upload, upload_id))
        raise
    return outcome


def _upload(upload_id: int, message: NewMessage, write: Write) -> Upload:
    checksum = 0
    for number, piece in enumerate(_pieces(message.mime)):
        checksum = crc32(piece, checksum)
        try:
            write(work(Contents.add_piece, upload_id, number=number, octets=piece, now=message.accepted_at))
        except CommitUnknown as error:  # whatever became of the piece, its message is not accepted
            raise StoreUnavailable(str(error)) from error
        failpoint.hit("accept.piece")
    return Upload(upload_id, len(message.mime), checksum)


def _pieces(mime: bytes) -> Iterator[bytes]:
    for start in range(0, len(mime), PIECE):
        yield mime[start : start + PIECE]
