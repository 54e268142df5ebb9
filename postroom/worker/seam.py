"""The one seam between asyncio and the store: work gathers in the loop and is committed in one thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from postroom.errors import StoreUnavailable
from postroom.store import Settled, Store, Work

log = logging.getLogger(__name__)
T = TypeVar("T")
_LONGEST_PAUSE_S = 2.0


class Seam:
    """Commits what the coroutines hand over, in the order in which they hand it over.

    While a commit is under way further work gathers, and goes into the next one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._waiting: list[tuple[Work[Any], asyncio.Future[Any]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._persisting: set[asyncio.Task[None]] = set()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Queue work; the future holds its result once it is durable, or its error."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return future

    def persist(self, work: Work[Any], what: str) -> asyncio.Task[None]:
        """Commit work that must not be given up, trying again for as long as the store is unavailable."""
        task = asyncio.create_task(self._persist(self.submit(work), work, what))
        self._persisting.add(task)
        task.add_done_callback(self._persisting.discard)
        return task

    async def _persist(self, first: asyncio.Future[Any], work: Work[Any], what: str) -> None:
        future, pause = first, 0.1
        while True:
            try:
                await future
            except StoreUnavailable as error:
                log.warning("cannot record %s yet: %s", what, error)
            except Exception:
                log.exception("cannot record %s", what)
                return
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
            future = self.submit(work)

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._commit(batch)
        finally:
            self._flushing = None

    async def _commit(self, batch: Sequence[tuple[Work[Any], asyncio.Future[Any]]]) -> None:
        loop = asyncio.get_running_loop()
        works = [work for work, _ in batch]
        settled = await loop.run_in_executor(self._thread, self._store.write_all, works)
        for (_, future), result in zip(batch, settled, strict=True):
            _resolve(future, result)

    async def settle(self) -> None:
        """Return when everything handed over so far is committed."""
        while self._persisting or self._flushing is not None:
            waiting = [*self._persisting, *([self._flushing] if self._flushing else [])]
            await asyncio.wait(waiting)

    def close(self) -> None:
        self._thread.shutdown()


def _resolve(future: asyncio.Future[Any], result: Settled) -> None:
    if future.cancelled():
        return
    if result.error is not None:
        future.set_exception(result.error)
    else:
        future.set_result(result.value)
