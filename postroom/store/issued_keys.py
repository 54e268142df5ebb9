"""Keys issued by the API or the command line: stored as digests; issued, held by acceptances, counted, rotated, revoked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING, NamedTuple

from postroom.core.api_key import ApiKey, Scope
from postroom.core.clock import SECOND, Instant
from postroom.core.errors import KeyStopped, QuotaExceeded
from postroom.store.noun import Noun
from postroom.store.usage import BUCKET, BUCKETS_A_DAY, bucket_of

if TYPE_CHECKING:
    from postroom.store.transaction import Transaction

ALL = (1 << 62) - 1  # a key's id is below this


class _KeyRow(NamedTuple):
    """The columns of a key, as `issued_key_columns` in sql/issued_keys.sql names them."""

    id: int
    uid: str
    digest: bytes
    name: str
    account_id: int | None
    pool_id: int | None
    scopes: str
    test: int
    allowed_recipients: str | None
    networks: str | None
    daily_limit: int | None
    hint: str
    source: str
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None
    last_used_at: Instant | None


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key with what a list shows of it; never the key itself."""

    key: ApiKey
    hint: str  # its last characters
    source: str
    created_at: Instant
    revoked_at: Instant | None
    last_used_at: Instant | None


class IssuedKeys(Noun):
    def issue(self, key: ApiKey, *, hint: str, source: str, now: Instant) -> int:
        """Store a new key; return its row's id. `key.digest` stands for it."""
        id_ = self._tx.value(
            int,
            "insert_issued_key",
            uid=key.uid,
            digest=key.digest,
            name=key.name,
            account_id=key.account_id,
            pool_id=key.pool_id,
            scopes=" ".join(sorted(scope.value for scope in key.scopes)),
            test=int(key.is_test),
            allowed_recipients=_json(key.allowed_recipients),
            networks=_json(None if key.networks is None else tuple(map(str, key.networks))),
            daily_limit=key.daily_limit,
            hint=hint,
            source=source,
            now=now,
            expires_at=key.expires_at,
        )
        assert id_ is not None
        self._tx.note_keys_changed(key_id=id_)
        return id_

    def working(self, now: Instant) -> list[IssuedKey]:
        """Return every key that is neither revoked nor expired."""
        return [_issued_key(row) for row in self._tx.rows(_KeyRow, "working_issued_keys", now=now)]

    def working_of(self, account_id: int, now: Instant) -> list[IssuedKey]:
        """Return the working keys of an account."""
        rows = self._tx.rows(_KeyRow, "working_issued_keys_of_account", now=now, account_id=account_id)
        return [_issued_key(row) for row in rows]

    def working_one(self, key_id: int, now: Instant) -> list[IssuedKey]:
        """Return this key if it works."""
        rows = self._tx.rows(_KeyRow, "working_issued_key", now=now, key_id=key_id)
        return [_issued_key(row) for row in rows]

    def by_uid(self, uid: str) -> IssuedKey | None:
        row = self._tx.row(_KeyRow, "issued_key_by_uid", uid=uid)
        return None if row is None else _issued_key(row)

    def by_digest(self, digest: bytes) -> IssuedKey | None:
        row = self._tx.row(_KeyRow, "issued_key_by_digest", digest=digest)
        return None if row is None else _issued_key(row)

    def page(self, most: int, *, before: int = ALL, account_id: int | None = None) -> list[IssuedKey]:
        """Return keys that are not revoked, newest first, from below the row `before`; without the admin token."""
        if account_id is None:
            rows = self._tx.rows(_KeyRow, "all_issued_keys_page", before=before, most=most)
        else:
            rows = self._tx.rows(_KeyRow, "issued_keys_page", before=before, most=most, account_id=account_id)
        return [_issued_key(row) for row in rows]

    def of_source(self, source: str) -> list[IssuedKey]:
        return [_issued_key(row) for row in self._tx.rows(_KeyRow, "issued_keys_of_source", source=source)]

    def revoke(self, key_id: int, now: Instant) -> bool:
        """Have a key stop working at this commit; False when it did not work any more."""
        self._tx.note_keys_changed(key_id=key_id)
        return bool(self._tx.change("revoke_issued_key", key_id=key_id, now=now))

    def stop(self, key_id: int, now: Instant) -> bool:
        """Have a key stop working at this commit, without waiting for acceptances that hold its row; False: it was stopped.

        What began to be accepted before may still be committed. `revoke` then waits for it.
        """
        self._tx.note_keys_changed(key_id=key_id)
        return bool(self._tx.change("stop_issued_key", key_id=key_id, now=now))

    def revoke_stopped(self) -> None:
        """Write into the rows of stopped keys that they are revoked. They have not worked since they were stopped."""
        self._tx.change("revoke_stopped_keys")

    def revoke_of_account(self, account_id: int, now: Instant) -> None:
        self._tx.note_keys_changed(account_id=account_id)
        self._tx.change("revoke_issued_keys_of_account", account_id=account_id, now=now)

    def revoke_of_pool(self, pool_id: int, now: Instant) -> None:
        self._tx.note_keys_changed()
        self._tx.change("revoke_issued_keys_of_pool", pool_id=pool_id, now=now)

    def revoke_all(self, now: Instant) -> None:
        """Have every key stop working: the key that digests them is lost, and none can be recognised any more."""
        self._tx.note_keys_changed()
        self._tx.change("revoke_every_issued_key", now=now)

    def expire(self, key_id: int, at: Instant) -> None:
        """Have a key stop working at a time, unless it does so before."""
        self._tx.note_keys_changed(key_id=key_id)
        self._tx.change("expire_issued_key", key_id=key_id, at=at)

    def note_used(self, key_id: int, now: Instant) -> None:
        self._tx.change("note_issued_key_used", key_id=key_id, now=now)

    def is_used(self, digest: bytes) -> bool:
        """Whether there is such a key, not revoked, and it has been used with success."""
        return bool(self._tx.value(int, "issued_key_is_used", digest=digest))

    def works(self, key_id: int, now: Instant) -> bool:
        """Whether a key is neither revoked nor expired."""
        return bool(self._tx.value(int, "issued_key_works", key_id=key_id, now=now))

    # -- at acceptance

    def hold(self, key: ApiKey, recipients: int, now: Instant) -> None:
        """Have a key, or its revocation, wait for the other; count the recipients of one that has a daily limit.

        Called by the transaction that accepts a message. A batch asks once for each key. Raises KeyStopped
        for a key that works no more, and QuotaExceeded.
        """
        if key.digest not in self._tx.held_keys:
            self._hold(key, now)
            self._tx.held_keys.add(key.digest)
        if key.daily_limit is not None:
            self._count(key, key.daily_limit, recipients, now)

    def _hold(self, key: ApiKey, now: Instant) -> None:
        if key.id is None:
            changed = self._tx.change("hold_file_key", file_id=key.file_id, account_id=key.account_id)
        elif key.daily_limit is None:
            changed = self._tx.change("hold_issued_key", key_id=key.id, now=now)
        else:
            changed = self._tx.change("lock_issued_key", key_id=key.id, now=now)
        if self._tx.results_deferred:
            self._tx.guard(changed)  # all are run again, results known at once
        elif not changed:
            raise KeyStopped("this key is not known here", field="key")

    def _count(self, key: ApiKey, most: int, recipients: int, now: Instant) -> None:
        bucket, first = bucket_of(now), bucket_of(now) - BUCKETS_A_DAY + 1
        used = self._tx.value(int, "issued_key_used", key_id=key.id, bucket=first) or 0
        if used + recipients > most:
            oldest = self._tx.value(int, "oldest_issued_key_usage", key_id=key.id, bucket=first)
            until = ((bucket if oldest is None else oldest) + BUCKETS_A_DAY) * BUCKET
            raise QuotaExceeded(
                f"this key may send to {most} recipients in 24 hours, and has sent to {used}; wait for the time in "
                "Retry-After (seconds)",
                retry_after=max(1, -(-(until - now) // SECOND)),
            )
        self._tx.change("use_issued_key", key_id=key.id, bucket=bucket, recipients=recipients)

    def recipients_used(self, key_id: int, now: Instant) -> int:
        """Return the recipients that a key with a daily limit has been used for in the last 24 hours."""
        return (
            self._tx.value(int, "issued_key_used", key_id=key_id, bucket=bucket_of(now) - BUCKETS_A_DAY + 1)
            or 0
        )

    def give_back(self, message_id: int, recipients: int) -> None:
        """Give back what a message counted against its key's daily limit."""
        self._tx.change("return_issued_key_usage", message_id=message_id, recipients=recipients)

    def forget_usage(self, now: Instant) -> None:
        """Drop what is older than a day."""
        self._tx.change("forget_issued_key_usage", bucket=bucket_of(now) - BUCKETS_A_DAY)


def check_works(transaction: Transaction, key: ApiKey, now: Instant) -> None:
    """Raise KeyStopped for a key that was revoked, has expired or is another account's since it was looked up."""
    if key.id is None:
        assert key.account_id is not None
        works = transaction.keys.works(key.digest, key.account_id)
    else:
        works = transaction.issued_keys.works(key.id, now)
    if not works:
        raise KeyStopped("this key is not known here", field="key")


def note_key_used(transaction: Transaction, key: ApiKey, now: Instant) -> None:
    """Note that a key was used with success: an issued one, or one of data.csv."""
    if key.id is None:
        transaction.keys.note_used(key.digest, now)
        if key.own_digest is not None:
            transaction.keys.move(key.digest, key.own_digest)
    else:
        transaction.issued_keys.note_used(key.id, now)


def _json(values: tuple[str, ...] | None) -> str | None:
    return None if values is None else json.dumps(values)


def _issued_key(row: _KeyRow) -> IssuedKey:
    key = ApiKey(
        digest=bytes(row.digest),
        id=row.id,
        uid=row.uid,
        name=row.name,
        account_id=row.account_id,
        pool_id=row.pool_id,
        scopes=frozenset(map(Scope, row.scopes.split())),
        is_test=bool(row.test),
        allowed_recipients=None
        if row.allowed_recipients is None
        else tuple(json.loads(row.allowed_recipients)),
        networks=None if row.networks is None else tuple(map(ip_network, json.loads(row.networks))),
        daily_limit=row.daily_limit,
        expires_at=row.expires_at,
    )
    return IssuedKey(key, row.hint, row.source, row.created_at, row.revoked_at, row.last_used_at)
