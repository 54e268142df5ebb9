"""The sessions of an account: a task for each connection, as many as its jobs and limits allow."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import cast

from postroom.telemetry.incident import report
from postroom.worker.mail.breaker import AccountBreaker
from postroom.worker.mail.context import Context
from postroom.worker.mail.jobs import JobsInHand

log = logging.getLogger(__name__)


def this_session() -> asyncio.Task[None]:
    return cast("asyncio.Task[None]", asyncio.current_task())


class Sessions:
    """Starts sessions, wakes those that are idle, and has fewer of them for a while where the server wants that."""

    def __init__(
        self,
        context: Context,
        breaker: AccountBreaker,
        jobs: JobsInHand,
        run: Callable[[], Coroutine[object, None, None]],
    ) -> None:
        self._context = context
        self._breaker = breaker
        self._jobs = jobs
        self._run = run
        self._all: set[asyncio.Task[None]] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._leaving: set[asyncio.Task[None]] = set()  # that end, for there are too many
        self.opening: set[asyncio.Task[None]] = set()  # that are about to take a job
        self.marked: set[asyncio.Task[None]] = set()  # whose dot may be out, unanswered
        self._most: int | None = None  # that there may be for the moment
        self._pause: asyncio.TimerHandle | None = None  # until there may be more again

    @property
    def are_idle(self) -> bool:
        return len(self._idle) == len(self._all)

    def staff(self) -> None:
        """See that there are sessions for the jobs that wait: idle ones, and new ones as far as there may be more."""
        if self._context.draining:
            return
        idle = len(self._idle)
        for _ in range(min(len(self._jobs), idle)):
            self._wake_one()
        wanted = len(self._jobs) - idle - len(self.opening - self._jobs.kept.keys())
        allowed = self._breaker.connections if self._most is None else self._most
        for _ in range(min(wanted, min(allowed, self._breaker.connections) - len(self._all))):
            task = asyncio.create_task(self._run())
            self._all.add(task)
            self.opening.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        for sessions in (self._all, self._leaving, self.opening):
            sessions.discard(task)
        self.staff()  # what came while it said goodbye was not given to it
        if not task.cancelled() and (error := task.exception()) is not None:
            report(log, f"a session of account {self._breaker.account.email} broke", error)
            self._context.request_work()

    # -- fewer for a while

    def make_do_with(self, sessions: int, seconds: float) -> None:
        """Have no more sessions than these for a while: other workers have the account's other connections."""
        self._limit(sessions, seconds, self._try_for_all)

    def make_do_without_more(self, sessions: int, seconds: float) -> None:
        """Have no more for a while, and then ask for one more: the server has turned one away."""
        self._limit(sessions, seconds, self._try_one_more)

    def _limit(self, sessions: int, seconds: float, then: Callable[[], None]) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._most = sessions
        self._pause = asyncio.get_running_loop().call_later(seconds, then)

    def _try_for_all(self) -> None:
        self._pause = self._most = None
        self.staff()

    def _try_one_more(self) -> None:
        """Ask the server for one more connection. While it gives them, the next one is asked for (`let_in`)."""
        self._pause = None
        if self._most is not None:
            self._most += 1
            self.staff()

    def let_in(self) -> None:
        """The server has given a connection."""
        if self._most is None or self._pause is not None:
            return
        if self._most < self._breaker.connections:
            self._try_one_more()
        else:
            self._most = None

    def forget_limit(self) -> None:
        """A server that refuses every connection is not limiting their number."""
        self._most = None

    def leave_to_others(self) -> bool:
        """Whether the session that asks is to end: another worker has come that is to have its share."""
        if len(self._all) - len(self._leaving) <= self._breaker.connections:
            return False
        self._leaving.add(this_session())
        return True

    # -- waiting for jobs

    def _wake_one(self) -> None:
        while self._idle:
            future = self._idle.popleft()
            if not future.done():
                future.set_result(None)
                return

    async def wait_for_job(self, seconds: float) -> bool:
        """Wait for a job, no longer than `seconds`; say whether there is one to be sent."""
        if len(self._jobs):
            return not self._context.draining
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not len(self._jobs) and not self._context.draining and loop.time() < deadline:
            self._context.request_work()
            await self._wait(deadline - loop.time())  # another session may be quicker: then wait on
        return bool(len(self._jobs)) and not self._context.draining

    async def _wait(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            pass
        finally:
            if future in self._idle:
                self._idle.remove(future)

    # -- the end

    def say_goodbye(self) -> None:
        """Wake the idle sessions, which end when the worker drains."""
        while self._idle:
            self._wake_one()

    async def ended(self) -> None:
        if self._all:
            await asyncio.wait(self._all)

    def cancel(self) -> int:
        """Break off the sessions whose dot is not out; return how many wait for the answer to theirs."""
        for task in self._all - self.marked:
            task.cancel()
        return len(self._all & self.marked)
