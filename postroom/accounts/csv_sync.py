"""Brings accounts, keys and credentials in the database in line with data.csv, at the start and when it changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from postroom.accounts.csv import LEAST_OF_A_KEY, AccountFile, RowFault, read_accounts
from postroom.accounts.csv_row import AccountRow
from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.core.account import Account, Secret
from postroom.core.clock import Clock, system_clock
from postroom.core.files import MEBIBYTE, read_plain, whose
from postroom.core.text import counted
from postroom.store.accounts import AccountIdentity, Accounts, Seal, StoredAccount
from postroom.store.keys import Keys
from postroom.store.settings import StoredSettings
from postroom.store.store import Store
from postroom.store.transaction import Transaction

log = logging.getLogger(__name__)

SOURCE = "csv"  # of accounts and keys
FILE_DIGEST = "accounts_csv"  # setting: what was last read from data.csv
_FAULTLESS = "faultless_csv"  # setting: the data.csv in which nothing was wrong
# Of data.csv's reader. A higher number has an unchanged file read again, for rows that were refused before.
_READER = 3
_LARGEST = 64 * MEBIBYTE
_MOST_LINES_NAMED = 10
_Signature: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a reading of data.csv did: rows in force, rows refused, keys that stopped working."""

    path: Path
    accepted: int
    faults: tuple[RowFault, ...]
    revoked: int = 0
    short_keys: tuple[int, ...] = ()  # lines
    managed: int = 0  # rows that do not count, since their accounts were taken over


def unlock(stored: StoredAccount, vault: Vault) -> Account:
    """Return the account with its password in clear. Raises UndecryptableSecret."""
    if stored.credential is None:
        return stored.account
    password = vault.open_sealed(stored.credential, password_context(stored.account.uid))
    return replace(stored.account, password=password)


def password_context(uid: str) -> str:
    """Return the place that an account's password is sealed for (`Vault.seal`)."""
    return f"account:{uid}:password"


def sealing(password: Secret | None, vault: Vault) -> Seal:
    """Return what seals a password for the row of its account; None, or an empty one: no log-in."""
    return lambda uid: vault.seal(password.reveal(), password_context(uid)) if password else None


def file_at(path: Path, *, needs_keys: bool = True) -> AccountFile:
    """Read data.csv, so that nothing can hang (`plainfile`). Raises OSError."""
    return read_accounts(read_plain(path, _LARGEST), needs_keys=needs_keys)


def has_been_read(store: Store) -> bool:
    """Whether a data.csv was taken into the database at any time."""
    return store.read(StoredSettings.get, FILE_DIGEST) is not None


def keys_in_file(path: Path) -> list[Secret]:
    """Return the keys of the rows of data.csv that are in order; none where it cannot be read."""
    try:
        return [row.key for row in file_at(path).rows]
    except OSError:
        return []


def password_digests(stored: StoredAccount, vault: Vault) -> tuple[str, ...]:
    """Return the digests of an account's password, the primary key's first; none where it has none that can be read."""
    try:
        password = unlock(stored, vault).password
    except UndecryptableSecret:
        return ()
    return tuple(digest.hex() for digest in vault.digests(password.reveal())) if password else ()


