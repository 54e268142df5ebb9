"""Jobs without a message, one of each kind for the installation: claimed by one worker at a time, due again and again."""

from __future__ import annotations

import os
import random
from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.core.job import Claim
from postroom.store.noun import Noun

_tokens = random.Random()  # noqa: S311  # claim tokens must differ, not be secret
os.register_at_fork(after_in_child=_tokens.seed)
_ONLY_LANE = 0


class _DueChore(NamedTuple):
    job_id: int
    attempt: int


class ChoreJobs(Noun):
    def call(self, kind: str, now: Instant) -> None:
        """Have the job of this kind be due at once, for a worker that starts; one that workers die of keeps its time."""
        self._tx.change("add_chore", kind=kind, lane=_ONLY_LANE, now=now)
        self._tx.change("call_chore", kind=kind, lane=_ONLY_LANE, now=now)

    def is_due(self, kind: str, now: Instant, latest: Instant) -> bool:
        """Whether it is due, or waits for a time after `latest`, which only a clock that was ahead can have set."""
        return bool(self._due(kind, now, latest))

    def claim(self, kind: str, worker_id: int, now: Instant, latest: Instant) -> Claim | None:
        """Take it where it is due (`is_due`); it is this worker's until it is put back. None: it is not due, or taken.

        Raises LeaseLost when another worker has taken it just now, and WorkerExpired as every claim does.
        """
        self._tx.workers.hold_alive(worker_id)
        for row in self._due(kind, now, latest):
            token = _tokens.getrandbits(62) + 1
            claimed = self._tx.change(
                "claim_job",
                job_id=row.job_id,
                token=token,
                worker_id=worker_id,
                now=now,
                reserved_bucket=None,
                reserved=None,
            )
            self._tx.guard(claimed)
            return Claim(id=row.job_id, token=token, attempt=row.attempt + 1)
        return None

    def _due(self, kind: str, now: Instant, latest: Instant) -> list[_DueChore]:
        return self._tx.rows(_DueChore, "chore_due", kind=kind, lane=_ONLY_LANE, now=now, latest=latest)

    def put_back(self, claim: Claim, due_at: Instant) -> None:
        """Queue it for its next time, free of suspicion. Raises LeaseLost when it is no longer this worker's."""
        moved = self._tx.change(
            "requeue_job", job_id=claim.id, token=claim.token, due_at=due_at, refund=claim.attempt, held=0
        )
        self._tx.guard(moved)
        self._tx.change("forget_crashes", job_id=claim.id)

    def release(self, now: Instant) -> int:
        """Let those go on that are held since workers died of them; return how many."""
        return self._tx.count_changed("release_chores", now=now)
