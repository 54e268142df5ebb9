"""Waits of a request on granian's event loop: commits gather, and blocking or slow work runs in bounded threads."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from postroom.core.errors import CommitUnknown, StoreUnavailable
from postroom.store.async_writer import AsyncWriter
from postroom.store.pieces import Write
from postroom.store.store import Store
from postroom.store.writer import Work
from postroom.web.turns import Turns
from postroom.web.upload import Overloaded
from postroom.web.waits import AtOnce

if TYPE_CHECKING:
    from postroom.store.transaction import Transaction
    from postroom.web.gather import Gather

Q = TypeVar("Q")
T = TypeVar("T")
ANSWER_WITHIN_S = 50.0  # from the end of a body; proxies give up after 60, and the store ends a commit in 45
_THREADS = 16
_FLASK_THREADS = 4  # and no more than so many long queries at once
_PROBE_THREADS = 2
_NICE = 10  # of the threads of Flask; 8 clients' p99 beside a query without end rose 1.2 to 1.6 times, not 1.9 to 2.9
_READ_WITHIN_S = 20.0
_LOOK_S = 1.0
_COMMIT_S = 10.0  # of the time for an answer, left for the commit
_COMPUTED_AT_ONCE = 2
_STALLED_S = 0.05
_SHORT_TURN_S = 0.0005  # of Python's lock, while a thread computes


class _Commit(Protocol):
    """The future of a commit, whatever it holds."""

    def done(self) -> bool: ...

    def cancel(self) -> bool: ...


class RequestLoop:
    """What the requests on one loop share: the writer, the threads, and the turns of what computes for long."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.writer: AsyncWriter
        self.loop: asyncio.AbstractEventLoop
        self.short_turns = ShortTurns()
        self.turns = Turns(_COMPUTED_AT_ONCE)
        self._commits: deque[tuple[float, _Commit]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._pools: tuple[ThreadPoolExecutor, ...] = ()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.writer = AsyncWriter(self.store)
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="request")
        self._flask = ThreadPoolExecutor(_FLASK_THREADS, thread_name_prefix="flask", initializer=_yield_cores)
        self._probes = ThreadPoolExecutor(_PROBE_THREADS, thread_name_prefix="probe")
        self._pools = (self.threads, self._flask, self._probes)

    def stalled_s(self) -> float:
        """Return for how long the commit has been under way that is, if one is."""
        return self.writer.under_way.seconds

    def close(self) -> None:
        """Close the store, once the commit that is under way has ended."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        if self._alarm is not None:
            self._alarm.cancel()
        if self._pools:
            self.writer.close()
        self.store.close()

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, which computes for long."""
        with self.short_turns:
            return await self.loop.run_in_executor(self.threads, call)

    async def in_flask(self, call: Callable[[], T], *, is_probe: bool) -> T:
        """Return what `call` returns: a view of Flask, which may run a long query. Raises Overloaded.

        Probes have threads of their own: long queries are to make nobody think that this process has died.
        """
        pool = self._probes if is_probe else self._flask
        try:
            with self.short_turns:
                return await self.within(ANSWER_WITHIN_S, self.loop.run_in_executor(pool, call))
        except TimeoutError:
            raise Overloaded from None

    def watch(self, answer_by: float, future: _Commit) -> None:
        """Cancel a commit that is late. One alarm looks after all, since one for each costs more than the rest of this."""
        while self._commits and self._commits[0][1].done():
            self._commits.popleft()
        self._commits.append((answer_by, future))
        if self._alarm is None:
            self._alarm = self.loop.call_later(_LOOK_S, self._look, context=contextvars.Context())

    def _look(self) -> None:
        """Give up the commits that are late; they are in the order of their coming."""
        now = self.loop.time()
        while self._commits and (self._commits[0][1].done() or self._commits[0][0] <= now):
            self._commits.popleft()[1].cancel()
        self._alarm = self.loop.call_later(_LOOK_S, self._look) if self._commits else None

    async def within(self, seconds: float, future: asyncio.Future[T]) -> T:
        """Return the result of a future. Raises TimeoutError when it is late by the loop's time, not by the machine's."""
        loop = self.loop
        is_over = False
        alarm: asyncio.TimerHandle

        def give_up(due: float) -> None:
            nonlocal alarm, is_over
            late = loop.time() - due
            if late > _STALLED_S:  # the loop has stood still: an answer that is here has not been seen yet
                alarm = loop.call_later(late, give_up, loop.time() + late)
            else:
                is_over = future.cancel()

        # A handle that was cancelled waits for its time, and keeps its context alive.
        alarm = loop.call_later(seconds, give_up, loop.time() + seconds, context=contextvars.Context())
        try:
            return await future
        except asyncio.CancelledError:
            if is_over:
                raise TimeoutError from None
            raise  # it is the request that was cancelled
        finally:
            alarm.cancel()
            alarm = give_up = None  # type: ignore[assignment]  # it refers to itself, and to the future with its result


