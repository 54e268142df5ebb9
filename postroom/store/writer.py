"""Group commit: the thread that finds no commit under way leads one for all waiting works (leader, follower).

A durable commit costs one flush of the disk whether it carries one message or a
hundred. While a commit runs, or the database is another process's, further work gathers;
what goes together is chosen last, when the transaction can begin. The leader then hands over to
the first who waits. There is no thread of its own to wake up, so a lone request
pays for one flush and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from postroom.core.errors import StoreUnavailable
from postroom.core.measures import Measures

if TYPE_CHECKING:
    from postroom.store.transaction import Transaction

T = TypeVar("T")
Work: TypeAlias = "Callable[[Transaction], T]"
Take: TypeAlias = "Callable[[int], Sequence[Work[object]]]"  # hands over the works that wait, up to so many


@dataclass(frozen=True, slots=True)
class WorkResult:
    """The result of one piece of work: its value, or the error that undid it alone."""

    value: object = None
    error: Exception | None = None

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class _Follower:
    """The place of a caller's works in the queue, and the lock that the caller waits on."""

    __slots__ = ("results", "take", "turn")

    def __init__(self, take: Take) -> None:
        self.take = take
        self.results: list[WorkResult] | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class GroupCommit:
    """Runs pieces of work in as few transactions as possible; each returns after its commit.

    `commit_batch` calls what it is given when its transaction can begin, for the works of it, and returns one
    `WorkResult` for each, after the commit. An exception from it means that none of them was committed.
    """

    def __init__(
        self,
        commit_batch: Callable[[Callable[[], Sequence[Work[object]]]], list[WorkResult]],
        *,
        most: int = 256,
        measures: Measures | None = None,
    ) -> None:
        self._commit_batch = commit_batch
        self._most = most
        self._measures = measures or Measures()
        self._mutex = threading.Lock()
        self._waiting: deque[_Follower] = deque()
        self._busy = False

    def run(self, work: Work[T]) -> T:
        """Return what `work` returned, once it is durable; raise what it raised."""
        value: T = self.run_all([work])[0].unwrap()
        return value

    def run_all(self, works: Sequence[Work[object]]) -> list[WorkResult]:
        """Commit several works of one caller, in order, together where they fit one transaction."""
        left = deque(works)
        results: list[WorkResult] = []
        while left:
            results += self.run_late(lambda most: [left.popleft() for _ in range(min(most, len(left)))])
        return results

    def run_late(self, take: Take) -> list[WorkResult]:
        """Commit, in order, the works that `take` hands over when the transaction begins.

        It is called once, perhaps in another thread.
        """
        follower = _Follower(take)
        with self._mutex:
            self._waiting.append(follower)
            leads = not self._busy
            self._busy = True
        if leads:
            self._lead()
        follower.turn.acquire()
        if follower.results is None:
            self._lead()
        assert follower.results is not None
        return follower.results

    def _lead(self) -> None:
        batch: list[_Follower] = []
        sizes: list[int] = []

        def take() -> list[Work[object]]:
            works: list[Work[object]] = []
            with self._mutex:
                while self._waiting and len(works) < self._most:
                    follower = self._waiting.popleft()
                    part = follower.take(self._most - len(works))
                    batch.append(follower)
                    sizes.append(len(part))
                    works += part
            return works

        def fail(error: Exception) -> None:
            if not batch:  # those who waited in vain for a transaction to begin
                take()
            self._hand_out(batch, sizes, [WorkResult(error=error)] * sum(sizes))

        began = time.perf_counter()
        try:
            results = self._commit_batch(take)
        except Exception as error:
            fail(error)
        except BaseException:
            fail(StoreUnavailable("the commit was interrupted"))
            raise
        else:
            self._hand_out(batch, sizes, results)
            self._measures.observe("commit_duration_seconds", time.perf_counter() - began)
            self._measures.observe("commit_works", len(results))

    def _hand_out(self, batch: list[_Follower], sizes: list[int], results: list[WorkResult]) -> None:
        assert len(results) == sum(sizes)
        rest = iter(results)
        for follower, size in zip(batch, sizes, strict=True):
            follower.results = list(islice(rest, size))
        with self._mutex:
            leader = self._waiting[0] if self._waiting else None
            self._busy = leader is not None
        if leader is not None:
            leader.turn.release()  # before the others: the next commit need not wait for them
        for follower in batch:
            follower.turn.release()
