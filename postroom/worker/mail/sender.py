"""Sends one account's jobs: hands them to its sessions, and records the result of each message."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping

from postroom.core.account_verdict import AccountMove
from postroom.core.clock import Instant
from postroom.core.dialogue import AttemptRecord
from postroom.core.errors import LeaseLost, StoreUnavailable
from postroom.core.job import ClaimedJob
from postroom.core.outcome import Blame, Deferred, InDoubt, Meaning, Outcome
from postroom.core.stored_text import StoredText
from postroom.smtp.client import Connection
from postroom.smtp.deliver import NotBegun, deliver, for_all
from postroom.store.accounts import StoredAccount
from postroom.store.contents import Contents
from postroom.telemetry.incident import report
from postroom.worker.mail.breaker import AccountBreaker, BreakerState
from postroom.worker.mail.connections import Connections
from postroom.worker.mail.context import Context
from postroom.worker.mail.dot_mark import DotMark
from postroom.worker.mail.jobs import JobsInHand
from postroom.worker.mail.leases import OpenConnection
from postroom.worker.mail.sessions import Sessions, this_session

log = logging.getLogger(__name__)

_IDLE_S = 10.0  # how long a connection waits for more messages before it says QUIT
_SAY_AGAIN_S = 60.0  # how often the log says that a connection was changed


class AccountSender:
    """Sends one account's jobs over as many connections as the account may have."""

    def __init__(self, context: Context, stored: StoredAccount) -> None:
        self._context = context
        self._breaker = AccountBreaker(context, stored)
        self._jobs = JobsInHand(context, self._breaker)
        self._sessions = Sessions(context, self._breaker, self._jobs, self._session)
        self._connections = Connections(context, self._breaker, self._jobs, self._sessions)
        self._said_at = -math.inf  # by the loop's clock: when a change of connections was last said

    # -- for the dispatcher

    def refresh(self, stored: StoredAccount) -> None:
        """Take over what the database says of the account now."""
        self._breaker.refresh(stored)

    @property
    def daily_limit(self) -> int | None:
        """Recipients in any 24 hours."""
        return self._breaker.server.daily_limit

    def room(self) -> int:
        """Return how many more jobs this account can take in now."""
        state = self._breaker.state
        if self._context.draining or state is BreakerState.OPEN:
            return 0
        if state is BreakerState.HALF_OPEN:
            return self._breaker.probe_size if self.is_idle else 0
        return self._jobs.room

    @property
    def is_idle(self) -> bool:
        return not len(self._jobs) and self._sessions.are_idle

    def feed(self, jobs: list[ClaimedJob]) -> None:
        """Take in claimed jobs and see that there are connections for them."""
        self._jobs.add(jobs)
        self._sessions.staff()

    def release_waiting(self) -> None:
        """Give back the jobs that no session has begun."""
        self._jobs.release_waiting()

    def say_goodbye(self) -> None:
        """Wake the idle sessions, which end when the worker drains."""
        self._sessions.say_goodbye()

    async def drained(self) -> None:
        await self._sessions.ended()

    def cancel(self) -> int:
        """Break off the sessions whose dot is not out; return how many wait for the answer to theirs."""
        return self._sessions.cancel()

    # -- sessions

    async def _session(self) -> None:
        """Send jobs over one connection at a time, until there are none for a while."""
        is_open: OpenConnection | None = None
        session, jobs = this_session(), self._jobs
        try:
            while session in jobs.kept or (
                not self._sessions.leave_to_others()
                and await self._sessions.wait_for_job(_IDLE_S if is_open else 0.0)
            ):
                if is_open is not None and (session in jobs.kept or is_open.is_over()):
                    await self._connections.close(is_open)
                    is_open = None
                if is_open is None:
                    is_open = await self._connections.connect(session)
                    if is_open is None:
                        return
                # Not asked again whether a new connection is usable: a server that leaves as soon as it has let us in
                # costs the job a try, or we would log in again and again.
                job = self._next_job(session)
                if job is not None:
                    await self._send(is_open, job, session)
                    del job  # its text is not kept while this session waits for the next one
                if self._is_closed:
                    jobs.release_waiting()
        finally:
            kept = jobs.kept.pop(session, None)
            if kept is not None:
                jobs.release(kept)
            if is_open is not None:
                await self._connections.close(is_open)

    def _next_job(self, session: asyncio.Task[None]) -> ClaimedJob | None:
        """Return the job that the session has kept, or one that waits."""
        kept = self._jobs.kept.pop(session, None)
        if kept is not None:
            if not self._is_closed:
                return kept
            self._jobs.release(kept)
        return self._jobs.take() if len(self._jobs) and not self._context.draining else None

    @property
    def _is_closed(self) -> bool:
        """Nothing more may be begun: the worker ends, or the account is parked or paused."""
        return self._context.draining or not self._breaker.is_active

    def _keep(self, job: ClaimedJob, why: NotBegun) -> None:
        """Have this session send the job over a new connection; no other may take it meanwhile.

        One that had carried messages would draw the same answer again.
        """
        self._jobs.kept[this_session()] = job
        if why.doubted is not None:
            self._jobs.doubted[job.id] = why.doubted
        now = asyncio.get_running_loop().time()
        if now - self._said_at > _SAY_AGAIN_S:
            self._said_at = now
            log.info("account %s goes on over a new connection: %s", self._breaker.account.email, why)

    # -- one job

    async def _send(self, is_open: OpenConnection, job: ClaimedJob, session: asyncio.Task[None]) -> None:
        """Carry one job over and record what came of it; it waits on when the server had left before it began."""
        jobs, started_at = self._jobs, self._context.clock()
        mark = DotMark(self._context, job, self._sessions.marked, session)
        try:
            outcomes = await self._deliver(is_open.connection, job, mark)
        except asyncio.CancelledError:
            if not mark.is_set:  # the mark may be under way, but the dot is not
                jobs.release(job)
            raise
        except LeaseLost:
            log.warning("message %s was taken over by another worker; nothing was sent", job.request_id)
            jobs.let_go(job)
            return
        except StoreUnavailable as error:
            self._hold_back(job, error)
            return
        except Exception as error:
            outcomes = self._own_fault(job, error, is_marked=mark.is_set)
        finally:
            self._sessions.marked.discard(session)
        if outcomes is None:
            return
        is_open.is_spent = any(_ends_session(outcome) for outcome in outcomes.values())
        self._finish(job, outcomes, started_at, is_open.connection.tape.take())

    async def _deliver(
        self, connection: Connection, job: ClaimedJob, mark: DotMark
    ) -> Mapping[int, Outcome] | None:
        """Return what the server said; None when nothing was sent and this session keeps the job."""
        try:
            return await deliver(connection, job, mark, self._jobs.doubted.get(job.id), self._text(job))
        except NotBegun as why:
            await mark.take_back()
            self._jobs.note_begun(job, connection.tape.take())
            self._keep(job, why)
            return None

    def _hold_back(self, job: ClaimedJob, error: StoreUnavailable) -> None:
        log.warning("message %s was held back before its final dot: %s", job.request_id, error)
        self._connections.wait_for_store()
        self._jobs.release(job)

    def _own_fault(self, job: ClaimedJob, error: Exception, *, is_marked: bool) -> Mapping[int, Outcome]:
        """A surprise of our own costs an attempt, so that it ends some day; after the mark nobody knows what was sent."""
        incident = report(log, f"message {job.request_id} could not be sent", error)
        self._breaker.back_off()
        reason = f"a fault in Postroom itself; its log says more under incident {incident}"
        return for_all(job, InDoubt(reason) if is_marked else Deferred(reason, Blame.MESSAGE))

    def _text(self, job: ClaimedJob) -> StoredText | None:
        """Return what reads the text of a job that does not have it."""
        large, store = job.large, self._context.store
        if large is None:
            return None
        return StoredText(
            large.size,
            large.checksum,
            lambda number: self._context.read(lambda: store.read(Contents.piece, large, number)),
        )

    def _finish(
        self,
        job: ClaimedJob,
        outcomes: Mapping[int, Outcome],
        started_at: Instant,
        record: AttemptRecord,
    ) -> None:
        """Decide what the attempt means, carry out the account's part, and have the job's recorded."""
        now = self._context.clock()
        decision = self._jobs.decide(job, outcomes, now)
        verdict = decision.account
        if verdict is not None:
            if verdict.move is AccountMove.RESET:
                self._connections.note_worked()  # not all log in
            self._breaker.apply(verdict, started_at)
            if verdict.move in (AccountMove.PARK, AccountMove.SLOW, AccountMove.PAUSE):
                self._jobs.release_waiting()
        self._jobs.finish(job, decision, started_at, now, record)


def _ends_session(outcome: Outcome) -> bool:
    """Whether the server takes no more over this connection; over another one it does."""
    return isinstance(outcome, Deferred) and outcome.meaning is Meaning.SESSION
