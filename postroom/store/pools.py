"""Pools in the database: named groups of accounts with weights, which a key may send through."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.store.noun import Noun
from postroom.store.usage import BUCKET, BUCKETS_A_DAY, bucket_of

ALL = (1 << 62) - 1  # more pools than there are


@dataclass(frozen=True, slots=True)
class PoolMember:
    """An account of a pool, and its share of the messages beside the other members' weights."""

    account_id: int
    account_uid: str
    email: str
    weight: int


@dataclass(frozen=True, slots=True)
class Pool:
    """Accounts that share the messages of the pool's keys. Members whose accounts are deleted are left out."""

    id: int
    uid: str  # its id in the API
    name: str
    created_at: Instant
    updated_at: Instant
    members: tuple[PoolMember, ...]


@dataclass(frozen=True, slots=True)
class MemberLoad:
    """What the choice of a pool's account looks at."""

    account_id: int
    weight: int
    state: str
    resume_at: Instant | None
    closing_at: Instant | None
    used: int  # recipients of the last 24 hours
    room_at: Instant  # when the first of them no longer count
    waiting: int  # messages


class _LoadRow(NamedTuple):
    account_id: int
    weight: int
    state: str
    resume_at: Instant | None
    closing_at: Instant | None
    used: int
    oldest: int | None
    waiting: int


class _PoolRow(NamedTuple):
    id: int
    uid: str
    name: str
    created_at: Instant
    updated_at: Instant


class _MemberRow(NamedTuple):
    pool_id: int
    account_id: int
    account_uid: str
    email: str
    weight: int


class Pools(Noun):
    """Weights are at least 1 (a CHECK); accounts are named by their rows' ids, as `Accounts.by_uid` finds them."""

    def create(self, name: str, weights: Mapping[int, int], now: Instant) -> Pool:
        """Store a new pool; `weights` maps the ids of its accounts to their weights."""
        self._tx.note_keys_changed()
        uid = str(uuid.uuid4())
        id_ = self._tx.value(int, "insert_pool", uid=uid, name=name, now=now)
        assert id_ is not None
        self._add(id_, weights)
        found = self.by_uid(uid)
        assert found is not None
        return found

    def rename(self, pool_id: int, name: str, now: Instant) -> bool:
        """Give a pool another name; False when it is deleted."""
        self._tx.note_keys_changed()
        return bool(self._tx.change("rename_pool", pool_id=pool_id, name=name, now=now))

    def set_members(self, pool_id: int, weights: Mapping[int, int], now: Instant) -> bool:
        """Give a pool these accounts with these weights, and no others; False when it is deleted."""
        self._tx.note_keys_changed()
        if not self._tx.change("touch_pool", pool_id=pool_id, now=now):
            return False
        self._tx.change("drop_pool_members", pool_id=pool_id)
        self._add(pool_id, weights)
        return True

    def delete(self, pool_id: int, now: Instant) -> bool:
        """Delete a pool and revoke its keys; what was sent with them stays. False when it was deleted before."""
        self._tx.note_keys_changed()
        if not self._tx.change("delete_pool", pool_id=pool_id, now=now):
            return False
        self._tx.issued_keys.revoke_of_pool(pool_id, now)
        self._tx.change("drop_pool_members", pool_id=pool_id)
        return True

    def hold(self, pool_id: int) -> bool:
        """Let nobody delete the pool before the transaction is over; False when it is deleted."""
        return bool(self._tx.change("hold_pool", pool_id=pool_id))

    def by_uid(self, uid: str) -> Pool | None:
        """Return the pool with this id of the API, unless it is deleted."""
        row = self._tx.row(_PoolRow, "pool_by_uid", uid=uid)
        return None if row is None else self._with_members([row])[0]

    def page(self, most: int, *, after: int = 0) -> list[Pool]:
        """Return pools in the order of their rows, from behind the row `after`."""
        return self._with_members(self._tx.rows(_PoolRow, "pools_page", after=after, most=most))

    def all(self) -> list[Pool]:
        return self.page(ALL)

    def loads(self, pool_id: int, now: Instant) -> list[MemberLoad]:
        """Return what the members of a pool can take, in the order of their accounts' rows."""
        current = bucket_of(now)
        rows = self._tx.rows(
            _LoadRow,
            "pool_loads",
            pool_id=pool_id,
            bucket=current - BUCKETS_A_DAY + 1,
            latest=current + BUCKETS_A_DAY,
        )
        return [
            MemberLoad(
                row.account_id,
                row.weight,
                row.state,
                row.resume_at,
                row.closing_at,
                row.used,
                ((current if row.oldest is None else row.oldest) + BUCKETS_A_DAY) * BUCKET,
                max(row.waiting, 0),
            )
            for row in rows
        ]

    def member_that_sent(self, pool_id: int, request_id: str) -> int | None:
        """Return the account of a pool that has sent a message, or None where no member has."""
        return self._tx.value(int, "member_that_sent", pool_id=pool_id, request_id=request_id)

    def anchor_of(self, pool_id: int) -> int | None:
        """Return the account under whose row the idempotency keys of a pool stand, whichever account sends."""
        return self._tx.value(int, "pool_anchor", pool_id=pool_id)

    def _add(self, pool_id: int, weights: Mapping[int, int]) -> None:
        for account_id, weight in weights.items():
            self._tx.change("add_pool_member", pool_id=pool_id, account_id=account_id, weight=weight)
        self._tx.change("anchor_pool", pool_id=pool_id, account_id=min(weights, default=None))

    def _with_members(self, rows: list[_PoolRow]) -> list[Pool]:
        if not rows:
            return []
        found = self._tx.rows(_MemberRow, "pool_members_of", first=rows[0].id, last=rows[-1].id)
        return [Pool(*row, members=_members(row.id, found)) for row in rows]


def _members(pool_id: int, rows: Iterable[_MemberRow]) -> tuple[PoolMember, ...]:
    return tuple(
        PoolMember(row.account_id, row.account_uid, row.email, row.weight)
        for row in rows
        if row.pool_id == pool_id
    )
