"""The waits of a request as an interface: for a commit, a query, another server; and `AtOnce`, for plain threads.

The code of a doorway is written once, as coroutines over `Waits`. On granian's loop they are awaited (`web/loop.py`).
In a thread, as under any other WSGI server, they never suspend, and `at_once` returns what they return.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Protocol, TypeVar

from postroom.store.pieces import Write
from postroom.store.store import Store
from postroom.store.writer import Work

if TYPE_CHECKING:
    from postroom.web.gather import Gather

Q = TypeVar("Q")
T = TypeVar("T")


class Waits(Protocol):
    """What a request may wait for."""

    async def commit(self, work: Work[T]) -> T:
        """Return what `work` returned, once it is durable: `Store.write`."""

    async def commit_several(self, call: Callable[[Write], T]) -> T:
        """Return what `call` returns, which is given a `Store.write` and calls it several times in turn."""

    async def read(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, which may wait for the database. Raises TimeoutError."""

    async def compute(self, client: str, call: Callable[[], T]) -> T:
        """Return what `call` returns, which computes for long, when it is the client's turn. Raises Overloaded."""

    async def ask(self, gather: Gather[Q, T], question: Q) -> T:
        """Return the answer to one question, asked along with those of other requests. Raises TimeoutError."""


class AtOnce:
    """Waits in the thread of its request."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, work: Work[T]) -> T:
        return self._store.write(work)

    async def commit(self, work: Work[T]) -> T:
        return self.write(work)

    async def commit_several(self, call: Callable[[Write], T]) -> T:
        return call(self.write)

    async def read(self, call: Callable[[], T]) -> T:
        return call()

    async def compute(self, client: str, call: Callable[[], T]) -> T:
        return call()

    async def ask(self, gather: Gather[Q, T], question: Q) -> T:
        return gather.ask_alone(question)


def at_once(coroutine: Coroutine[object, None, T]) -> T:
    """Return what a coroutine returns that never suspends, for all that it awaits is of `AtOnce`."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise AssertionError("a request waits for a loop in a thread without one")
