"""Authenticates requests: API keys to accounts, from memory, read again soon after a change."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from postroom.accounts.vault import Vault
from postroom.core.account import Account
from postroom.core.api_key import ApiKey
from postroom.core.clock import Clock, system_clock
from postroom.core.errors import NotAuthenticated, NotPermitted, StoreUnavailable
from postroom.store.accounts import Accounts
from postroom.store.issued_keys import IssuedKey, IssuedKeys
from postroom.store.key_changes import RECENT_CHANGES, ChangedKeys, changed_between
from postroom.store.keys import FileKey, Keys
from postroom.store.settings import StoredSettings
from postroom.store.store import Store
from postroom.store.transaction import KEYS_REVISION, Transaction

_FRESH_FOR_S: Final = 0.5
_NOTED_AGAIN_S: Final = 3600.0
_WHERE: Final = "give it as `key` in the body, as `Authorization: Bearer KEY`, or as `X-API-Key: KEY`"


def _is_used(transaction: Transaction, digest: bytes) -> bool:
    return transaction.keys.is_used(digest) or transaction.issued_keys.is_used(digest)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from: its key, with the account that it belongs to; None: a pool's, or the installation's.

    `is_new`: it was never used so far, or its last use is to be noted again.
    """

    key: ApiKey
    owner: Account | None
    is_new: bool

    @property
    def account(self) -> Account:
        """The account that the key sends through. Raises NotPermitted for a key without one."""
        if self.owner is None:
            raise NotPermitted("this key belongs to no account; send with a key of an account", field="key")
        return self.owner

    def for_account(self, account: Account) -> Principal:
        """Return who sends through an account that was chosen for the key, such as one of its pool."""
        return replace(self, owner=account)

    @property
    def digest(self) -> bytes:
        return self.key.digest


