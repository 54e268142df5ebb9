"""The jobs that a worker has claimed for one account, until their results are in the database."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Mapping

from postroom.core.clock import SECOND, Instant
from postroom.core.decide import Decision, RetrySchedule, decide
from postroom.core.dialogue import AttemptRecord
from postroom.core.events import EventKind
from postroom.core.job import ClaimedJob
from postroom.core.measures import TIME_TO_END
from postroom.core.outcome import Outcome
from postroom.smtp.transcript import Suspicion
from postroom.worker.mail.breaker import AccountBreaker
from postroom.worker.mail.context import Context

log = logging.getLogger(__name__)

DEPTH = 4  # jobs claimed ahead, for each connection


class JobsInHand:
    """The jobs of one account: those that wait, and those that a session keeps for its next connection."""

    def __init__(self, context: Context, breaker: AccountBreaker) -> None:
        settings = context.settings
        self._context = context
        self._breaker = breaker
        self._schedule = RetrySchedule(settings.retry_schedule, settings.retry_for, random.random)
        measured = context.store.measures.histogram
        self._times_to_end = {False: measured(TIME_TO_END, "sent"), True: measured(TIME_TO_END, "failed")}
        self._waiting: deque[ClaimedJob] = deque()
        self.kept: dict[asyncio.Task[None], ClaimedJob] = {}  # by session
        self._begun: dict[int, AttemptRecord] = {}  # by job: what was said over the connection before
        self.doubted: dict[int, Suspicion] = {}  # by job: what is to be asked again, one command at a time

    def __len__(self) -> int:
        """Count the jobs that wait for a session."""
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many more jobs may be claimed now: none until half of the queue is used up."""
        full = self._breaker.connections * DEPTH
        return full - len(self._waiting) if len(self._waiting) <= full // 2 else 0

    def add(self, jobs: list[ClaimedJob]) -> None:
        """Take in claimed jobs."""
        self._waiting.extend(jobs)
        self._context.in_hand.update(job.token for job in jobs)
        self._context.bytes_in_hand += sum(job.octets_in_hand for job in jobs)

    def take(self) -> ClaimedJob:
        """Return the next job that waits."""
        job = self._waiting.popleft()
        if len(self._waiting) == self._breaker.connections * DEPTH // 2:
            self._context.request_work()
        return job

    def put_back_kept(self, session: asyncio.Task[None]) -> None:
        """There is no new connection for the job that this session keeps: it waits with the others."""
        kept = self.kept.pop(session, None)
        if kept is not None:
            self._waiting.appendleft(kept)

    def decide(
        self, job: ClaimedJob, outcomes: Mapping[int, Outcome], now: Instant, *, sending: bool = True
    ) -> Decision:
        """Say what an attempt means (`core/decide.py`)."""
        policy = self._context.settings.in_doubt
        return decide(job, outcomes, self._breaker.account, policy, self._schedule, now, sending=sending)

    def finish(
        self, job: ClaimedJob, decision: Decision, started_at: Instant, now: Instant, record: AttemptRecord
    ) -> None:
        """Have the result recorded."""
        context, worker_id = self._context, self._context.worker_id
        record = self._with_begun(job, record)
        if any(event.kind is EventKind.IN_DOUBT for event in decision.events):
            self._tell_doubt(job, decision)
        self.let_go(job)
        context.async_writer.submit_until_recorded(
            lambda transaction: transaction.attempts.finish(
                job, decision, worker_id=worker_id, started_at=started_at, now=now, record=record
            ),
            f"the result of {job.request_id}",
            lambda over: self._recorded(job, decision if over else None, finished=True),
        )

    def note_begun(self, job: ClaimedJob, record: AttemptRecord) -> None:
        """Keep what was said of a job that goes on over another connection."""
        self._begun[job.id] = self._with_begun(job, record)

    def _with_begun(self, job: ClaimedJob, record: AttemptRecord) -> AttemptRecord:
        earlier = self._begun.get(job.id)
        return record if earlier is None else record.after(earlier)

    def _tell_doubt(self, job: ClaimedJob, decision: Decision) -> None:
        policy = job.in_doubt or self._context.settings.in_doubt
        why = next(event.detail for event in decision.events if event.kind is EventKind.IN_DOUBT)
        log.warning("message %s is in doubt (%s): %s", job.request_id, policy.value, why)

    def release(self, job: ClaimedJob) -> None:
        """Give back a job of which nothing was sent."""
        now = self._context.clock()
        self.let_go(job)
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.queue.release(job, now),
            f"that {job.request_id} goes back to the queue",
            lambda _: self._recorded(job, None, finished=False),
        )

    def release_waiting(self) -> None:
        """Give back the jobs that no session has begun."""
        while self._waiting:
            self.release(self.take())

    def let_go(self, job: ClaimedJob) -> None:
        """Forget the text: a job needs none once its result is on its way into the database."""
        self._context.bytes_in_hand -= job.octets_in_hand
        self.doubted.pop(job.id, None)
        self._begun.pop(job.id, None)

    def _measure(self, job: ClaimedJob, ended: Decision) -> None:
        seconds = max(0, self._context.clock() - job.accepted_at) / SECOND
        self._times_to_end[ended.has_failed].observe(seconds)

    def _recorded(self, job: ClaimedJob, ended: Decision | None, *, finished: bool) -> None:
        """Forget the job; `ended` is what was decided where its message has reached its end."""
        self._context.in_hand.discard(job.token)
        if ended is not None:
            self._context.finished_messages.note(job, ended.events)
            self._measure(job, ended)
        if finished:
            self._context.finished()
