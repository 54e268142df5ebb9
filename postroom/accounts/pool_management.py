"""Pools managed at run time: added, changed, deleted; each change and its audit entry in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from postroom.core.audit import Actor
from postroom.core.clock import Clock, system_clock
from postroom.core.errors import Conflict, InvalidSubmission, NotFound
from postroom.store.pools import Pool, Pools
from postroom.store.store import Store
from postroom.store.transaction import Transaction

_LONGEST_NAME: Final = 100
_MOST_MEMBERS: Final = 1000
_HEAVIEST: Final = 1_000_000


class PoolManagement:
    """Adds, changes and ends pools for a person or a program (`Actor`). Members are weights by the ids of accounts."""

    def __init__(self, store: Store, clock: Clock = system_clock) -> None:
        self._store = store
        self._clock = clock

    def get(self, uid: str) -> Pool:
        """Return a pool. Raises NotFound."""
        return self._store.read(_existing, uid)

    def page(self, most: int, *, after: int = 0) -> list[Pool]:
        return self._store.read(Pools.page, most, after=after)

    def create(self, name: str, members: Mapping[str, int], actor: Actor) -> Pool:
        """Add a pool. Raises InvalidSubmission naming the field."""
        checked, now = _name(name), self._clock()

        def work(transaction: Transaction) -> Pool:
            pool = Pools(transaction).create(checked, _weights(transaction, members), now)
            transaction.audit.append(actor, "pool.create", checked, now, {"id": pool.uid, **_told(members)})
            return pool

        return self._store.write(work)

    def change(self, uid: str, actor: Actor, name: str | None, members: Mapping[str, int] | None) -> Pool:
        """Give a pool another name, or other members; None: as before. Raises InvalidSubmission, NotFound."""
        checked, now = None if name is None else _name(name), self._clock()

        def work(transaction: Transaction) -> Pool:
            pools, pool = Pools(transaction), _existing(transaction, uid)
            if checked is not None:
                pools.rename(pool.id, checked, now)
            if members is not None:
                pools.set_members(pool.id, _weights(transaction, members), now)
            told = {"id": uid, "name": checked, **_told(members or {})}
            transaction.audit.append(actor, "pool.change", pool.name, now, told)
            return _existing(transaction, uid)

        return self._store.write(work)

    def delete(self, uid: str, actor: Actor) -> None:
        """Delete a pool: its keys die at once, and its accounts stay. Raises NotFound."""
        now = self._clock()

        def work(transaction: Transaction) -> None:
            pool = _existing(transaction, uid)
            Pools(transaction).delete(pool.id, now)
            transaction.audit.append(actor, "pool.delete", pool.name, now, {"id": uid})

        self._store.write(work)


def _existing(transaction: Transaction, uid: str) -> Pool:
    pool = Pools(transaction).by_uid(uid)
    if pool is None:
        raise NotFound("there is no pool with this id", field="id")
    return pool


def _weights(transaction: Transaction, members: Mapping[str, int]) -> dict[int, int]:
    """Return the weights by the rows of the accounts. Raises InvalidSubmission, Conflict."""
    if not 0 < len(members) <= _MOST_MEMBERS:
        raise InvalidSubmission(f"give 1 to {_MOST_MEMBERS} accounts", field="members")
    weights: dict[int, int] = {}
    for uid, weight in members.items():
        stored = transaction.accounts.by_uid(uid)
        if stored is None:
            raise InvalidSubmission("there is no account with one of these ids", field="members")
        if stored.account.closing_at is not None:
            raise Conflict(f"{stored.account.email} is being deleted", field="members")
        if not 0 < weight <= _HEAVIEST:
            raise InvalidSubmission(f"a weight is between 1 and {_HEAVIEST}", field="members")
        weights[stored.account.id] = weight
    return weights


def _name(text: str) -> str:
    name = text.strip()
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise InvalidSubmission(f"give it a name of 1 to {_LONGEST_NAME} printable characters", field="name")
    return name


def _told(members: Mapping[str, int]) -> dict[str, object]:
    return {"members": dict(members)} if members else {}
