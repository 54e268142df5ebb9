"""Gives messages of a pool to other members where their account sends nothing for a while; never one that is in doubt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final
from zlib import crc32

from postroom.accounts.pool_accounts import PoolAccounts
from postroom.core import failpoint
from postroom.core.account import Account
from postroom.core.address import Mailbox, parse_mailbox
from postroom.core.clock import SECOND, Clock
from postroom.core.job import LargeContent
from postroom.core.text import counted
from postroom.mime.message import gate, is_answer, with_sender
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.contents import Contents
from postroom.store.pool_moves import MovableJob, Move, PoolMoves, StuckMember
from postroom.store.store import Store
from postroom.store.transaction import work

log = logging.getLogger(__name__)

_BATCH: Final = 25  # of which each may have half a megabyte in memory
_LEAST_WAIT: Final = 60 * SECOND  # a shorter rest is waited for
_AGAIN_S: Final = 60.0  # before an account is looked at again of which nothing could be moved


class PoolFailover:
    """Looks for such accounts, and moves their messages one by one, each in a transaction of its own."""

    def __init__(
        self, settings: Settings, store: Store, clock: Clock, is_stopping: Callable[[], bool]
    ) -> None:
        self._store = store
        self._clock = clock
        self._is_stopping = is_stopping
        self._pools = PoolAccounts(store, settings, self._account, clock)
        self._not_before: dict[int, float] = {}  # accounts of which nothing could be moved

    def _account(self, account_id: int) -> Account | None:
        stored = self._store.read(Accounts.get, account_id)
        return None if stored is None else stored.account

    def run(self) -> None:
        """Move what can be moved now."""
        for member in self._store.read(PoolMoves.stuck, self._clock() + _LEAST_WAIT):
            if self._not_before.get(member.account_id, 0.0) > time.monotonic():
                continue
            moved = self._move_all(member)
            if moved:
                log.info(
                    "%s of %s sent by other accounts of its pool: %s",
                    counted(moved, "message is", "messages are"),
                    member.email,
                    member.reason,
                )
            else:
                self._not_before[member.account_id] = time.monotonic() + _AGAIN_S

    def _move_all(self, member: StuckMember) -> int:
        moved, seen = 0, set[int]()
        while not self._is_stopping():
            jobs = self._store.read(PoolMoves.movable, member.account_id, _BATCH + len(seen))
            fresh = [job for job in jobs if job.job_id not in seen]
            if not fresh:
                break
            seen.update(job.job_id for job in fresh)
            moves = [move for job in fresh if (move := self._move_of(job, member)) is not None]
            results = self._store.write_all([work(PoolMoves.move, move, self._clock()) for move in moves])
            failpoint.hit("pool_move.committed")
            moved += sum(result.error is None for result in results)
        return moved

    def _move_of(self, job: MovableJob, member: StuckMember) -> Move | None:
        """Return how a message goes by another account; None: it stays, for none can send, or it belongs to a thread."""
        if job.checksum is None:
            return None
        content = LargeContent(job.message_id, job.size, job.checksum)
        first = self._store.read(Contents.piece, content, 0)
        if is_answer(first):
            return None
        account = self._other(job, member)
        if account is None:
            return None
        sender = parse_mailbox(account.email)
        smtputf8 = bool(job.smtputf8) or sender.smtputf8
        try:
            beginning = _with_sender(first, account.name, sender, smtputf8=smtputf8)
        except ValueError:
            log.warning("%s cannot go by another account: its From cannot be replaced", job.request_id)
            return None
        known = new = 0
        for piece in self._pieces(content, first):
            known, new = crc32(piece, known), crc32(beginning if piece is first else piece, new)
        if known != job.checksum:  # damaged: it fails where it is
            return None
        return Move(
            job=job,
            former=member,
            account_id=account.id,
            reverse_path=sender.path,
            smtputf8=smtputf8,
            beginning=beginning,
            size=job.size + len(beginning) - len(first),
            checksum=new,
        )

    def _pieces(self, content: LargeContent, first: bytes) -> Iterator[bytes]:
        yield first
        size, number = len(first), 1
        while size < content.size:
            piece = self._store.read(Contents.piece, content, number)
            if not piece:
                return
            yield piece
            size, number = size + len(piece), number + 1

    def _other(self, job: MovableJob, member: StuckMember) -> Account | None:
        if not self._pools.is_fresh(job.pool_id):
            self._pools.refresh(job.pool_id)
        return self._pools.choose_able(job.pool_id, recipients=job.recipients, but=member.account_id)


def _with_sender(first: bytes, name: str, sender: Mailbox, *, smtputf8: bool) -> bytes:
    """Return the beginning of a content with another From. Raises ValueError where that cannot be sent safely."""
    beginning = with_sender(first, name, sender)
    head, end, _ = beginning.partition(b"\r\n\r\n")
    gate(head + end, smtputf8=smtputf8)
    return beginning
