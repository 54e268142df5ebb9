"""Lets asyncio code write to the store: work gathers on the event loop and is committed by one thread."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from postroom.core.errors import CommitUnknown, LeaseLost, StoreUnavailable
from postroom.core.heartbeat import UnderWay
from postroom.store.store import Store
from postroom.store.transaction import Over, work
from postroom.store.writer import Work, WorkResult

log = logging.getLogger(__name__)
T = TypeVar("T")
P = ParamSpec("P")
_LONGEST_PAUSE_S = 2.0


@dataclass(slots=True)
class _Recording:
    """Work that is tried until it is recorded; `pause` in seconds."""

    work: Work[object]
    what: str
    then: Callable[[Any], None] | None
    done: asyncio.Future[None]
    pause: float = 0.05


class AsyncWriter:
    """Commits what the coroutines hand over, in the order in which they hand it over.

    While a commit is under way, or another process has the database, further work gathers, and goes into the next
    one. `on_unknown` is called when it is unknown whether a commit was done, and when work that must be recorded
    cannot be.
    """

    def __init__(self, store: Store, *, on_unknown: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._on_unknown = on_unknown
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._waiting: deque[tuple[Work[object], asyncio.Future[object]]] = deque()
        self._flushing: asyncio.Task[None] | None = None
        self._persisting: set[asyncio.Future[None]] = set()
        self.under_way = UnderWay()  # a commit

    def submit(
        self, function: Callable[Concatenate[Over, P], T], /, *arguments: P.args, **named: P.kwargs
    ) -> asyncio.Future[T]:
        """Queue the call of a noun's function (`Store.write`); the future holds its result once durable, or its error."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work(function, *arguments, **named), cast("asyncio.Future[object]", future)))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return future

    def submit_until_recorded(
        self, task: Work[object], what: str, then: Callable[[Any], None] | None = None
    ) -> asyncio.Future[None]:
        """Commit work that must not be given up, trying again for as long as the store is unavailable.

        The future is done, and `then` called with what `task` returned, once it is recorded; with None when it has
        proved impossible.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._persisting.add(done)
        self._try(_Recording(task, what, then, done))
        return done

    def _try(self, recording: _Recording) -> None:
        self.submit(recording.work).add_done_callback(lambda future: self._tried(recording, future))

    def _tried(self, recording: _Recording, future: asyncio.Future[object]) -> None:
        error = future.exception()
        if isinstance(error, StoreUnavailable):
            log.warning("cannot record %s yet: %s", recording.what, error)
            recording.pause = min(recording.pause * 2, _LONGEST_PAUSE_S)
            asyncio.get_running_loop().call_later(recording.pause, self._try, recording)
            return
        if isinstance(error, LeaseLost):
            log.warning("cannot record %s: %s", recording.what, error)
        elif error is not None:
            log.error("cannot record %s", recording.what, exc_info=error)
            self._on_unknown()  # the database holds it as under way, and would for as long as we live
        self._persisting.discard(recording.done)
        recording.done.set_result(None)
        if recording.then is not None:
            recording.then(None if error is not None else future.result())

    async def _flush(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)  # other tasks that are ready may have work to commit
                await self._commit()
        finally:
            self._flushing = None

    async def _commit(self) -> None:
        futures: list[asyncio.Future[object]] = []

        def take(most: int) -> list[Work[object]]:  # called in the store's thread
            works: list[Work[object]] = []
            while self._waiting and len(works) < most:
                pending, future = self._waiting.popleft()
                if not future.cancelled():  # skip work that was cancelled before it started
                    works.append(pending)
                    futures.append(future)
            return works

        loop = asyncio.get_running_loop()
        with self.under_way:
            results = await loop.run_in_executor(self._thread, self._store.write_late, take)
        if any(isinstance(result.error, CommitUnknown) for result in results):
            self._on_unknown()
        for future, result in zip(futures, results, strict=True):
            _resolve(future, result)

    async def drained(self) -> None:
        """Return when everything handed over so far is committed."""
        while self._persisting or self._flushing is not None:
            waiting = [*self._persisting, *([self._flushing] if self._flushing else [])]
            await asyncio.wait(waiting)

    def close(self) -> None:
        self._thread.shutdown()


def _resolve(future: asyncio.Future[object], result: WorkResult) -> None:
    if future.cancelled():
        return
    if result.error is not None:
        future.set_exception(result.error)
    else:
        future.set_result(result.value)
