"""The queue of jobs: claims due jobs, commits the mark before the final dot, gives jobs back, repairs due times."""

from __future__ import annotations

import os
import random
from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.core.decide import STEP_BACK, SUSPECT, decide_damaged, decide_released
from postroom.core.job import MOST_IN_MEMORY, ClaimedJob, JobRef, LargeContent, PendingDelivery
from postroom.core.message import InDoubtPolicy
from postroom.store.envelopes import Recipient, damage
from postroom.store.noun import Noun
from postroom.store.usage import LONGEST_PARK, bucket_of

_tokens = random.Random()  # noqa: S311  # claim tokens must differ, not be secret; the system's own are slow
os.register_at_fork(after_in_child=_tokens.seed)
_LOADED_AT_ONCE = 65_536  # octets of a content that is loaded with its row; larger ones while they are sent
_ANY_SIZE = (1 << 63) - 1


class _DueJob(NamedTuple):
    """A job that is due, with its message and its first pending recipient."""

    job_id: int
    attempt: int
    message_id: int
    request_id: str
    reverse_path: str
    size: int
    smtputf8: int
    accepted_at: Instant
    mime: bytes | None
    checksum: int | None
    crashes: int
    in_doubt: str | None
    traceparent: str | None
    delivery_id: int
    forward_path: str
    envelope_checksum: int | None
    has_others: int
    due_at: Instant
    drawn: int
    drawn_at: Instant | None


class _Allowance(NamedTuple):
    """How many jobs and octets a claim may take, and how many recipients of the account's limit are left."""

    jobs: int
    octets: int
    first_octets: int
    daily_limit: int | None
    recipients_left: int | None


