"""Opens and closes an account's connections; decides about its jobs when none can be opened."""

from __future__ import annotations

import asyncio
import logging

from postroom.core.account_verdict import AccountMove, judge_connection
from postroom.core.classify import classify_fault, is_refused_login
from postroom.core.clock import Instant
from postroom.core.dialogue import NOTHING, AttemptRecord
from postroom.core.errors import SMTPFault, StoreUnavailable, WorkerExpired
from postroom.core.outcome import Outcome
from postroom.smtp.client import Connection
from postroom.smtp.deliver import for_all
from postroom.store.accounts import Accounts
from postroom.store.connections import ConnectionLease
from postroom.worker.mail.breaker import AccountBreaker
from postroom.worker.mail.context import Context
from postroom.worker.mail.jobs import JobsInHand
from postroom.worker.mail.known_server import KnownServer
from postroom.worker.mail.leases import Leases, OpenConnection
from postroom.worker.mail.login_record import LoginRecord
from postroom.worker.mail.sessions import Sessions, this_session

log = logging.getLogger(__name__)

_TURNED_AWAY_S = 60.0  # how long an account makes do with its connections when the server wants no more
_CONNECTION_PAUSE_S = 1.0  # how long a worker leaves an account alone whose connections others hold
_STORE_PAUSE_S = 1.0  # how long it leaves alone one for which the database could not be asked


class Connections:
    """The connections of one account in one worker."""

    def __init__(
        self, context: Context, breaker: AccountBreaker, jobs: JobsInHand, sessions: Sessions
    ) -> None:
        self._context = context
        self._breaker = breaker
        self._jobs = jobs
        self._sessions = sessions
        self._server = KnownServer(context, breaker)
        self._logins = LoginRecord(context, breaker)
        self._leases = Leases(context, breaker)
        self._open: set[OpenConnection] = set()

    async def close(self, is_open: OpenConnection) -> None:
        self._open.discard(is_open)
        await is_open.connection.quit()
        self._leases.give_back(is_open.lease)

    def _others(self) -> int:
        """Count the sessions that have a connection or are about to have one, without the one that asks."""
        return len(self._open) + len(self._sessions.opening - {this_session()})

    async def connect(self, session: asyncio.Task[None]) -> OpenConnection | None:
        """Open one of the account's connections when there is a free one; on failure finish all jobs that wait for it."""
        self._sessions.opening.add(session)
        started_at = self._context.clock()
        lease: ConnectionLease | None = None
        try:
            lease = await self._lease()
            if lease is None:
                return None
            connection = await self._open_connection()
        except SMTPFault as fault:
            self._leases.give_back(lease)
            if is_refused_login(fault):
                self._logins.note_refused_password()
            outcome = classify_fault(fault, self._breaker.server.circumstances)
            self._cannot_open(outcome, started_at, fault.record or NOTHING)
            return None
        except BaseException as error:
            self._leases.give_back(lease)
            if self._is_known(error):
                return None
            raise
        finally:
            self._sessions.opening.discard(session)
        return self._opened(connection, lease)

    def _opened(self, connection: Connection, lease: ConnectionLease) -> OpenConnection:
        if connection.authenticated:
            self._logins.note_logged_in()
            self.note_worked()
        connection.traits = self._server.traits(connection.where)
        is_open = OpenConnection(connection, lease, asyncio.get_running_loop().time())
        self._open.add(is_open)
        self._sessions.let_in()
        return is_open

    def _is_known(self, error: BaseException) -> bool:
        """Put the jobs back that have no connection; say whether this error of ours has been dealt with."""
        if isinstance(error, StoreUnavailable):
            log.warning("cannot open a connection for %s: %s", self._breaker.account.email, error)
            self.wait_for_store()
            return True
        self._breaker.back_off()
        self._jobs.put_back_kept(this_session())
        self._jobs.release_waiting()
        return isinstance(error, WorkerExpired)

    async def _lease(self) -> ConnectionLease | None:
        """Lease one of the account's connections and wait for its turn to log in; None when all are taken."""
        lease = await self._leases.take()
        if lease is None:
            self._do_without()
            return None
        if await self._leases.wait_for_turn(lease, self._is_connection_needed):
            return lease
        self._leases.give_back(lease)
        return None

    def _is_connection_needed(self) -> bool:
        return not self._context.draining and bool(len(self._jobs) or this_session() in self._jobs.kept)

    def _do_without(self) -> None:
        """Other workers hold all connections: the jobs that wait are theirs, unless this one has some too."""
        self._jobs.put_back_kept(this_session())
        others = self._others()
        if others:
            self._sessions.make_do_with(others, _CONNECTION_PAUSE_S)
        else:
            self._breaker.open_for(_CONNECTION_PAUSE_S)
            self._jobs.release_waiting()

    async def _open_connection(self) -> Connection:
        fresh = await self._context.read(
            lambda: self._context.store.read(Accounts.get, self._breaker.account.id)
        )
        if fresh is not None:
            self._breaker.refresh(fresh)
        try:
            return await self._context.connector.connect(self._breaker.stored)
        finally:
            self._breaker.server.learn(self._breaker.account)

    def wait_for_store(self) -> None:
        """The database is away, which is no fault of the account: the jobs go back and are claimed soon."""
        self._jobs.put_back_kept(this_session())
        self._breaker.open_for(_STORE_PAUSE_S)
        self._jobs.release_waiting()

    def _cannot_open(self, outcome: Outcome, started_at: Instant, record: AttemptRecord) -> None:
        """Could not connect. If other sessions are open, they send the jobs; otherwise every job gets this outcome.

        Where the server has no place for us, one message says so, and the others wait uncounted.
        """
        jobs, breaker, others = self._jobs, self._breaker, self._others()
        jobs.put_back_kept(this_session())
        verdict = judge_connection(outcome, breaker.account, others)
        if verdict.move is AccountMove.MAKE_DO:
            log.info("account %s makes do with the connections it has", breaker.account.email)
            self._sessions.make_do_without_more(others, _TURNED_AWAY_S)
            return
        self._sessions.forget_limit()
        finished = min(len(jobs), 1) if verdict.move is AccountMove.NO_PLACE else len(jobs)
        for _ in range(finished):
            job, now = jobs.take(), self._context.clock()
            decision = jobs.decide(job, for_all(job, outcome), now, sending=False)
            jobs.finish(job, decision, started_at, now, record)
        breaker.apply(verdict, started_at)
        if verdict.move not in (AccountMove.REFUSE, AccountMove.BACK_OFF):
            jobs.release_waiting()

    def note_worked(self) -> None:
        """The first time, see that the account has all its connections now."""
        if not self._logins.has_worked:
            self._logins.note_worked()
            self._sessions.staff()
            self._context.request_work()
