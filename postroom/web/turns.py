"""Turns for long computations: so many at a time, and fair between clients."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Lends `at_once` turns. Those that wait are served client by client, each its own in their order."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by client; the first is the next one

    async def take(self, client: str, within_s: float) -> None:
        """Wait for a turn. Raises TimeoutError."""
        if self._free > 0 and not self._waiting:
            self._free -= 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(future)
        try:
            async with asyncio.timeout(within_s):
                await future
        except BaseException:
            self._leave(client, future)
            raise

    def give_back(self) -> None:
        self._free += 1
        self._lend()

    def _lend(self) -> None:
        while self._free > 0 and self._waiting:
            client = next(iter(self._waiting))
            queue = self._waiting.pop(client)
            future = queue.popleft()
            if queue:
                self._waiting[client] = queue  # behind all others
            if not future.done():
                self._free -= 1
                future.set_result(None)

    def _leave(self, client: str, future: asyncio.Future[None]) -> None:
        """Stop waiting; a turn that was lent in this moment goes to the next."""
        if future.done() and not future.cancelled():
            self.give_back()
            return
        queue = self._waiting.get(client)
        if queue is not None and future in queue:
            queue.remove(future)
            if not queue:
                del self._waiting[client]