def _yield_cores() -> None:
    """Let this thread have a core after those that accept messages, on Linux: elsewhere it would be the whole process."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(19, nice + _NICE))


class OnLoop:
    """Waits as one request on the loop does, which is to be answered by `answer_by`, in the loop's time."""

    __slots__ = ("_answer_by", "_shared")

    def __init__(self, shared: RequestLoop, answer_by: float) -> None:
        self._shared = shared
        self._answer_by = answer_by

    async def commit(self, work: Work[T]) -> T:
        """Commit together with what other requests have to commit just now.

        Work that has not begun in time is not done any more, and raises StoreUnavailable; CommitUnknown where it has.
        """
        shared = self._shared
        revocable = _Revocable(work)
        future = shared.writer.submit(revocable)
        shared.watch(self._answer_by, future)
        try:
            return await future
        except asyncio.CancelledError:
            if shared.loop.time() >= self._answer_by:
                raise revocable.give_up() from None
            raise  # it is the request that was cancelled

    async def commit_several(self, call: Callable[[Write], T]) -> T:
        waits = FromThread(self._shared, self._answer_by)
        return await self._shared.loop.run_in_executor(self._shared.threads, call, waits.write)

    async def read(self, call: Callable[[], T]) -> T:
        shared = self._shared
        return await shared.within(_READ_WITHIN_S, shared.loop.run_in_executor(shared.threads, call))

    async def compute(self, client: str, call: Callable[[], T]) -> T:
        shared = self._shared
        within_s = max(0.0, self._answer_by - _COMMIT_S - shared.loop.time())
        try:
            await shared.turns.take(client, within_s)
        except TimeoutError:
            raise Overloaded from None
        try:
            return await shared.in_thread(call)
        finally:
            shared.turns.give_back()

    async def ask(self, gather: Gather[Q, T], question: Q) -> T:
        loop = self._shared.loop
        return await self._shared.within(gather.within_s, gather.ask(loop, question))


class FromThread(AtOnce):
    """Waits in a thread beside the loop; its commits go with those of the loop's requests."""

    def __init__(self, shared: RequestLoop, answer_by: float) -> None:
        super().__init__(shared.store)
        self._shared = shared
        self._answer_by = answer_by

    def write(self, work: Work[T]) -> T:
        revocable = _Revocable(work)
        seconds = max(0.0, self._answer_by - self._shared.loop.time())
        future = asyncio.run_coroutine_threadsafe(self._submit(revocable), self._shared.loop)
        try:
            return future.result(seconds)
        except TimeoutError:
            raise revocable.give_up() from None
        finally:
            future.cancel()

    async def _submit(self, work: Work[T]) -> T:
        return await self._shared.writer.submit(work)


class GivenUp(Exception):
    """Nobody waits for this work any more."""


class _Revocable(Generic[T]):
    """Work that is either not done, or known to have begun, once it is given up. It begins in another thread."""

    __slots__ = ("_has_begun", "_is_given_up", "_work")

    def __init__(self, work: Work[T]) -> None:
        self._work = work
        self._has_begun = False
        self._is_given_up = False

    def __call__(self, transaction: Transaction) -> T:
        self._has_begun = True  # before the other is looked at, and the other way round below
        if self._is_given_up:
            raise GivenUp
        return self._work(transaction)

    def give_up(self) -> StoreUnavailable:
        """Return the error for the caller."""
        self._is_given_up = True
        if self._has_begun:
            return CommitUnknown("the commit has not ended in time")
        return StoreUnavailable("the database was not free in time; the message was not stored")


class ShortTurns:
    """While a thread computes, the loop waits less for Python's lock.

    It asks for the lock several times for each request, and every time waits for as long as
    `sys.getswitchinterval` says: 5 ms, unless told otherwise. With shorter turns a thread that computes
    loses next to nothing.
    """

    def __init__(self) -> None:
        self._count = 0
        self._usual_s = 0.0

    def __enter__(self) -> None:
        if not self._count:
            self._usual_s = sys.getswitchinterval()
            sys.setswitchinterval(min(self._usual_s, _SHORT_TURN_S))
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            sys.setswitchinterval(self._usual_s)
