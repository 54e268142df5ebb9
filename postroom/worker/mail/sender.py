"""One account's lane: its claimed jobs, its connections, and what an account's faults cost."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import cast

from postroom.core import retry
from postroom.core.classify import classify_fault, is_refused_login
from postroom.core.clock import SECOND, Instant
from postroom.core.errors import LeaseLost, SMTPFault, StoreUnavailable, WorkerExpired
from postroom.core.job import ClaimedJob
from postroom.core.message import InDoubtPolicy
from postroom.core.outcome import Blame, Deferred, Failed, InDoubt, Outcome, Sent
from postroom.core.stored_text import StoredText
from postroom.smtp.client import Connection
from postroom.smtp.deliver import NotBegun, deliver, for_all
from postroom.smtp.transcript import Suspicion
from postroom.store.store import StoredAccount
from postroom.store.transaction import Result, Slot
from postroom.telemetry.incident import report
from postroom.worker.mail.breaker import (
    AccountBreaker,
    Context,
    as_of_the_message,
    is_account_fault,
    is_full,
    is_passing,
    is_session_over,
)
from postroom.worker.mail.known_server import KnownServer

log = logging.getLogger(__name__)

_DEPTH = 4  # jobs claimed ahead, for each connection
_IDLE_S = 10.0  # how long a connection waits for more mail before it says QUIT
_OLDEST_S = 300.0  # how long one connection is used
_LOGIN_SLICE_S = 0.1
_TURNED_AWAY_S = 60.0  # how long an account makes do with its connections when the server wants no more
_CONNECTION_PAUSE_S = 1.0  # how long a worker leaves an account alone whose connections others hold
_SAY_AGAIN_S = 60.0  # how often the log says that a connection was changed
_STORE_PAUSE_S = 1.0  # how long it leaves alone one for which the database could not be asked


@dataclass(slots=True, eq=False)
class OpenConnection:
    """An open connection and the right to it."""

    connection: Connection
    slot: Slot
    opened: float  # by the loop's clock
    is_spent: bool = False  # the server takes no more over it

    def is_over(self) -> bool:
        if self.is_spent or not self.connection.usable:
            return True
        return asyncio.get_running_loop().time() - self.opened > _OLDEST_S


class AccountSender:
    """Sends one account's jobs over as many connections as the account may have."""

    def __init__(self, context: Context, stored: StoredAccount) -> None:
        self._context = context
        self._breaker = AccountBreaker(context, stored)
        self._server = KnownServer(context, self._breaker)
        self._jobs: deque[ClaimedJob] = deque()
        self._sessions: set[asyncio.Task[None]] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._leaving: set[asyncio.Task[None]] = set()  # sessions that end, for there are too many
        self._opening: set[asyncio.Task[None]] = set()  # sessions that are about to take a job
        self._lines: set[OpenConnection] = set()
        # by the sessions that send them over a new connection
        self._kept: dict[asyncio.Task[None], ClaimedJob] = {}
        self._doubted: dict[int, Suspicion] = {}  # by job: what is to be asked again, one command at a time
        self._said_at = -math.inf  # by the loop's clock: when a change of connections was last said
        self._most: int | None = None  # sessions that there may be for the moment
        self._pause: asyncio.TimerHandle | None = None  # until there may be more again
        self._marked: set[asyncio.Task[None]] = set()  # sessions whose dot may be out, unanswered

    # -- for the dispatcher

    def refresh(self, stored: StoredAccount) -> None:
        """Take over what the database says of the account now."""
        self._breaker.refresh(stored)

    @property
    def daily_limit(self) -> int | None:
        """Recipients in any 24 hours."""
        return self._breaker.daily_limit

    def room(self) -> int:
        """Return how many more jobs this lane can take in now."""
        if self._context.draining or self._breaker.is_closed():
            return 0
        if self._breaker.is_doubtful:
            return self._breaker.probe_size if self.is_idle else 0
        full = self._breaker.connections * _DEPTH
        return full - len(self._jobs) if len(self._jobs) <= full // 2 else 0

    @property
    def is_idle(self) -> bool:
        return not self._jobs and len(self._idle) == len(self._sessions)

    def feed(self, jobs: list[ClaimedJob]) -> None:
        """Take in claimed jobs and see that there are connections for them."""
        self._jobs.extend(jobs)
        self._context.in_hand.update(job.token for job in jobs)
        self._context.bytes_in_hand += sum(job.octets_in_hand for job in jobs)
        self._staff()

    def _staff(self) -> None:
        """See that there are sessions for the jobs that wait: idle ones, and new ones as far as there may be more."""
        if self._context.draining:
            return
        idle = len(self._idle)
        for _ in range(min(len(self._jobs), idle)):
            self._wake_one()
        wanted = len(self._jobs) - idle - len(self._opening - self._kept.keys())
        allowed = self._breaker.connections if self._most is None else self._most
        for _ in range(min(wanted, min(allowed, self._breaker.connections) - len(self._sessions))):
            task = asyncio.create_task(self._session())
            self._sessions.add(task)
            self._opening.add(task)
            task.add_done_callback(self._session_ended)

    def _make_do_with(self, sessions: int, seconds: float, then: Callable[[], None]) -> None:
        """Have no more sessions than these for a while: another one was just turned away."""
        if self._pause is not None:
            self._pause.cancel()
        self._most = sessions
        self._pause = asyncio.get_running_loop().call_later(seconds, then)

    def _try_for_all(self) -> None:
        self._pause = self._most = None
        self._staff()

    def _try_one_more(self) -> None:
        """Ask the server for one more connection. While it gives them, the next one is asked for (`_let_in`)."""
        self._pause = None
        if self._most is not None:
            self._most += 1
            self._staff()

    def _let_in(self) -> None:
        if self._most is None or self._pause is not None:
            return
        if self._most < self._breaker.connections:
            self._try_one_more()
        else:
            self._most = None

    def _session_ended(self, task: asyncio.Task[None]) -> None:
        for sessions in (self._sessions, self._leaving, self._opening):
            sessions.discard(task)
        self._staff()  # what came while it said goodbye was not given to it
        if not task.cancelled() and (error := task.exception()) is not None:
            report(log, f"a session of account {self._breaker.account.email} broke", error)
            self._context.request_work()

    def _wake_one(self) -> None:
        while self._idle:
            future = self._idle.popleft()
            if not future.done():
                future.set_result(None)
                return

    def release_waiting(self) -> None:
        """Give back the jobs that no session has begun."""
        while self._jobs:
            job = self._take()
            self._release(job)

    def say_goodbye(self) -> None:
        """Wake the idle sessions, which end when the worker drains."""
        while self._idle:
            self._wake_one()

    async def drained(self) -> None:
        if self._sessions:
            await asyncio.wait(self._sessions)

    def cancel(self) -> int:
        """Break off the sessions whose dot is not out; return how many wait for the answer to theirs."""
        for task in self._sessions - self._marked:
            task.cancel()
        return len(self._sessions & self._marked)

    # -- sessions

    def _take(self) -> ClaimedJob:
        job = self._jobs.popleft()
        if len(self._jobs) == self._breaker.connections * _DEPTH // 2:
            self._context.request_work()
        return job

    async def _work(self, seconds: float) -> bool:
        """Wait for a job, no longer than `seconds`; say whether there is one to be sent."""
        if self._jobs:
            return not self._context.draining
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not self._jobs and not self._context.draining and loop.time() < deadline:
            self._context.request_work()
            await self._wait_for_job(deadline - loop.time())  # another session may be quicker: then wait on
        return bool(self._jobs) and not self._context.draining

    async def _wait_for_job(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            pass
        finally:
            if future in self._idle:
                self._idle.remove(future)

    async def _session(self) -> None:
        """Send jobs over one connection at a time, until there are none for a while."""
        line: OpenConnection | None = None
        session = _this_session()
        try:
            while session in self._kept or (
                not self._leave_to_others(session) and await self._work(_IDLE_S if line else 0.0)
            ):
                if line is not None and (session in self._kept or line.is_over()):
                    await self._close(line)
                    line = None
                if line is None:
                    line = await self._open()
                    if line is None:
                        return
                # Not asked again whether a new line is usable: a server that leaves as soon as it has let us in costs
                # the job a try, or we would log in again and again.
                job = self._next_job(session)
                if job is not None:
                    await self._send(line, job, session)
                    del job  # its text is not kept while this session waits for the next one
                if self._is_closed:
                    self.release_waiting()
        finally:
            kept = self._kept.pop(session, None)
            if kept is not None:
                self._release(kept)
            if line is not None:
                await self._close(line)

    def _next_job(self, session: asyncio.Task[None]) -> ClaimedJob | None:
        """Return the job that the session that asks has kept, or one that waits."""
        kept = self._kept.pop(session, None)
        if kept is not None:
            if not self._is_closed:
                return kept
            self._release(kept)
        return self._take() if self._jobs and not self._context.draining else None

    @property
    def _are_too_many(self) -> bool:
        """Another worker has come that is to have its share."""
        return len(self._sessions) - len(self._leaving) > self._breaker.connections

    def _leave_to_others(self, session: asyncio.Task[None]) -> bool:
        """Whether the session that asks is to end."""
        if not self._are_too_many:
            return False
        self._leaving.add(session)
        return True

    @property
    def _is_closed(self) -> bool:
        """Nothing more may be begun: the worker ends, or the account was set aside."""
        return self._context.draining or not self._breaker.is_active

    def _keep(self, job: ClaimedJob, why: NotBegun) -> None:
        """Have this session send the job over a new connection; no other may take it meanwhile.

        One that had carried messages would draw the same answer again.
        """
        self._kept[_this_session()] = job
        if why.doubted is not None:
            self._doubted[job.id] = why.doubted
        now = asyncio.get_running_loop().time()
        if now - self._said_at > _SAY_AGAIN_S:
            self._said_at = now
            log.info("account %s goes on over a new connection: %s", self._breaker.account.email, why)

    def _put_back_kept(self) -> None:
        """There is no new connection for it: the job shares the fate of those that wait."""
        kept = self._kept.pop(_this_session(), None)
        if kept is not None:
            self._jobs.appendleft(kept)

    async def _close(self, line: OpenConnection) -> None:
        self._lines.discard(line)
        await line.connection.quit()
        self._give_back(line.slot)

    def _others(self) -> int:
        """Count the sessions that have a connection or are about to have one, without the one that asks."""
        return len(self._lines) + len(self._opening - {asyncio.current_task()})

    async def _open(self) -> OpenConnection | None:
        """Open one of the account's connections when there is a free one; on failure settle all that wait for it."""
        session = _this_session()
        self._opening.add(session)
        started_at = self._context.clock()
        slot: Slot | None = None
        try:
            slot = await self._slot()
            if slot is None:
                return None
            connection = await self._dial()
        except SMTPFault as fault:
            self._give_back(slot)
            if is_refused_login(fault):
                self._breaker.note_refused_password()
            self._cannot_open(classify_fault(fault, self._breaker.circumstances), started_at)
            return None
        except BaseException as error:
            self._give_back(slot)
            if isinstance(error, StoreUnavailable):
                log.warning("cannot open a connection for %s: %s", self._breaker.account.email, error)
                self._wait_for_store()
                return None
            self._breaker.block()
            self._put_back_kept()
            self.release_waiting()
            if isinstance(error, WorkerExpired):
                return None
            raise
        finally:
            self._opening.discard(session)
        if connection.authenticated:
            self._breaker.note_logged_in()
            self._note_worked()
        connection.traits = self._server.traits(connection.where)
        line = OpenConnection(connection, slot, asyncio.get_running_loop().time())
        self._lines.add(line)
        self._let_in()
        return line

    def _note_worked(self) -> None:
        """The first time, see that the account has all its connections now."""
        if not self._breaker.has_worked:
            self._breaker.note_worked()
            self._staff()
            self._context.request_work()

    async def _slot(self) -> Slot | None:
        """Take one of the account's connections and wait for its turn to log in; None when all are taken."""
        context, account = self._context, self._breaker.account
        has_login = self._breaker.stored.credential is not None
        slot = await context.async_writer.submit(
            lambda transaction: transaction.take_connection(
                account.id,
                context.worker_id,
                most=self._breaker.most_connections,
                logins_per_minute=self._breaker.logins_per_minute if has_login else None,
                now=context.clock(),
            )
        )
        if slot is None:
            self._do_without()
            return None
        turn = asyncio.get_running_loop().time() + (slot.login_at - context.clock()) / SECOND
        while (wait := turn - asyncio.get_running_loop().time()) > 0:
            if context.draining or not (self._jobs or _this_session() in self._kept):
                self._give_back(slot)
                return None
            await asyncio.sleep(min(wait, _LOGIN_SLICE_S))
        return slot

    def _do_without(self) -> None:
        """Other workers hold all connections: what waits is theirs, unless this one has some too."""
        self._put_back_kept()
        others = self._others()
        if others:
            self._make_do_with(others, _CONNECTION_PAUSE_S, self._try_for_all)
        else:
            self._breaker.leave_alone(_CONNECTION_PAUSE_S)
            self.release_waiting()

    def _give_back(self, slot: Slot | None) -> None:
        if slot is not None:
            self._context.async_writer.submit_until_recorded(
                lambda transaction: transaction.return_connection(slot), "the end of a connection"
            )

    async def _dial(self) -> Connection:
        fresh = await self._context.read(lambda: self._context.store.account(self._breaker.account.id))
        if fresh is not None:
            self.refresh(fresh)
        try:
            return await self._context.connector.connect(self._breaker.stored)
        finally:
            self._breaker.learn_server()

    def _wait_for_store(self) -> None:
        """The database is away, which is no fault of the account: what waits goes back and is claimed soon."""
        self._put_back_kept()
        self._breaker.leave_alone(_STORE_PAUSE_S)
        self.release_waiting()

    # -- one job

    async def _send(self, line: OpenConnection, job: ClaimedJob, session: asyncio.Task[None]) -> None:
        """Carry one job over and record what came of it; it waits on when the server had left before it began."""
        context = self._context
        started_at = context.clock()
        marked = False

        async def mark() -> None:
            nonlocal marked
            context.marked.add(job.token)
            await context.async_writer.submit(lambda transaction: transaction.mark_dot(job, context.clock()))
            marked = True
            self._marked.add(session)

        try:
            try:
                outcomes = await deliver(
                    line.connection, job, mark, self._doubted.get(job.id), self._text(job)
                )
            except NotBegun as why:
                if marked:
                    marked = False
                    await context.async_writer.submit(lambda transaction: transaction.unmark_dot(job))
                self._keep(job, why)
                return
            line.is_spent = any(is_session_over(outcome) for outcome in outcomes.values())
        except asyncio.CancelledError:
            if not marked:  # the mark may be under way, but the dot is not
                self._release(job)
            raise
        except LeaseLost:
            log.warning("message %s was taken over by another worker; nothing was sent", job.request_id)
            self._let_go(job)
            return
        except StoreUnavailable as error:
            log.warning("message %s was held back before its final dot: %s", job.request_id, error)
            self._wait_for_store()
            self._release(job)
            return
        except Exception as error:
            incident = report(log, f"message {job.request_id} could not be sent", error)
            self._breaker.block()
            outcomes = for_all(job, _own_fault(incident, marked=marked))
        finally:
            self._marked.discard(session)
        self._settle(job, outcomes, started_at)

    def _text(self, job: ClaimedJob) -> StoredText | None:
        """Return what reads the text of a job that does not have it."""
        large, store = job.large, self._context.store
        if large is None:
            return None
        return StoredText(
            large.size,
            large.checksum,
            lambda number: self._context.read(lambda: store.piece_of_content(large, number)),
        )

    def _settle(self, job: ClaimedJob, outcomes: Mapping[int, Outcome], started_at: Instant) -> None:
        if _all_sent(outcomes):
            self._note_worked()  # not all log in
            self._breaker.passed(started_at)
            self._finish(job, outcomes, started_at)
            return
        blamed = next((outcome for outcome in outcomes.values() if is_account_fault(outcome)), None)
        if blamed is not None and self._breaker.is_of_the_message(job, blamed):
            outcomes, blamed = {id_: as_of_the_message(each) for id_, each in outcomes.items()}, None
        if blamed is not None:
            outcomes = {id_: self._breaker.charge(outcome) for id_, outcome in outcomes.items()}
            self._leave(blamed, started_at, sending=True)
        elif any(isinstance(outcome, Sent) for outcome in outcomes.values()):
            self._note_worked()  # not all log in
            self._breaker.passed(started_at)
        drew = blamed is not None
        doubt = next((outcome for outcome in outcomes.values() if isinstance(outcome, InDoubt)), None)
        if doubt is not None:
            policy = job.in_doubt or self._context.settings.in_doubt
            log.warning("message %s is in doubt (%s): %s", job.request_id, policy.value, doubt.reason)
        self._finish(job, outcomes, started_at, drew=drew)

    def _leave(self, blamed: Outcome, tried_at: Instant, *, sending: bool) -> None:
        """The account is at fault: what waits goes back to the queue and keeps its attempts."""
        if self._breaker.set_aside(blamed, tried_at, sending=sending):
            self.release_waiting()

    def _cannot_open(self, outcome: Outcome, started_at: Instant) -> None:
        """No connection: the other sessions send what waits, or, without any, all that waits shares the reason."""
        self._put_back_kept()
        others = self._others()
        if others and is_passing(outcome):
            log.info("account %s makes do with the connections it has", self._breaker.account.email)
            self._make_do_with(others, _TURNED_AWAY_S, self._try_one_more)
            return
        self._most = None  # who lets nobody in does not mean the number
        if is_full(outcome):
            self._wait_for_place(outcome, started_at)
            return
        charged = self._breaker.charge(outcome)
        while self._jobs:
            job = self._take()
            self._finish(job, for_all(job, charged), started_at)
        if is_account_fault(outcome):
            self._leave(outcome, started_at, sending=False)
        else:
            self._breaker.tell_trouble(outcome)
            self._breaker.block()

    def _wait_for_place(self, outcome: Outcome, started_at: Instant) -> None:
        """Others have all the server's places: one message says so, and all wait for some seconds, uncounted.

        A message for which that has gone on for as long as it is retried has its tries counted, so that it ends some day.
        """
        self._breaker.wait_for_place(outcome)
        if self._jobs:
            job = self._take()
            assert isinstance(outcome, Deferred)
            is_late = self._context.clock() > job.accepted_at + self._context.settings.retry_for
            self._finish(job, for_all(job, replace(outcome, burns_attempt=is_late)), started_at)
        self.release_waiting()

    def _finish(
        self, job: ClaimedJob, outcomes: Mapping[int, Outcome], started_at: Instant, *, drew: bool = False
    ) -> None:
        context, now = self._context, self._context.clock()
        result = self._result(job, outcomes, now)
        if drew:
            result = replace(result, drew=True)
        job = self._let_go(job)
        context.async_writer.submit_until_recorded(
            lambda transaction: transaction.finish(
                job, result, worker_id=context.worker_id, started_at=started_at, now=now
            ),
            f"the result of {job.request_id}",
            lambda over: self._recorded(job, result.outcomes if over else None, finished=True),
        )

    def _result(self, job: ClaimedJob, outcomes: Mapping[int, Outcome], now: Instant) -> Result:
        """Decide when to try again what is deferred; what has been tried for too long fails."""
        settings = self._context.settings
        policy = job.in_doubt or settings.in_doubt
        if _all_sent(outcomes):
            return Result(outcomes, now, policy)
        due = retry.next_try(
            job.attempt,
            accepted_at=job.accepted_at,
            now=now,
            schedule=settings.retry_schedule,
            retry_for=settings.retry_for,
            random=random.random,
        )
        if any(isinstance(outcome, Deferred) and not outcome.burns_attempt for outcome in outcomes.values()):
            due = now  # the account's own state says when
        elif _were_too_many(outcomes.values()):
            due = now
        elif due is None:
            outcomes = {id_: _give_up(outcome, policy) for id_, outcome in outcomes.items()}
        return Result(outcomes, due if due is not None else now, policy)

    def _let_go(self, job: ClaimedJob) -> ClaimedJob:
        """A job is in hand from the claim until what became of it is on its way into the database, which needs no text."""
        self._context.bytes_in_hand -= job.octets_in_hand
        self._doubted.pop(job.id, None)
        return job

    def _release(self, job: ClaimedJob) -> None:
        now = self._context.clock()
        job = self._let_go(job)
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.release(job, now),
            f"that {job.request_id} goes back to the queue",
            lambda _: self._recorded(job, None, finished=False),
        )

    def _recorded(self, job: ClaimedJob, ended: Mapping[int, Outcome] | None, *, finished: bool) -> None:
        """Forget the job; `ended` is what became of its message where that has reached its end."""
        self._context.in_hand.discard(job.token)
        if ended is not None:
            self._context.finished_messages.note(job, ended)
        if finished:
            self._context.finished()