class ApiKeys:
    """The keys that work, as they were at the last `refresh`; a caller refreshes when `is_fresh` is false.

    Every write to keys and to what they open raises the store's revision of them (`Transaction.note_keys_changed`),
    and `refresh` looks at that number alone while it is the same, and reads only what has changed where the store can
    tell (store/key_changes.py). So a change by any process counts half a
    second later, plus the time of a read, and no request has a query of its own.
    While the database is away the keys stay as they were last read: what they open can write nothing then.
    """

    def __init__(self, store: Store, vault: Vault, clock: Clock = system_clock) -> None:
        self._store = store
        self._clock = clock
        self._vault = vault
        self._mutex = threading.Lock()
        self._revision: str | None = ""  # "": nothing was read yet
        self._checked = float("-inf")
        self._away: StoreUnavailable | None = None  # why the last look was in vain
        self._keys: dict[bytes, ApiKey] = {}
        self._accounts: dict[int, Account] = {}
        self._used: set[bytes] = set()
        self._noted: dict[
            bytes, float
        ] = {}  # issued keys: when their last use was noted, by the monotonic clock
        # The key asked for last, and its digests.
        self._newest: tuple[str | None, tuple[bytes, ...]] = None, ()

    def authenticate(self, key: str | None) -> Principal:
        """Return whose key this is. Raises NotAuthenticated, which says nothing of how close a wrong key was.

        Keys are looked up by their HMAC, so timing tells nothing. Raises StoreUnavailable for one that
        is not there while the database is away: nobody can say whether it has come in since.
        """
        if not key:
            raise NotAuthenticated(f"there is no key in this request: {_WHERE}", field="key")
        away = self._away
        digest = self._working(key)
        if digest is None:
            if away is not None:
                raise StoreUnavailable(str(away))
            raise NotAuthenticated("this key is not known here", field="key")
        found = self._keys[digest]
        if found.expires_at is not None and found.expires_at <= self._clock():
            raise NotAuthenticated("this key is not known here", field="key")
        owner = None if found.account_id is None else self._accounts[found.account_id]
        if found.id is None and self._vault.has_digest_key and digest != (own := self._digests(key)[0]):
            found = replace(found, own_digest=own)
        return Principal(found, owner, self._is_to_note(found))

    def _is_to_note(self, key: ApiKey) -> bool:
        """Whether the use of a key is to be written down: its first, and of an issued one the first in an hour."""
        if key.own_digest is not None:
            return key.digest not in self._noted
        if key.id is None or key.digest not in self._used:
            return key.digest not in self._used
        return time.monotonic() - self._noted.get(key.digest, float("-inf")) > _NOTED_AGAIN_S

    def account_of(self, account_id: int) -> Account | None:
        """Return an account as it was at the last `refresh`; its state may be older."""
        return self._accounts.get(account_id)

    def authenticate_now(self, key: str | None) -> Principal:
        """Return whose key this is, as the database says now where it is not known here. It may wait for the database.

        Raises what `authenticate` raises.
        """
        try:
            return self.authenticate(key)
        except NotAuthenticated:
            if not key:
                raise
            self.refresh(time.monotonic())
            return self.authenticate(key)

    def is_used(self, key: str) -> bool:
        """Whether the key was known to work and to have been used with success at the last `refresh`."""
        return any(digest in self._used for digest in self._digests(key))

    def is_used_elsewhere(self, key: str) -> bool:
        """Ask the database whether another process has seen the key used; it takes as long for every key.

        Raises StoreUnavailable.
        """
        used = [digest for digest in self._digests(key) if self._store.read(_is_used, digest)]
        self._used.update(used)
        return bool(used)

    def note_used(self, digest: bytes) -> None:
        """Remember that a key was used with success, once the database knows."""
        self._used.add(digest)
        self._noted[digest] = time.monotonic()

    def digest(self, key: str) -> bytes:
        """Return what stands for the key wherever it must not be seen, such as a rate limiter's storage."""
        return self._digests(key)[0]

    def _working(self, key: str) -> bytes | None:
        return next((digest for digest in self._digests(key) if digest in self._keys), None)

    def _digests(self, key: str) -> tuple[bytes, ...]:
        """Return the digests of a key. A request asks three times in a row, with the same object.

        Keys are not compared with each other: that would take longer the more they have in common.
        """
        newest, digests = self._newest
        if newest is not key:
            digests = self._vault.digests(key)
            if self._vault.has_digest_key:
                digests = (self._vault.own_digest(key), *digests)
            self._newest = key, digests
        return digests

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._checked < _FRESH_FOR_S

    def refresh(self, asked_at: float | None = None) -> None:
        """Read the keys again if they have changed; with `asked_at`, by a look that begins later (monotonic clock).

        It waits for the database, so it is not for an event loop.
        """
        # A look at a database that is away takes seconds: one caller waits for it, and the others go on.
        if not self._mutex.acquire(blocking=self._away is None):
            return
        try:
            if not (self.is_fresh if asked_at is None else self._checked >= asked_at):
                self._look()
        finally:
            self._mutex.release()

    def _look(self) -> None:
        now = time.monotonic()
        try:
            self._read()
        except StoreUnavailable as error:
            self._away, self._checked = error, time.monotonic()
        else:
            self._away, self._checked = None, now

    def _read(self) -> None:
        revision = self._store.read(StoredSettings.get, KEYS_REVISION)
        if revision == self._revision:
            return
        recent = self._store.read(StoredSettings.get, RECENT_CHANGES)
        changed = changed_between(recent, self._revision, revision)
        if changed is None:
            self._read_all()
        else:
            self._read_again(changed)
        self._revision = revision

    def _read_all(self) -> None:
        # Keys first: an account may come in meanwhile, but none ever goes.
        rows = self._store.read(Keys.working)
        issued = self._store.read(IssuedKeys.working, self._clock())
        accounts = {stored.account.id: stored.account for stored in self._store.read(Accounts.all)}
        self._take(accounts, {}, rows, issued)

    def _read_again(self, changed: ChangedKeys) -> None:
        """Read what has changed, and keep the rest."""
        read, now, accounts = self._store.read, self._clock(), dict(self._accounts)
        rows = [row for account_id in changed.accounts for row in read(Keys.working_of, account_id)]
        issued = [key for each in changed.accounts for key in read(IssuedKeys.working_of, each, now)]
        issued += [key for each in changed.issued for key in read(IssuedKeys.working_one, each, now)]
        owners = {key.key.account_id for key in issued} - accounts.keys()
        for account_id in changed.accounts | {owner for owner in owners if owner is not None}:
            stored = read(Accounts.get, account_id)
            if stored is not None:
                accounts[account_id] = stored.account
        again = {row.id for row in rows}
        kept = {
            digest: key
            for digest, key in self._keys.items()
            if key.account_id not in changed.accounts
            and key.id not in changed.issued
            and key.file_id not in again
        }
        self._take(accounts, kept, rows, issued)

    def _take(
        self,
        accounts: dict[int, Account],
        keys: dict[bytes, ApiKey],
        rows: Sequence[FileKey],
        issued: Sequence[IssuedKey],
    ) -> None:
        """Have these accounts and keys count from now on."""
        used = {each.key.digest for each in issued if each.last_used_at is not None}
        for row in rows:
            digest = row.digest if row.own_digest is None else row.own_digest
            keys[digest] = ApiKey(digest=digest, account_id=row.account_id, file_id=row.id)
            if row.used_at is not None:
                used.add(digest)
        keys |= {each.key.digest: each.key for each in issued}
        self._accounts = accounts
        self._used = used | (self._used & keys.keys())
        self._keys = keys
