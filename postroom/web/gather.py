"""Sends questions to another server (the rate limiter's storage) in batches: those that come meanwhile go together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Q = TypeVar("Q")
T = TypeVar("T")
_THREADS = 8


class Gather(Generic[Q, T]):
    """Asks `answer`, which may wait for another server, in a thread; on a loop for one group of questions at a time.

    Whatever it raises is raised for each question of the group.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Sequence[T]], within_s: float) -> None:
        self.within_s = within_s
        self._answer = answer
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ask")
        self._waiting: list[tuple[Q, asyncio.Future[T]]] = []
        self._answering: asyncio.Task[None] | None = None

    def ask_alone(self, question: Q) -> T:
        """Return the answer to one question. Raises TimeoutError after `within_s`, whatever the answer waits for."""
        return self._threads.submit(self._answer, [question]).result(self.within_s)[0]

    def ask(self, loop: asyncio.AbstractEventLoop, question: Q) -> asyncio.Future[T]:
        """Return the future answer; its caller gives up after `within_s`."""
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((question, future))
        if self._answering is None:
            self._answering = loop.create_task(self._answer_all(loop))
        return future

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

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