def _this_session() -> asyncio.Task[None]:
    return cast("asyncio.Task[None]", asyncio.current_task())


def _all_sent(outcomes: Mapping[int, Outcome]) -> bool:
    return all(isinstance(outcome, Sent) for outcome in outcomes.values())


def _were_too_many(outcomes: Collection[Outcome]) -> bool:
    """The server took the message for some recipients, and the rest is for another transaction (RFC 5321 §4.5.3.1.10)."""
    rest = [outcome for outcome in outcomes if not isinstance(outcome, Sent | Failed)]
    too_many = all(
        isinstance(outcome, Deferred)
        and outcome.reply is not None
        and outcome.reply.code in (452, 552)
        and outcome.reply.enhanced in (None, "4.5.3", "5.5.3")
        for outcome in rest
    )
    return bool(rest) and too_many and any(isinstance(outcome, Sent) for outcome in outcomes)


def _own_fault(incident: str, *, marked: bool) -> Outcome:
    """A surprise of our own costs an attempt, so that it ends some day; after the mark nobody knows what was sent."""
    reason = f"a fault in Postroom itself; its log says more under incident {incident}"
    return InDoubt(reason) if marked else Deferred(reason, Blame.MESSAGE)


def _give_up(outcome: Outcome, policy: InDoubtPolicy) -> Outcome:
    if isinstance(outcome, Deferred):
        return Failed(f"given up after too many tries: {outcome.reason}", outcome.blame, outcome.reply)
    if isinstance(outcome, InDoubt) and policy is not InDoubtPolicy.HOLD:
        return Failed(f"given up; it may have been sent: {outcome.reason}", Blame.CONNECTION)
    return outcome
