"""Where a request waits: Flask runs on an event loop, and steps aside while a commit or another server takes its time.

A thread for each request costs more than the request itself: every commit would wake a score of threads, and
they would all ask for Python's lock at once. So each request is a greenlet on one thread. What has to wait
hands an awaitable to the loop (`Hub.write`, `Hub.aside`) and is gone on with when that is done.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from postroom.core.errors import CommitUnknown, StoreUnavailable
from postroom.store.async_writer import AsyncWriter
from postroom.store.store import Store
from postroom.store.writer import Work
from postroom.web.turns import Turns
from postroom.web.upload import Overloaded

if TYPE_CHECKING:
    from postroom.store.transaction import Transaction

Q = TypeVar("Q")
T = TypeVar("T")
_THREADS = 16
_MOST_IDLE = 64
ANSWER_WITHIN_S = (
    50.0  # from the end of a body; proxies give up after 60, and the store settles a commit in 45
)
_ASIDE_WITHIN_S = 20.0
_LOOK_S = 1.0
_COMMIT_S = 10.0  # of the time for an answer, left for the commit
_COMPUTED_AT_ONCE = 2
_STALLED_S = 0.05
_SHORT_TURN_S = 0.0005  # of Python's lock, while a thread computes
_ASKING_THREADS = 8
_READING_THREADS = 4  # and no more than so many long queries at once
_here = (
    threading.local()
)  # `answer_by`: when the request in this thread is to be answered, in the loop's time


class Hub:
    """The loop that requests run on. Without one, as under any other WSGI server, everything is done on the spot."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop: asyncio.AbstractEventLoop | None = None
        self._async_writer: AsyncWriter | None = None
        self._open_threads()
        self._asking: list[ThreadPoolExecutor] = []
        self._idle: list[_Steps] = []
        self._commits: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._turns_short = _ShortTurns()
        self._turns = Turns(_COMPUTED_AT_ONCE)

    def _open_threads(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="aside")
        self._readers = ThreadPoolExecutor(_READING_THREADS, thread_name_prefix="read")

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._open_threads()  # those before may have ended with another loop
        self._loop = loop
        self._async_writer = AsyncWriter(self._store)

    def stalled_s(self) -> float:
        """Return for how long the commit has been under way that is, if one is."""
        return self._async_writer.under_way.seconds if self._async_writer is not None else 0.0

    def close(self) -> None:
        """Close the store, once the commit that is under way has ended."""
        for threads in (self._threads, self._readers, *self._asking):
            threads.shutdown(wait=False, cancel_futures=True)
        if self._alarm is not None:
            self._alarm.cancel()
        if self._async_writer is not None:
            self._async_writer.close()
        self._store.close()

    # -- for the loop

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a synchronous function that may use `write` and `aside`; the loop goes on while it waits."""
        assert self._loop is not None
        steps = self._idle.pop() if self._idle else _begun()
        steps.answer_by = self._loop.time() + ANSWER_WITHIN_S
        steps.gr_context = contextvars.copy_context()
        result = steps.switch(function, arguments)
        while not isinstance(result, _Returned):
            try:
                value = await result
            except BaseException as error:
                result = steps.throw(error)
            else:
                result = steps.switch(value)
        steps.gr_context = None
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(steps)
        found: T = result.take()
        return found

    async def run_in_thread(self, answer_by: float, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that computes for long; its `aside` is done on the spot.

        `write` gives up at `answer_by`, in the loop's time.
        """

        def call() -> T:
            _here.answer_by = answer_by
            try:
                return function(*arguments)
            finally:
                del _here.answer_by

        assert self._loop is not None
        with self._turns_short:
            return await self._loop.run_in_executor(self._threads, call)

    # -- for requests

    def write(self, work: Work[T]) -> T:
        """`Store.write`, together with what other requests have to commit just now.

        Work that has not begun in time is not done any more, and raises StoreUnavailable; CommitUnknown where it has.
        """
        steps = getcurrent()
        answer_by: float | None = (
            steps.answer_by if isinstance(steps, _Steps) else getattr(_here, "answer_by", None)
        )
        if self._loop is None or self._async_writer is None or answer_by is None:
            return self._store.write(work)
        promise = _Promise(work)
        seconds = answer_by - self._loop.time()
        try:
            if isinstance(steps, _Steps):
                return self._watched(answer_by, self._async_writer.submit(promise))
            return self._write_from_thread(seconds, promise)
        except TimeoutError:
            raise promise.give_up() from None

    def _watched(self, answer_by: float, future: asyncio.Future[T]) -> T:
        """Wait for a commit. One alarm looks after all of them, since an alarm for each costs more than the rest of this."""
        assert self._loop is not None
        while self._commits and self._commits[0][1].done():
            self._commits.popleft()
        self._commits.append((answer_by, future))
        if self._alarm is None:
            self._alarm = self._loop.call_later(_LOOK_S, self._look)
        try:
            value: T = _wait(future)
        except asyncio.CancelledError:
            assert self._loop is not None
            if self._loop.time() >= answer_by:
                raise TimeoutError from None
            raise  # it is the request that was cancelled
        return value

    def _look(self) -> None:
        """Give up the commits that are late; they are in the order of their coming."""
        assert self._loop is not None
        now = self._loop.time()
        while self._commits and (self._commits[0][1].done() or self._commits[0][0] <= now):
            self._commits.popleft()[1].cancel()
        self._alarm = self._loop.call_later(_LOOK_S, self._look) if self._commits else None

    def _write_from_thread(self, seconds: float, promise: _Promise[T]) -> T:
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(self._commit(promise), self._loop)
        try:
            return future.result(max(0.0, seconds))
        finally:
            future.cancel()

    async def _commit(self, promise: _Promise[T]) -> T:
        assert self._async_writer is not None
        return await self._async_writer.submit(promise)

    def read(self, call: Callable[[], T]) -> T:
        """Return what `call` reads from the store, in one of a few threads: a long query delays no other request."""
        if self._loop is None or not isinstance(getcurrent(), _Steps):
            return call()
        try:
            with self._turns_short:
                return self._within(_ASIDE_WITHIN_S, self._loop.run_in_executor(self._readers, call))
        except TimeoutError:
            raise StoreUnavailable(f"the database has not answered within {_ASIDE_WITHIN_S:g} s") from None

    def aside(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, which may have to wait for another server. Raises TimeoutError."""
        if self._loop is None or not isinstance(getcurrent(), _Steps):
            return call()
        return self._within(_ASIDE_WITHIN_S, self._loop.run_in_executor(self._threads, call))

    def compute(self, client: str, call: Callable[[], T]) -> T:
        """Return what `call` returns, which computes for long: in a thread, when it is the client's turn.

        Raises Overloaded when its turn has not come in time.
        """
        steps = getcurrent()
        if self._loop is None or not isinstance(steps, _Steps):
            return call()
        within_s = max(0.0, steps.answer_by - _COMMIT_S - self._loop.time())
        try:
            value: T = _wait(self._loop.create_task(self._compute(client, within_s, call)))
        except TimeoutError:
            raise Overloaded from None
        return value

    async def _compute(self, client: str, within_s: float, call: Callable[[], T]) -> T:
        assert self._loop is not None
        await self._turns.take(client, within_s)
        try:
            with self._turns_short:
                return await self._loop.run_in_executor(self._threads, call)
        finally:
            self._turns.give_back()

    def together(
        self, answer: Callable[[Sequence[Q]], Sequence[T]], within_s: float = _ASIDE_WITHIN_S
    ) -> Callable[[Q], T]:
        """Return what answers one question: along with those of other requests, which gather while some are under way.

        `answer` may have to wait for another server, and is called in a thread, once at a time on the loop. Raises
        TimeoutError after `within_s`, whatever the answer waits for, and whatever `answer` raises, for each that it
        was asked for.
        """
        # Those of `aside` may all be taken.
        threads = ThreadPoolExecutor(_ASKING_THREADS, thread_name_prefix="ask")
        self._asking.append(threads)
        desk = _Desk(answer, threads)

        def ask(question: Q) -> T:
            if self._loop is None or not isinstance(getcurrent(), _Steps):
                return threads.submit(answer, [question]).result(within_s)[0]
            return self._within(within_s, desk.ask(self._loop, question))

        return ask

    def _within(self, seconds: float, future: asyncio.Future[T]) -> T:
        assert self._loop is not None
        loop = self._loop
        is_over = False
        alarm: asyncio.TimerHandle | None = None

        def give_up(due: float) -> None:
            nonlocal alarm, is_over
            late = loop.time() - due
            if late > _STALLED_S:  # the loop has stood still: an answer that is here has not been seen yet
                alarm = loop.call_later(late, give_up, loop.time() + late)
            else:
                is_over = future.cancel()

        # A handle that was cancelled waits for its time, with its context: the request's own would live on as long.
        alarm = loop.call_later(seconds, give_up, loop.time() + seconds, context=contextvars.Context())
        try:
            value: T = _wait(future)
        except asyncio.CancelledError:
            if is_over:
                raise TimeoutError from None
            raise  # it is the request that was cancelled
        finally:
            if alarm is not None:
                alarm.cancel()
        return value


class _Desk(Generic[Q, T]):
    """Questions that are answered together, in a thread."""

    def __init__(self, answer: Callable[[Sequence[Q]], Sequence[T]], threads: ThreadPoolExecutor) -> None:
        self._answer = answer
        self._threads = threads
        self._waiting: list[tuple[Q, asyncio.Future[T]]] = []
        self._answering: asyncio.Task[None] | None = None

    def ask(self, loop: asyncio.AbstractEventLoop, question: Q) -> asyncio.Future[T]:
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((question, future))
        if self._answering is None:
            self._answering = loop.create_task(self._answer_all(loop))
        return future

    async def _answer_all(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)  # what else is ready to run may have something to ask
                asked, self._waiting = self._waiting, []
                questions = [question for question, _ in asked]
                try:
                    answers = await loop.run_in_executor(self._threads, self._answer, questions)
                except Exception as error:
                    for _, future in asked:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, future), answer in zip(asked, answers, strict=True):
                        if not future.done():
                            future.set_result(answer)
        finally:
            self._answering = None


class _GivenUp(Exception):
    """Nobody waits for this work any more."""


class _ShortTurns:
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


class _Promise(Generic[T]):
    """Work that is either not done, or known to have begun, once it is given up. It begins in another thread."""

    __slots__ = ("_has_begun", "_is_given_up", "_work")

    def __init__(self, work: Work[T]) -> None:
        self._work = work
        self._has_begun = False
        self._is_given_up = False

    def __call__(self, transaction: Transaction) -> T:
        self._has_begun = True  # before the other is looked at, and the other way round below
        if self._is_given_up:
            raise _GivenUp
        return self._work(transaction)

    def give_up(self) -> StoreUnavailable:
        """Return what to tell whoever waited."""
        self._is_given_up = True
        if self._has_begun:
            return CommitUnknown("the commit has not ended in time")
        return StoreUnavailable("the database was not free in time; the message was not stored")


class _Steps(greenlet):
    """Functions that step aside: they hand awaitables to `Hub.run`, and get their values back.

    It is used again, since the memory for Python's frames is asked of the system for each one, and returned.
    """

    answer_by: float  # when the request is to be answered, in the loop's time


@dataclass(slots=True)
class _Returned:
    """What came of a function."""

    value: Any = None
    error: BaseException | None = None

    def take(self) -> Any:
        """Return the value, or raise the error, and keep neither alive."""
        value, error = self.value, self.error
        self.value = self.error = None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        return value


def _begun() -> _Steps:
    """Return steps that wait for their first function: what a greenlet is started with it holds until it ends."""
    steps = _Steps(_call_in_turn)
    steps.switch()
    return steps


def _call_in_turn() -> None:
    """Call one function after another, each handed over by `Hub.run` when the one before has returned."""
    function, arguments = _wait(None)
    while True:
        try:
            returned = _Returned(function(*arguments))
        except GreenletExit:  # nobody waits for it any more
            raise
        except BaseException as error:
            returned = _Returned(error=error)
        del function, arguments  # they are not to live until the next call
        function, arguments = _wait(returned)


def _wait(awaitable: Any) -> Any:
    parent = getcurrent().parent
    assert parent is not None
    return parent.switch(awaitable)
