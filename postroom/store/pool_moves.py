"""Moves a message of a pool to another member before anything of it was sent: job, envelope and From, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from postroom.core import failpoint
from postroom.core.clock import Instant
from postroom.core.events import EventKind, NewEvent
from postroom.store.envelopes import envelope_checksum
from postroom.store.noun import Noun


class StuckMember(NamedTuple):
    """An account of a pool that sends nothing for a while, and why."""

    account_id: int
    email: str
    reason: str


class MovableJob(NamedTuple):
    """A message of a pool that waits, and of which certainly nothing was sent."""

    job_id: int
    message_id: int
    request_id: str
    pool_id: int
    recipients: int
    size: int
    smtputf8: int
    checksum: int | None
    is_pieced: int


@dataclass(frozen=True, slots=True)
class Move:
    """A message as it goes by another account. `beginning`: all of its content, or the first piece of a large one."""

    job: MovableJob
    former: StuckMember
    account_id: int
    reverse_path: str
    smtputf8: bool
    beginning: bytes
    size: int
    checksum: int  # of the whole content


class PoolMoves(Noun):
    def stuck(self, soon: Instant) -> list[StuckMember]:
        """Return the members with messages that wait for an account until after `soon`."""
        return self._tx.rows(StuckMember, "stuck_members", soon=soon)

    def movable(self, account_id: int, most: int) -> list[MovableJob]:
        """Return the first messages of pools that wait for an account."""
        return self._tx.rows(MovableJob, "movable_jobs", account_id=account_id, most=most)

    def move(self, move: Move, now: Instant) -> None:
        """Give a message to another account. Raises LeaseLost where it is claimed, over, in doubt, or changed meanwhile."""
        job = move.job
        self._tx.accounts.lock(move.account_id)
        former = move.former.account_id
        self._tx.guard(
            self._tx.change("move_job", job_id=job.job_id, account_id=move.account_id, former=former, now=now)
        )
        self._tx.guard(
            self._tx.change(
                "move_message",
                message_id=job.message_id,
                account_id=move.account_id,
                former=former,
                reverse_path=move.reverse_path,
                size=move.size,
                smtputf8=int(move.smtputf8),
            )
        )
        failpoint.hit("pool_move.inside")
        self._replace_content(move)
        for recipient in self._tx.queue.pending(job.message_id):
            checksum = envelope_checksum(move.reverse_path, recipient.forward_path, move.checksum)
            self._tx.change("move_delivery", delivery_id=recipient.id, checksum=checksum)
        detail = f"from {move.former.email} to {move.reverse_path}: {move.former.reason}"
        self._tx.events.append(job.message_id, NewEvent(EventKind.MOVED, None, detail), now)
        self._tx.accepted[former] -= 1
        self._tx.accepted[move.account_id] += 1
        self._tx.has_new_work = True

    def _replace_content(self, move: Move) -> None:
        id_, known = move.job.message_id, move.job.checksum
        if not move.job.is_pieced:
            self._tx.guard(
                self._tx.change(
                    "move_content", message_id=id_, mime=move.beginning, checksum=move.checksum, known=known
                )
            )
            return
        self._tx.guard(
            self._tx.change("move_pieced_content", message_id=id_, checksum=move.checksum, known=known)
        )
        self._tx.guard(self._tx.change("move_first_piece", message_id=id_, octets=move.beginning))
