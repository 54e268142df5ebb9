"""Reaps dead workers and gives back their jobs: queued again, in doubt after the dot mark, or held."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from postroom.core import failpoint
from postroom.core.clock import Instant
from postroom.core.decide import WorkerEnd, decide_abandoned, decide_abandoned_chore
from postroom.core.job import Claim, JobRef, PendingDelivery
from postroom.core.message import InDoubtPolicy
from postroom.store.noun import Noun

log = logging.getLogger(__name__)


class _OwnedJob(NamedTuple):
    """A job that a worker has claimed, as the database has it."""

    id: int
    kind: str
    attempt: int
    message_id: int | None  # None: it is no delivery
    token: int
    claimed_at: Instant
    dot_at: Instant | None
    crashes: int
    reserved_bucket: int | None
    reserved: int | None  # of its recipients; None: all of them
    in_doubt: str | None


@dataclass(frozen=True, slots=True)
class AbandonedJob:
    """A job of a worker that is gone, and whether the worker may have died of it."""

    row: _OwnedJob
    is_suspect: bool


class Recovery(Noun):
    def reap(
        self,
        worker_id: int,
        *,
        now: Instant,
        in_doubt: InDoubtPolicy,
        lease: Instant | None = None,
        crashed: bool = True,
    ) -> int:
        """Take all jobs from a worker that is gone; return how many.

        With `lease`, the lease that ran out, only as long as the worker has not renewed it. One that has
        not `crashed` but signs off raises no suspicion against what it gives back.
        A job whose dot may have left is in doubt and treated by policy; the others are plain retries.
        """
        if not self.declare_gone(worker_id, now=now, lease=lease, crashed=crashed):
            return 0
        return self.recover_all(worker_id, now=now, in_doubt=in_doubt, crashed=crashed)

    def declare_gone(
        self, worker_id: int, *, now: Instant, lease: Instant | None = None, crashed: bool = True
    ) -> bool:
        """Let a worker claim nothing more; False when it has gone already, or has renewed this lease."""
        return bool(
            self._tx.change("reap_worker", worker_id=worker_id, now=now, lease=lease, crashed=int(crashed))
        )

    def recover_all(
        self, worker_id: int, *, now: Instant, in_doubt: InDoubtPolicy, crashed: bool = True
    ) -> int:
        """Take from a worker that was declared gone whatever it still owns; return how many jobs that were."""
        jobs = self.abandoned_jobs(worker_id)
        for job in jobs:
            self.recover(job, worker_id, now=now, in_doubt=in_doubt, crashed=crashed)
            failpoint.hit("recover.inside")
        return len(jobs)

    def gone_with_hands_full(self) -> list[int]:
        """Return the workers that were declared gone and still own jobs or connections."""
        return self._tx.column(int, "gone_with_hands_full")

    def take_back(
        self,
        worker_id: int,
        tokens: Collection[int],
        marked: Collection[int],
        *,
        now: Instant,
        in_doubt: InDoubtPolicy,
    ) -> int:
        """Give back jobs that the database has as a living worker's and the worker does not have; return how many.

        Those among `marked` are in doubt: their dot left, whatever the database has forgotten.
        """
        rows = [row for row in self._owned(worker_id) if row.token in tokens]
        for row in rows:
            forgotten = row.dot_at is None and row.token in marked
            job = AbandonedJob(row._replace(dot_at=now) if forgotten else row, is_suspect=False)
            self.recover(job, worker_id, now=now, in_doubt=in_doubt)
        self._tx.has_new_work = True
        return len(rows)

    def abandoned_jobs(self, worker_id: int) -> list[AbandonedJob]:
        """Return the jobs of a worker that is gone, and free its connections."""
        self._tx.change("return_connections_of", worker_id=worker_id)
        rows = self._owned(worker_id)
        suspicion = max((row.crashes for row in rows), default=0)
        self._tx.has_new_work = True
        # Where one was under suspicion, the others in hand are not: they only happened to be there.
        return [AbandonedJob(row, row.crashes == suspicion) for row in rows]

    def _owned(self, worker_id: int) -> list[_OwnedJob]:
        return self._tx.rows(_OwnedJob, "jobs_owned_by", worker_id=worker_id)

    def recover(
        self,
        abandoned: AbandonedJob,
        worker_id: int,
        *,
        now: Instant,
        in_doubt: InDoubtPolicy,
        crashed: bool = True,
    ) -> None:
        """Give one job of a worker that is gone back. Raises LeaseLost when it was given back already."""
        row = abandoned.row
        end = WorkerEnd(
            has_crashed=crashed,
            is_suspect=abandoned.is_suspect,
            dot_has_left=row.dot_at is not None,
            crashes=row.crashes,
        )
        if row.message_id is None:
            self._recover_chore(row, end, now)
            return
        pending = self._tx.queue.pending(row.message_id)
        taken = pending[: row.reserved]
        job = JobRef(
            id=row.id,
            token=row.token,
            attempt=row.attempt,
            message_id=row.message_id,
            deliveries=tuple(PendingDelivery(each.id, each.forward_path) for each in taken),
            reserved_bucket=row.reserved_bucket,
            partial=len(taken) < len(pending),
            in_doubt=None if row.in_doubt is None else InDoubtPolicy(row.in_doubt),
        )
        decision = decide_abandoned(job, end, in_doubt, now)
        self._tx.attempts.finish(job, decision, worker_id=worker_id, started_at=row.claimed_at, now=now)

    def _recover_chore(self, row: _OwnedJob, end: WorkerEnd, now: Instant) -> None:
        decision = decide_abandoned_chore(end, now)
        assert decision.next_try is not None
        claim = Claim(id=row.id, token=row.token, attempt=row.attempt)
        self._tx.attempts.requeue(claim, decision, decision.next_try, now)
        if decision.next_try.is_held:
            log.error(
                "held: workers have stopped %d times during %s; `postroom release --held`",
                end.crashes + 1,
                row.kind,
            )
