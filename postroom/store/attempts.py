"""Writes the result of an attempt (the decision of core/decide.py) exactly once, in one transaction: `finish`."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core import failpoint
from postroom.core.clock import Instant
from postroom.core.decide import Decision, DeliveryResult, DeliveryState, NextTry, kind_of
from postroom.core.dialogue import NOTHING, AttemptRecord
from postroom.core.job import Claim, JobRef
from postroom.core.outcome import Deferred, Failed, InDoubt, Outcome, Reply, Sent, blame_of
from postroom.store.noun import Noun
from postroom.store.totals import ATTEMPTS, NOBODY


class _ReplyColumns(NamedTuple):
    code: int | None
    enhanced: str | None
    text: str | None


class Attempts(Noun):
    def finish(
        self,
        job: JobRef,
        decision: Decision,
        *,
        worker_id: int,
        started_at: Instant,
        now: Instant,
        record: AttemptRecord = NOTHING,
    ) -> bool:
        """Write what was decided of an attempt, exactly once; return whether its message has reached its end.

        Raises LeaseLost, writing nothing, when another worker holds the job.
        """
        if job.one_recipient and decision.is_over and isinstance(decision.outcome, Sent):
            self._complete_sent(
                job, decision, worker_id=worker_id, started_at=started_at, now=now, record=record
            )
            self._tx.events.tell_attempt(job, decision, started_at, now, record)
            return True
        if decision.next_try is None:
            self._end(job, decision, now)
        else:
            self.requeue(job, decision, decision.next_try, now)
        for result in decision.deliveries:
            self._write_delivery(result, now)
        for event in decision.events:
            self._tx.events.insert(job.message_id, event, now)
        self._tx.events.tell_attempt(job, decision, started_at, now, record)
        failpoint.hit("finish.inside")
        self._tx.usage.give_back(job, decision.unused)
        if decision.outcome is not None:
            self._record(
                job, decision.outcome, worker_id=worker_id, started_at=started_at, now=now, record=record
            )
        return decision.is_over

    def requeue(self, job: Claim, decision: Decision, next_try: NextTry, now: Instant) -> None:
        """Queue a job, of whatever kind, for its next try. Raises LeaseLost when another worker holds it."""
        moved = self._tx.change(
            "requeue_job",
            job_id=job.id,
            token=job.token,
            due_at=next_try.due_at,
            refund=0 if next_try.counts else 1,
            held=int(next_try.is_held),
        )
        self._tx.guard(moved)
        if next_try.is_behind:
            self._tx.change("note_draw", job_id=job.id, now=now)
        if decision.is_crash:
            self._tx.change("count_crash", job_id=job.id)

    def _complete_sent(
        self,
        job: JobRef,
        decision: Decision,
        *,
        worker_id: int,
        started_at: Instant,
        now: Instant,
        record: AttemptRecord,
    ) -> None:
        """Write in one statement what `finish` writes when the only recipient was sent to: most messages end so."""
        outcome = decision.outcome
        assert isinstance(outcome, Sent)
        completed = self._tx.change(
            "complete_sent",
            message_id=job.message_id,
            delivery_id=job.deliveries[0].id,
            job_id=job.id,
            token=job.token,
            number=job.attempt,
            worker_id=worker_id,
            started_at=started_at,
            now=now,
            reply_code=outcome.reply.code,
            reply_enhanced=outcome.reply.enhanced,
            reply_text=outcome.reply.text,
            detail=decision.events[0].detail,
            phase=record.phase,
            dialogue=record.dialogue,
        )
        self._tx.guard(completed)
        failpoint.hit("finish.inside")

    def _end(self, job: JobRef, decision: Decision, now: Instant) -> None:
        """End the job: failed where a recipient has, in this attempt or an earlier one."""
        state = "failed" if decision.has_failed or self._has_failed(job) else "done"
        self._tx.guard(self._tx.change("end_job", job_id=job.id, token=job.token, state=state, now=now))
        if state == "done":
            self._tx.totals.add_to_sent(-1)  # its attempts and events are counted one by one
        self._tx.log_lines.add(job.message_id)

    def _has_failed(self, job: JobRef) -> bool:
        return bool(self._tx.value(int, "any_delivery_failed", message_id=job.message_id))

    def _write_delivery(self, result: DeliveryResult, now: Instant) -> None:
        said = _columns(result.reply)
        if result.state is DeliveryState.PENDING:
            self._tx.change(
                "defer_delivery",
                delivery_id=result.id,
                reason=result.reason,
                reply_code=said.code,
                reply_enhanced=said.enhanced,
                reply_text=said.text,
                possible_duplicate=int(result.possible_duplicate),
            )
        else:
            self._tx.change(
                "end_delivery",
                delivery_id=result.id,
                state=result.state.value,
                reason=result.reason,
                reply_code=said.code,
                reply_enhanced=said.enhanced,
                reply_text=said.text,
                now=now,
            )

    def _record(
        self,
        job: JobRef,
        outcome: Outcome,
        *,
        worker_id: int,
        started_at: Instant,
        now: Instant,
        record: AttemptRecord,
    ) -> None:
        said = _columns(None if isinstance(outcome, InDoubt) else outcome.reply)
        self._tx.change(
            "insert_attempt",
            job_id=job.id,
            number=job.attempt,
            worker_id=worker_id,
            started_at=started_at,
            now=now,
            outcome=kind_of(outcome).value,
            reply_code=said.code,
            reply_enhanced=said.enhanced,
            reply_text=said.text,
            blame=None if (blame := blame_of(outcome)) is None else blame.value,
            phase=record.phase,
            dialogue=record.dialogue,
        )
        self._tx.totals.add(ATTEMPTS, *labels_of(outcome))


def labels_of(outcome: Outcome) -> tuple[str, str]:
    """Return the labels of an attempt in the totals: its outcome, and who is to blame for it."""
    blame = outcome.blame.value if isinstance(outcome, Deferred | Failed) else NOBODY
    return kind_of(outcome).value, blame


def _columns(reply: Reply | None) -> _ReplyColumns:
    if reply is None:
        return _ReplyColumns(None, None, None)
    return _ReplyColumns(reply.code, reply.enhanced, reply.text)
