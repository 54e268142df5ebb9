"""Commits the mark before the final dot of a message leaves, while the job is still this worker's."""

from __future__ import annotations

import asyncio

from postroom.core.job import ClaimedJob
from postroom.store.queue import Queue
from postroom.worker.mail.context import Context


class DotMark:
    """Awaited by the SMTP client before the end of a text leaves. Raises LeaseLost, StoreUnavailable: then it does not."""

    __slots__ = ("_context", "_job", "_marked", "_session", "is_set")

    def __init__(
        self,
        context: Context,
        job: ClaimedJob,
        marked: set[asyncio.Task[None]],
        session: asyncio.Task[None],
    ) -> None:
        self._context = context
        self._job = job
        self._marked = marked
        self._session = session
        self.is_set = False

    async def __call__(self) -> None:
        context, job = self._context, self._job
        context.marked.add(job.token)
        await context.async_writer.submit(Queue.mark_dot, job, context.clock())
        self.is_set = True
        self._marked.add(self._session)

    async def take_back(self) -> None:
        """Nothing was sent after all: a crash from now on leaves no doubt."""
        if self.is_set:
            job, self.is_set = self._job, False
            await self._context.async_writer.submit(Queue.unmark_dot, job)