class AccountsFile:
    """data.csv, watched. Any process may sync it; the database keeps the result."""

    def __init__(self, store: Store, vault: Vault, path: Path, clock: Clock = system_clock) -> None:
        self._store = store
        self._vault = vault
        self._path = path
        self._clock = clock
        self._seen: _Signature | None = None
        self._read: _Signature | None = None
        self._told: str | None = None  # why it could not be read at the last look

    def looks_new(self) -> bool:
        """Whether the file is another than the one that was read, or has gone; asks the folder only."""
        return self._is_news(self._signature())

    def _is_news(self, signature: _Signature | None) -> bool:
        return self._told is None if signature is None else signature != self._read

    def sync_if_changed(self) -> SyncReport | None:
        """Sync once the file has changed and then stayed the same for two looks, so that none is read half written."""
        signature = self._signature()
        is_unchanged = signature == self._seen
        self._seen = signature
        if not is_unchanged or not self._is_news(signature):
            return None
        return self.sync()

    def sync(self) -> SyncReport | None:
        """Bring accounts and keys in line with the file; None when it holds nothing new.

        A key that left the file stops working; its account stays, so that queued mail
        still goes out. A file that cannot be read as a whole changes nothing.
        """
        signature = self._signature()
        try:
            data = read_plain(self._path, _LARGEST)
        except OSError as error:
            return self._unreadable(error)
        if self._told is not None:
            log.info("%s can be read again", self._path)
        self._told = None
        self._seen = signature
        found = self._take_in(data)
        self._read = signature  # not before: what could not be stored is tried again
        return found

    def _unreadable(self, error: OSError) -> SyncReport | None:
        """Report a file that cannot be read, once for each reason, and one that has gone; it is looked at again."""
        is_gone = isinstance(error, FileNotFoundError)
        reason, told = f"{error.strerror or error}: {whose(self._path)}", self._told
        self._told, self._read = reason, None
        if reason == told or (is_gone and not self._store.read(Keys.active)):  # nothing of it counted
            return None
        fault = RowFault(
            0, f"is not there: {whose(self._path)}" if is_gone else f"cannot be read: {reason}", fatal=True
        )
        return SyncReport(self._path, 0, (fault,))

    def review(self) -> SyncReport | None:
        """Read the file without taking anything in; None when it is not there or nothing is wrong with it.

        One that was found to be in order is not parsed again.
        """
        try:
            data = read_plain(self._path, _LARGEST)
        except OSError:
            return None
        digest = self._digests(data)[0]
        if digest == self._store.read(StoredSettings.get, _FAULTLESS):
            return None
        file = read_accounts(data)
        if file.faults:
            return SyncReport(self._path, len(file.rows), file.faults)
        self._store.write(StoredSettings.set, _FAULTLESS, digest)
        return None

    def is_taken_in(self) -> bool:
        """Whether the database holds the file as it is now; a file that cannot be read has nothing to take in."""
        try:
            data = read_plain(self._path, _LARGEST)
        except OSError:
            return True
        return self._store.read(StoredSettings.get, FILE_DIGEST) in self._digests(data)

    def _digests(self, data: bytes) -> list[str]:
        return [digest.hex() for digest in self._vault.digests(f"{_READER} {data.hex()}")]

    def _take_in(self, data: bytes) -> SyncReport | None:
        digest = self._digests(data)[0]
        if digest == self._store.read(StoredSettings.get, FILE_DIGEST):
            return None
        file = read_accounts(data)
        if file.fatal:
            return SyncReport(self._path, 0, file.faults)
        revoked, managed = self._apply(file.rows, digest)
        if not file.faults:
            self._store.write(StoredSettings.set, _FAULTLESS, digest)
        accepted = len(file.rows) - managed
        return SyncReport(self._path, accepted, file.faults, revoked, file.short_keys, managed)

    def _signature(self) -> _Signature | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _apply(self, rows: Sequence[AccountRow], digest: str) -> tuple[int, int]:
        """Return how many keys stopped working, and how many rows do not count any more."""
        before = {_identity(stored.account): stored for stored in self._store.read(Accounts.all)}
        prepared = [
            (row, self._vault.digest(row.key.reveal()), self._own_digest(row), self._has_changed(row, before))
            for row in rows
        ]
        now = self._clock()

        def work(transaction: Transaction) -> tuple[int, int]:
            managed = 0
            for row, key, own_digest, changed in prepared:
                identity = AccountIdentity(row.email, row.host, row.port, row.username)
                if _is_managed(transaction, identity, own_digest):
                    managed += 1
                    continue  # a file from before it was taken over, or on another host, changes nothing
                account_id = transaction.accounts.upsert(
                    identity,
                    row.account_settings,
                    sealing(row.password, self._vault),
                    source=SOURCE,
                    now=now,
                )
                if changed:
                    transaction.accounts.resume(account_id, now)
                transaction.keys.grant(account_id, key, own_digest=own_digest, source=SOURCE, now=now)
            revoked = transaction.keys.revoke_except({item[1] for item in prepared}, source=SOURCE, now=now)
            transaction.settings.set(FILE_DIGEST, digest)
            return revoked, managed

        return self._store.write(work)

    def _own_digest(self, row: AccountRow) -> bytes | None:
        return self._vault.own_digest(row.key.reveal()) if self._vault.has_digest_key else None

    def _has_changed(self, row: AccountRow, before: dict[tuple[object, ...], StoredAccount]) -> bool:
        """Whether the row's password or limit differs from what was stored.

        The password is sealed anew even when it stays, so that former secret keys can be dropped.
        """
        stored = before.get((row.email, row.host, row.port, row.username))
        return (
            stored is None
            or self._password(stored) != row.password
            or stored.account.daily_limit != row.daily_limit
        )

    def _password(self, stored: StoredAccount) -> Secret | None:
        try:
            return unlock(stored, self._vault).password
        except UndecryptableSecret:
            return None


def _is_managed(transaction: Transaction, identity: AccountIdentity, own_digest: bytes | None) -> bool:
    """Whether the account of a row was taken over, by its mailbox and server or, where those have changed, by its key."""
    if transaction.accounts.is_managed(identity):
        return True
    issued = None if own_digest is None else transaction.issued_keys.by_digest(own_digest)
    return issued is not None and issued.source == SOURCE


def _identity(account: Account) -> tuple[object, ...]:
    return account.email, account.host, account.port, account.username


def report(found: SyncReport | None) -> None:
    """Log what a sync did, each refused row by its line number."""
    if found is None:
        return
    for fault in found.faults:
        where = f" line {fault.line}:" if fault.line else ""
        log.warning("%s%s %s", found.path, where, fault.message)
    if found.short_keys:
        log.warning(
            "%s: keys of fewer than %d characters may be guessed (%s); make one with: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
            found.path,
            LEAST_OF_A_KEY,
            _named_lines(found.short_keys),
        )
    if any(fault.fatal for fault in found.faults):
        log.warning("%s was not read; the accounts stay as they were", found.path)
    else:
        rows, keys = counted(found.accepted, "row"), counted(found.revoked, "key")
        managed = f", {counted(found.managed, 'row')} taken over and not read" if found.managed else ""
        log.info("%s: %s in force, %s stopped working%s", found.path, rows, keys, managed)


def _named_lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:_MOST_LINES_NAMED]))
    more = len(lines) - _MOST_LINES_NAMED
    return f"line{'s' * (len(lines) > 1)} {shown}{f' and {more} more' * (more > 0)}"
