"""`postroom secrets replace`: store everything of data.csv with a new secret key, where the former one is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from postroom.accounts.admin_token import SOURCE as ADMIN
from postroom.accounts.csv_sync import FILE_DIGEST, AccountsFile, keys_in_file, report
from postroom.accounts.digest_key import adopt_digest_key, renew_digest_key
from postroom.accounts.sealed_values import needing_missing
from postroom.accounts.vault import Vault
from postroom.core.clock import rfc3339, system_clock
from postroom.core.errors import ConfigError
from postroom.runtime.installation import check_it_stays, check_position, start_logging
from postroom.runtime.own_files import VAR, check_own_files
from postroom.runtime.secret_key import count_missing, give_up, is_secret_of
from postroom.settings import Settings, load_settings
from postroom.store.accounts import Accounts
from postroom.store.sealed_values import Place
from postroom.store.store import SECRET_CHECK, Store, open_store
from postroom.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Replaced:
    """The result of replacing the secret key of a database."""

    accepted: int  # rows of data.csv
    lost: tuple[str, ...]  # accounts whose passwords, or OAuth2 grants, nobody can read any more
    revoked: int  # issued keys, which nobody can recognise any more


def replace_secret() -> Replaced | None:
    """Store everything of data.csv with the present secret key, in place of one that is lost; None if it is the same."""
    settings = load_settings()
    check_own_files(settings, VAR)
    start_logging(settings)
    store = open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)
    try:
        store.check_schema()
        check_it_stays(store)
        check_position(store, settings)
        return _replace_secret(store, settings)
    finally:
        store.close()


def _replace_secret(store: Store, settings: Settings) -> Replaced | None:
    _refuse_beside_workers(store)
    if not keys_in_file(settings.accounts_csv):
        raise ConfigError(
            "POSTROOM_ACCOUNTS_CSV",
            f"{settings.accounts_csv} holds no account: passwords and keys would be lost; put the file in its place first",
        )
    vault, stored = Vault.open(settings, VAR), store.stored_secrets()
    is_same = not stored.is_empty and is_secret_of(stored, vault, settings)
    if is_same and not count_missing(store, vault):
        return None
    has_digest_key = not needing_missing(store, vault).get(Place.DIGEST_KEY)
    revoked = _begin_anew(store, vault, has_digest_key=has_digest_key)
    found = AccountsFile(store, vault, settings.accounts_csv).sync()
    report(found)
    missing = needing_missing(store, vault)
    give_up(store, missing)
    rows = {
        row for place, found_rows in missing.items() if place is not Place.DIGEST_KEY for row in found_rows
    }
    emails = {each.account.id: each.account.email for each in store.read(Accounts.all)}
    accounts = tuple(emails[row] for row in sorted(rows & emails.keys()))
    return Replaced(found.accepted if found else 0, accounts, revoked)


def _begin_anew(store: Store, vault: Vault, *, has_digest_key: bool) -> int:
    """Let the database belong to the present secret key, and data.csv be read again.

    Returns how many issued keys stop working by that: all, unless the key that digests them can be opened.
    """
    now = system_clock()

    def work(transaction: Transaction) -> int:
        transaction.settings.set(SECRET_CHECK, vault.fingerprint)
        transaction.settings.forget(FILE_DIGEST)
        if has_digest_key:
            return 0
        issued = [key for key in transaction.issued_keys.working(now) if key.source != ADMIN]
        renew_digest_key(transaction, vault, now)
        return len(issued)

    revoked = store.write(work)
    adopt_digest_key(store, vault, create=True)
    return revoked


def _refuse_beside_workers(store: Store) -> None:
    """Raise ConfigError while a worker runs: it would go on with the former key. A killed one does not count."""
    from postroom.worker import liveness  # imports all of the worker, which no other command needs

    for record in liveness.running(store, system_clock, pause=time.sleep)[:1]:
        where = f"pid {record.pid}"
        if record.host != liveness.host_identity():
            until = rfc3339(record.lease_until)
            where += f" on another host, or before this one was restarted; if it was killed, it counts until {until}"
        raise ConfigError(
            "POSTROOM_SECRET_KEY",
            f"a worker is running ({where}): stop Postroom on every host, then repeat this",
        )
