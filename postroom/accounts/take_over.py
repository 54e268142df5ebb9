"""Takes the accounts and keys of a CSV file over, to be managed at run time: all in one transaction, or none of it.

From then on data.csv does not count for them. The mark is in the database (the account's source, and the issued keys),
so that a restart with the old file, or another host, changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Final

from postroom.accounts.account_values import (
    AccountValues,
    aliases_of,
    check_secret_stays,
    hold_of,
    selector_of,
)
from postroom.accounts.csv import LEAST_OF_A_KEY
from postroom.accounts.csv_row import AccountRow
from postroom.accounts.csv_sync import SOURCE, sealing, unlock
from postroom.accounts.management import ORDER, check_may_hold
from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.core.account import Account, Secret
from postroom.core.api_key import ApiKey
from postroom.core.audit import Actor
from postroom.core.clock import Clock, Instant, system_clock
from postroom.core.errors import Conflict
from postroom.store.accounts import AccountIdentity, StoredAccount
from postroom.store.store import Store
from postroom.store.transaction import Transaction

_HINT: Final = 4  # characters


class Kind(Enum):
    """What taking an account over means."""

    NEW = "new"
    TAKEN_OVER = "taken over"  # it was as data.csv says
    MANAGED = "managed"  # it was taken over, or added, before


@dataclass(frozen=True, slots=True)
class Difference:
    """What taking one account over changes."""

    email: str
    kind: Kind
    changes: tuple[str, ...]  # names of settings, and `password`
    keys: int  # that are taken over
    revoked: int  # that were revoked before, and stay so
    stopped: int  # of data.csv that the file lacks


@dataclass(frozen=True, slots=True)
class _Step:
    """One account of the file with what there is of it."""

    row: AccountRow
    identity: AccountIdentity
    stored: StoredAccount | None
    rest: dict[str, tuple[str, ...] | str | bool | None]  # of MANAGED, what the file has otherwise
    keys: tuple[AccountRow, ...]  # rows whose keys are to be issued
    difference: Difference


def look(store: Store, vault: Vault, rows: Sequence[AccountRow]) -> list[Difference]:
    """Return what `take_over` would change, and change nothing. Raises Conflict, InvalidSubmission."""
    return store.read(lambda transaction: [step.difference for step in _plan(transaction, vault, rows)])


def take_over(
    store: Store,
    vault: Vault,
    rows: Sequence[AccountRow],
    actor: Actor,
    name: str,
    clock: Clock = system_clock,
) -> list[Difference]:
    """Take the accounts of a file over, `name` in the audit; return what was changed. Raises Conflict, InvalidSubmission."""
    now = clock()

    def work(transaction: Transaction) -> list[Difference]:
        transaction.settings.set(ORDER, str(now))
        steps = _plan(transaction, vault, rows)
        for step in steps:
            _take(transaction, vault, step, now)
            _write_rest(transaction, step, actor)
            _audit(transaction, step, actor, name, now)
        for step in steps:
            _issue(transaction, vault, step, actor, name, now)
        return [step.difference for step in steps]

    return store.write(work)


def _plan(transaction: Transaction, vault: Vault, rows: Sequence[AccountRow]) -> list[_Step]:
    groups: dict[AccountIdentity, list[AccountRow]] = {}
    for row in rows:
        identity = AccountIdentity(row.email, row.host, row.port, row.username)
        groups.setdefault(identity, []).append(row)
    found = {identity: _stored(transaction, identity) for identity in groups}
    taken = {stored.account.id for stored in found.values() if stored is not None}
    return [
        _step(transaction, vault, identity, group, found[identity], taken)
        for identity, group in groups.items()
    ]


def _stored(transaction: Transaction, identity: AccountIdentity) -> StoredAccount | None:
    known = transaction.accounts.find(identity)
    stored = None if known is None else transaction.accounts.get(known.id)
    if stored is not None and stored.account.closing_at is not None:
        raise Conflict(f"{identity.email} is being deleted")
    return stored


def _step(
    transaction: Transaction,
    vault: Vault,
    identity: AccountIdentity,
    rows: Sequence[AccountRow],
    stored: StoredAccount | None,
    taken: set[int],
) -> _Step:
    row, account_id = rows[0], None if stored is None else stored.account.id
    fresh: list[AccountRow] = []
    revoked = present = 0
    for each in (each for each in rows if each.key):
        digest = vault.own_digest(each.key.reveal())
        of_file = transaction.keys.owner_of((digest, *vault.digests(each.key.reveal())))
        issued = transaction.issued_keys.by_digest(digest)
        present += of_file is not None and of_file == account_id
        if issued is not None and issued.revoked_at is not None:
            revoked += 1
        elif (of_file is not None and of_file not in taken) or (
            issued and issued.key.account_id != account_id
        ):
            raise Conflict(f"line {each.line}: this key is another account's; give the row one of its own")
        elif issued is None:
            fresh.append(each)
    stopped = 0 if account_id is None else transaction.keys.count_of_account(account_id) - present
    rest = _rest(transaction, stored, row)
    changes = (*_changes(stored, row, vault), *(rest if stored is not None else ()))
    difference = Difference(row.email, _kind(stored), changes, len(fresh), revoked, stopped)
    return _Step(row, identity, stored, rest, tuple(fresh), difference)


def _rest(
    transaction: Transaction, stored: StoredAccount | None, row: AccountRow
) -> dict[str, tuple[str, ...] | str | bool | None]:
    """Return what of aliases, dkim_selector and hold the file has otherwise; without its column each stays.

    Raises InvalidSubmission.
    """
    given = dict(row.managed)
    wanted: dict[str, tuple[str, ...] | str | bool | None] = {}
    if "aliases" in given:
        wanted["aliases"] = tuple(sorted(aliases_of(tuple(given["aliases"].split()))))
    if "dkim_selector" in given:
        wanted["dkim_selector"] = selector_of(given["dkim_selector"])
    if "hold" in given:
        wanted["hold"] = hold_of(given["hold"])
    present: dict[str, tuple[str, ...] | str | bool | None] = {
        "aliases": (),
        "dkim_selector": None,
        "hold": False,
    }
    if stored is not None:
        account = stored.account
        aliases = tuple(sorted(alias.email for alias in transaction.aliases.of(account.id)))
        present = {"aliases": aliases, "dkim_selector": account.dkim_selector, "hold": account.hold}
    return {name: value for name, value in wanted.items() if value != present[name]}


def _write_rest(transaction: Transaction, step: _Step, actor: Actor) -> None:
    if not step.rest:
        return
    account_id = _account(transaction, step.identity).id
    for value in step.rest.values():
        if isinstance(value, tuple):
            transaction.aliases.replace(account_id, value)
        elif isinstance(value, bool):
            check_may_hold(actor)
            transaction.managed_accounts.set_hold(account_id, hold=value)
        else:
            transaction.managed_accounts.set_dkim_selector(account_id, value)


def _kind(stored: StoredAccount | None) -> Kind:
    if stored is None:
        return Kind.NEW
    return Kind.TAKEN_OVER if stored.account.source == SOURCE else Kind.MANAGED


def _changes(stored: StoredAccount | None, row: AccountRow, vault: Vault) -> tuple[str, ...]:
    """Return the names of what the file has otherwise. Raises InvalidSubmission where a kept password loses its TLS."""
    if stored is None:
        return ()
    if _keeps_password(stored, row):
        check_secret_stays(stored.account, AccountValues(row, None, None, None, hold=False))
    wanted = asdict(row.account_settings)
    changes = [name for name, value in wanted.items() if value != getattr(stored.account, name)]
    if not _keeps_password(stored, row) and row.password != _password(stored, vault):
        changes.append("password")
    return tuple(changes)


def _keeps_password(stored: StoredAccount, row: AccountRow) -> bool:
    """Whether a row without a password leaves the stored one: that of an account which is managed already."""
    return not row.password and stored.account.source != SOURCE


def _password(stored: StoredAccount, vault: Vault) -> Secret | None:
    try:
        return unlock(stored, vault).password
    except UndecryptableSecret:
        return None


def _take(transaction: Transaction, vault: Vault, step: _Step, now: Instant) -> None:
    row, stored = step.row, step.stored
    seal = sealing(row.password, vault)
    if stored is None:
        transaction.accounts.insert(step.identity, row.account_settings, seal, source="api", now=now)
        return
    account = stored.account
    transaction.accounts.lock(account.id)
    transaction.managed_accounts.take_over(account.id, now)
    credential = stored.credential if _keeps_password(stored, row) else seal(account.uid)
    transaction.accounts.change(account.id, row.account_settings, credential, now=now)
    if "password" in step.difference.changes:
        transaction.accounts.forget_refused_password(account.id)
    if {"password", "daily_limit"} & {*step.difference.changes}:
        transaction.accounts.resume(account.id, now)
    transaction.keys.revoke_of_account(account.id, now)


def _audit(transaction: Transaction, step: _Step, actor: Actor, name: str, now: Instant) -> None:
    found = step.difference
    detail = {"file": name, "line": step.row.line, "kind": found.kind.value, "keys": found.keys}
    if "hold" in step.rest:
        detail["hold"] = bool(step.rest["hold"])
    if found.changes:
        detail["changes"] = ", ".join(found.changes)
    transaction.audit.append(actor, "account.import", found.email, now, detail)


def _issue(
    transaction: Transaction, vault: Vault, step: _Step, actor: Actor, name: str, now: Instant
) -> None:
    """Have the keys of the file work as issued ones, under the same text."""
    owner = _account(transaction, step.identity)
    for row in step.keys:
        text = row.key.reveal()
        key = ApiKey(
            digest=vault.own_digest(text),
            uid=str(uuid.uuid4()),
            name=f"{name} line {row.line}"[:100],
            account_id=owner.id,
        )
        hint = text[-_HINT:] if len(text) >= LEAST_OF_A_KEY else ""
        transaction.issued_keys.issue(key, hint=hint, source=SOURCE, now=now)
        transaction.audit.append(actor, "key.issue", key.name, now, {"owner": owner.email, "id": key.uid})


def _account(transaction: Transaction, identity: AccountIdentity) -> Account:
    known = transaction.accounts.find(identity)
    stored = None if known is None else transaction.accounts.get(known.id)
    assert stored is not None
    return stored.account
