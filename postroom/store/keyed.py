"""A store for one API key: every read and write first requires that the key works. What it may see is its `Sight`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from postroom.core.api_key import ApiKey
from postroom.core.clock import Clock
from postroom.store.issued_keys import check_works
from postroom.store.store import Store
from postroom.store.transaction import Over, Transaction, work
from postroom.store.writer import Work

P = ParamSpec("P")
T = TypeVar("T")


class KeyedStore(Store):
    """A store that raises KeyStopped as soon as the key was revoked or has expired."""

    def __init__(self, store: Store, key: ApiKey, clock: Clock) -> None:
        # It shares the open database and the group commit; a second one would commit beside it.
        self._engine = store._engine
        self._group_commit = store._group_commit
        self._newest = store._newest
        self.is_remote = store.is_remote
        self._store = store
        self._key = key
        self._clock = clock

    def write(
        self, function: Callable[Concatenate[Over, P], T], /, *arguments: P.args, **named: P.kwargs
    ) -> T:
        return self._store.write(self._checked(work(function, *arguments, **named)))

    def read(
        self, function: Callable[Concatenate[Over, P], T], /, *arguments: P.args, **named: P.kwargs
    ) -> T:
        return self._store.read(self._checked(work(function, *arguments, **named)))

    def _checked(self, inner: Work[T]) -> Work[T]:
        def checked(transaction: Transaction) -> T:
            check_works(transaction, self._key, self._clock())
            return inner(transaction)

        return checked