class Queue(Noun):
    def claim(
        self,
        *,
        account_id: int,
        worker_id: int,
        most: int,
        most_bytes: int,
        now: Instant,
        daily_limit: int | None = None,
        paced: bool = False,
        probing: bool = False,
        first_bytes: int = _ANY_SIZE,
    ) -> list[ClaimedJob]:
        """Take up to `most` due jobs of an account, oldest first; they are this worker's until finished.

        Stops before `most_bytes` of memory are exceeded, but takes one of up to `first_bytes`. A large content
        stays where it is until it is sent. With a `daily_limit` the recipients are reserved here, so that no
        number of workers exceeds it in any 24 hours; when none is left, the account is parked. `paced`: the
        account has a pace, which all workers share. `probing`: it is suspended, and one worker tries it. Of the
        messages that workers keep dying with, a worker has one at a time. Raises WorkerExpired when the
        worker has been declared gone: nobody would look for its jobs any more.
        """
        self._tx.workers.hold_alive(worker_id)
        is_shared = daily_limit is not None or paced
        if is_shared and not self._tx.accounts.try_lock(account_id):
            return []  # another worker reserves of the same limit just now
        if probing and not self._tx.accounts.take_probe(account_id, now):
            return []
        jobs = self._tx.pace.count_due(account_id, most, now) if paced else most
        if not jobs:
            return []
        left = None if daily_limit is None else daily_limit - self._tx.usage.recipients_used(account_id, now)
        return self._take(
            account_id, worker_id, _Allowance(jobs, most_bytes, first_bytes, daily_limit, left), now
        )

    def _take(self, account_id: int, worker_id: int, allowed: _Allowance, now: Instant) -> list[ClaimedJob]:
        due_from = self._tx.watermarks.of_account(account_id) if self._tx.watermarks else 0
        # While it has one in hand the others are passed over, and nobody knows from when on something is left.
        all_seen = self._tx.watermarks is not None and not self._has_suspect(worker_id)
        rows = self._tx.rows(
            _DueJob,
            "jobs_due",
            account_id=account_id,
            worker_id=worker_id,
            suspect=SUSPECT,
            due_from=due_from,
            now=now,
            count=allowed.jobs,
            most_loaded=_LOADED_AT_ONCE,
        )
        jobs = self._take_rows(rows, account_id, worker_id, allowed, now)
        if allowed.daily_limit is not None and jobs:
            self._tx.usage.reserve(account_id, sum(len(job.deliveries) for job in jobs), now)
        if all_seen:
            taken = {job.id for job in jobs}
            ends_at = rows[-1].due_at if len(rows) == allowed.jobs else now
            self._tx.left[account_id] = min(
                (row.due_at for row in rows if row.job_id not in taken), default=ends_at
            )
        return jobs

    def _take_rows(
        self, rows: list[_DueJob], account_id: int, worker_id: int, allowed: _Allowance, now: Instant
    ) -> list[ClaimedJob]:
        room, left = allowed.octets, allowed.recipients_left
        jobs: list[ClaimedJob] = []
        for row in rows:
            octets = min(row.size, MOST_IN_MEMORY)
            room -= octets
            if room < 0 and (jobs or octets > allowed.first_octets):
                break
            if left is not None and left <= 0:
                if not jobs:
                    self._tx.usage.park_until_room(account_id, allowed.daily_limit or 0, now)
                break
            job = self._claim_row(row, account_id, worker_id, now, left)
            if job is not None:
                jobs.append(job)
                left = None if left is None else left - len(job.deliveries)
        return jobs

    def _claim_row(
        self, row: _DueJob, account_id: int, worker_id: int, now: Instant, left: int | None
    ) -> ClaimedJob | None:
        if row.crashes >= SUSPECT and self._has_suspect(worker_id):
            return None
        pending = [Recipient(row.delivery_id, row.forward_path, row.envelope_checksum)]
        if row.has_others:
            pending = self.pending(row.message_id)
        taken = pending[:left]
        damaged = damage(row.reverse_path, taken, row.mime, row.checksum)
        bucket, reserved = (None, None) if left is None or damaged else (bucket_of(now), len(taken))
        token = _tokens.getrandbits(62) + 1
        claimed = self._tx.change(
            "claim_job",
            job_id=row.job_id,
            token=token,
            worker_id=worker_id,
            now=now,
            reserved_bucket=bucket,
            reserved=reserved,
        )
        self._tx.guard(claimed)
        job = _claimed(row, token, account_id, taken, bucket, partial=len(taken) < len(pending))
        if damaged:
            decision = decide_damaged(job, damaged, InDoubtPolicy.RETRY, now)
            self._tx.attempts.finish(job, decision, worker_id=worker_id, started_at=now, now=now)
            return None
        return job

    def _has_suspect(self, worker_id: int) -> bool:
        """Whether the worker has a message in hand that workers keep dying with."""
        return bool(self._tx.value(int, "suspect_in_hand", worker_id=worker_id, crashes=SUSPECT))

    def pending(self, message_id: int) -> list[Recipient]:
        """Return the recipients of a message that wait for their result."""
        return self._tx.rows(Recipient, "pending_deliveries", message_id=message_id)

    def mark_dot(self, job: JobRef, now: Instant) -> None:
        """Record that the final dot is about to leave. Raises LeaseLost when the job is no longer ours."""
        self._tx.guard(self._tx.change("mark_dot", job_id=job.id, token=job.token, now=now))

    def unmark_dot(self, job: JobRef) -> None:
        """Take the mark back: nothing was sent after all, and the job goes on over another connection."""
        self._tx.guard(self._tx.change("unmark_dot", job_id=job.id, token=job.token))

    def release(self, job: JobRef, now: Instant) -> None:
        """Give back a job of which nothing was sent; the attempt does not count."""
        self._tx.attempts.finish(job, decide_released(job, now), worker_id=0, started_at=now, now=now)

    def tokens_of(self, worker_id: int) -> set[int]:
        """Return the claim tokens of the jobs that the database has as this worker's."""
        return set(self._tx.column(int, "tokens_of", worker_id=worker_id))

    # -- times that a clock that was ahead has left

    def waits_too_long(self, now: Instant, longest_wait: Instant) -> bool:
        """Whether anything waits for a time that only a clock that was ahead can have set (`repair_due_times`)."""
        latest, latest_resume = now + longest_wait, now + LONGEST_PARK
        return bool(
            self._tx.value(
                int, "waits_too_long", soon=now + STEP_BACK, latest=latest, latest_resume=latest_resume
            )
        )

    def repair_due_times(self, now: Instant, longest_wait: Instant, most: int) -> int:
        """Put right what a clock that was ahead has left: jobs due, and accounts suspended, until too far a time.

        No job waits longer than `longest_wait` for its next try, nor an account longer than the day
        of its limit. Returns how many jobs had to, up to `most`: then there may be more.
        """
        self._tx.change("repair_resume_times", now=now, latest=now + LONGEST_PARK)
        self._tx.has_new_work = True
        return self._tx.count_changed(
            "repair_due_times",
            now=now,
            soon=now + STEP_BACK,
            latest=now + longest_wait,
            latest_resume=now + LONGEST_PARK,
            count=most,
        )


def _claimed(
    row: _DueJob,
    token: int,
    account_id: int,
    taken: list[Recipient],
    bucket: int | None,
    *,
    partial: bool,
) -> ClaimedJob:
    return ClaimedJob(
        id=row.job_id,
        token=token,
        attempt=row.attempt + 1,
        message_id=row.message_id,
        request_id=row.request_id,
        account_id=account_id,
        reverse_path=row.reverse_path,
        deliveries=tuple([PendingDelivery(each.id, each.forward_path) for each in taken]),
        mime=row.mime or b"",
        smtputf8=bool(row.smtputf8),
        accepted_at=row.accepted_at,
        reserved_bucket=bucket,
        traceparent=row.traceparent,
        in_doubt=None if row.in_doubt is None else InDoubtPolicy(row.in_doubt),
        partial=partial,
        one_recipient=not row.has_others,
        drawn=row.drawn,
        drawn_at=row.drawn_at,
        large=LargeContent(row.message_id, row.size, row.checksum) if row.mime is None else None,
    )
