"""Group commit: whoever finds no commit under way leads one for all who are waiting.

A durable commit costs one flush of the disk whether it carries one message or a
hundred. While a commit runs, further work gathers; its leader then hands over to
the first who waits. There is no thread of its own to wake up, so a lone request
pays for one flush and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from postroom.errors import StoreUnavailable

if TYPE_CHECKING:
    from postroom.store.transaction import Transaction

T = TypeVar("T")
Work: TypeAlias = "Callable[[Transaction], T]"


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one piece of work: its value, or the error that undid it alone."""

    value: Any = None
    error: Exception | None = None

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class _Ticket:
    """One piece of work in the queue, and the lock its owner sleeps on."""

    __slots__ = ("settled", "turn", "work")

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.settled: Settled | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class Committer:
    """Runs pieces of work in as few transactions as possible; each returns after its commit.

    `commit_batch` takes the works of one transaction and returns one `Settled` for
    each, after the commit. An exception from it means that none of them was committed.
    """

    def __init__(
        self, commit_batch: Callable[[Sequence[Work[Any]]], list[Settled]], *, most: int = 256
    ) -> None:
        self._commit_batch = commit_batch
        self._most = most
        self._mutex = threading.Lock()
        self._waiting: deque[_Ticket] = deque()
        self._busy = False

    def run(self, work: Work[T]) -> T:
        """Return what `work` returned, once it is durable; raise what it raised."""
        value: T = self.run_all([work])[0].unwrap()
        return value

    def run_all(self, works: Sequence[Work[Any]]) -> list[Settled]:
        """Settle several works of one caller, in order, together where they fit one transaction."""
        tickets = [_Ticket(work) for work in works]
        with self._mutex:
            self._waiting.extend(tickets)
            leads = not self._busy
            self._busy = True
        if leads:
            self._lead()
        for ticket in tickets:
            ticket.turn.acquire()
            if ticket.settled is None:
                self._lead()
        return [ticket.settled for ticket in tickets if ticket.settled is not None]

    def _lead(self) -> None:
        with self._mutex:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            results = self._commit_batch([ticket.work for ticket in batch])
        except Exception as error:
            results = [Settled(error=error)] * len(batch)
        except BaseException:
            self._settle(batch, [Settled(error=StoreUnavailable("the commit was interrupted"))] * len(batch))
            raise
        self._settle(batch, results)

    def _settle(self, batch: list[_Ticket], results: list[Settled]) -> None:
        for ticket, result in zip(batch, results, strict=True):
            ticket.settled = result
        with self._mutex:
            heir = self._waiting[0] if self._waiting else None
            self._busy = heir is not None
        if heir is not None:
            heir.turn.release()  # before the others: the next commit need not wait for them
        for ticket in batch:
            ticket.turn.release()
