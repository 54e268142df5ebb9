"""`postroom secrets rotate`: seal every stored secret by the primary secret key, while the service runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from postroom.accounts.csv_sync import keys_in_file
from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.sealed_values import WORDS, needing_former, reseal_all
from postroom.accounts.vault import Vault
from postroom.core.clock import system_clock
from postroom.core.errors import ConfigError
from postroom.core.failpoint import hit
from postroom.runtime.installation import check_it_stays, check_position, start_logging
from postroom.runtime.own_files import VAR, check_own_files
from postroom.runtime.secret_key import count_unmoved_keys, end_rotation, keep_check_value, open_vault
from postroom.settings import Settings, load_settings
from postroom.store.keys import Keys
from postroom.store.settings import StoredSettings
from postroom.store.store import SECRET_CHECK, Store, open_store
from postroom.store.transaction import Transaction

KEYS_OF_THE_FILE = "keys of data.csv"


def rotate() -> tuple[int, dict[str, int]]:
    """Seal what is not sealed by the primary key; return how many values that were, and what still needs a former key.

    Killed at any step, it goes on at the next call. Raises ConfigError beside workers with another primary key.
    """
    with _opened() as (store, vault, settings):
        _refuse_beside_former(store, vault)
        keep_check_value(store, vault)
        adopt_digest_key(store, vault, create=False)
        hit("secrets.rotate")
        number = reseal_all(store, vault) + _move_keys(store, vault, settings)
        end_rotation(store, vault)
        return number, _still_needing(store, vault)


def status() -> dict[str, int]:
    """Count what still needs a former secret key, by kind."""
    with _opened() as (store, vault, _):
        return _still_needing(store, vault)


@contextmanager
def _opened() -> Iterator[tuple[Store, Vault, Settings]]:
    settings = load_settings()
    check_own_files(settings, VAR)
    start_logging(settings)
    store = open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)
    try:
        store.check_schema()
        check_it_stays(store)
        check_position(store, settings)
        yield store, open_vault(store, settings), settings
    finally:
        store.close()


def _still_needing(store: Store, vault: Vault) -> dict[str, int]:
    found = {WORDS[place]: number for place, number in needing_former(store, vault).items()}
    return {**found, KEYS_OF_THE_FILE: count_unmoved_keys(store, [vault.fingerprint])}


def _move_keys(store: Store, vault: Vault, settings: Settings) -> int:
    """Have the keys that stand in data.csv be known by the installation's own key, which outlives the secret."""
    before = store.read(Keys.count_unmoved)
    if not before or not vault.has_digest_key:
        return 0
    keys = [key.reveal() for key in keys_in_file(settings.accounts_csv)]
    digests = [(digest, vault.own_digest(key)) for key in keys for digest in vault.digests(key)]

    def work(transaction: Transaction) -> None:
        for digest, own_digest in digests:
            transaction.keys.move(digest, own_digest)

    store.write(work)
    return before - store.read(Keys.count_unmoved)


def _refuse_beside_former(store: Store, vault: Vault) -> None:
    """Raise ConfigError while a worker runs that may not know the primary key: it could not read what is sealed by it."""
    if store.read(StoredSettings.get, SECRET_CHECK) in (None, vault.fingerprint):
        return
    from postroom.worker import liveness  # imports all of the worker

    if liveness.running(store, system_clock, pause=time.sleep):
        raise ConfigError(
            "POSTROOM_SECRET_KEY",
            "the service that runs was started with another secret key in the first place: restart it on every host with "
            "this value (the new one, a comma, the former one), then repeat this",
        )
