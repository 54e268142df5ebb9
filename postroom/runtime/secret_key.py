"""Checks that the secret key is the one that the database was written with, before anything is stored with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from postroom.accounts.csv_sync import keys_in_file
from postroom.accounts.sealed_values import needing_missing
from postroom.accounts.vault import Vault
from postroom.core.errors import ConfigError
from postroom.core.text import counted
from postroom.runtime.own_files import VAR
from postroom.settings import Settings
from postroom.store.keys import Keys
from postroom.store.sealed_values import Place
from postroom.store.settings import StoredSettings
from postroom.store.store import SECRET_CHECK, Store, StoredSecrets
from postroom.store.transaction import Transaction

# Settings: the places of secrets that nobody can read, and what is known of that; the former secret key by which keys
# of data.csv are digested that have no digest by the installation's own key yet.
_GIVEN_UP: Final = "given_up_secrets"
_UNMOVED_BY: Final = "unmoved_keys_by"


def open_vault(store: Store, settings: Settings) -> Vault:
    """Open the vault. Raises ConfigError unless the database was written with its secret key, or holds no secret yet."""
    stored = store.stored_secrets()
    vault = Vault.open(settings, VAR, create=stored.is_empty)
    if not stored.is_empty and not is_secret_of(stored, vault, settings):
        raise _another_secret(settings)
    return vault


def check_secret(store: Store, settings: Settings) -> None:
    """Raise ConfigError where the database was written with another secret key. No key is made."""
    stored = store.stored_secrets()
    if stored.is_empty:
        return
    vault = Vault.open(settings, VAR, create=False)
    if not is_secret_of(stored, vault, settings):
        raise _another_secret(settings)
    if store.read(StoredSettings.get, _GIVEN_UP) is not None:
        check_former_values(store, vault)


def is_secret_of(stored: StoredSecrets, vault: Vault, settings: Settings) -> bool:
    """Whether the secret key is the database's: by its check value, or by whether it opens what is stored."""
    if stored.check is not None:
        return stored.check in vault.fingerprints
    if stored.credentials:
        return any(vault.is_known(credential) for credential in stored.credentials)
    digests = {
        digest for key in keys_in_file(settings.accounts_csv) for digest in vault.digests(key.reveal())
    }
    return not stored.keys.isdisjoint(digests)


def _another_secret(settings: Settings) -> ConfigError:
    source = "this value of POSTROOM_SECRET_KEY" if settings.secret_key else f"that of {VAR / 'secret.key'}"
    return ConfigError(
        "POSTROOM_SECRET_KEY",
        f"the passwords and keys in this database were stored with another secret key than {source}; nothing was changed. "
        "Every process and every host needs the same one: set the variable as the service has it, or copy var/secret.key "
        "from the first host. Where the secret is lost: postroom secrets replace",
    )


def keep_check_value(store: Store, vault: Vault) -> None:
    """Store the check value of the secret key; that of the new key, where the former is still among its keys.

    From then on a process that has the former key alone does not start: it could not read what is sealed by the new
    one. One that has the new key alone is held up by `check_former_values` for as long as anything needs the former.
    """
    first = store.write(StoredSettings.set_once, SECRET_CHECK, vault.fingerprint)
    if first not in vault.fingerprints:  # another process was faster
        raise ConfigError(
            "POSTROOM_SECRET_KEY", "another process has just set up this database with another secret key"
        )
    if first != vault.fingerprint:
        store.write(_change_check_value, first, vault.fingerprint)


def _change_check_value(transaction: Transaction, former: str, present: str) -> None:
    transaction.settings.set(SECRET_CHECK, present)
    if transaction.keys.count_unmoved():  # nobody can tell later by which secret they are digested
        transaction.settings.set_once(_UNMOVED_BY, former)
    else:
        transaction.settings.forget(_UNMOVED_BY)


def check_former_values(store: Store, vault: Vault) -> None:
    """Raise ConfigError where something stored needs a secret key that is not among the present ones.

    What could not be read before this version was used, or when a lost key was replaced, does not count.
    """
    if store.read(StoredSettings.get, _GIVEN_UP) is None:  # the first start with this version
        give_up(store, needing_missing(store, vault))
    number = count_missing(store, vault)
    if number:
        raise ConfigError(
            "POSTROOM_SECRET_KEY",
            f"{counted(number, 'stored secret needs', 'stored secrets need')} a former secret key that is not given: add it "
            "again behind a comma, and run postroom secrets rotate. Where it is lost: postroom secrets replace",
        )


def count_missing(store: Store, vault: Vault) -> int:
    """Count what needs a secret key that is not among the present ones, without what was given up."""
    given_up = set((store.read(StoredSettings.get, _GIVEN_UP) or "").split())
    missing = needing_missing(store, vault)
    number = sum(_name(place, row) not in given_up for place, rows in missing.items() for row in rows)
    return number + count_unmoved_keys(store, vault.fingerprints)


def end_rotation(store: Store, vault: Vault) -> None:
    """Remember no longer as unreadable what can be read again, nor the former key of keys that have all gone over."""
    given_up = set((store.read(StoredSettings.get, _GIVEN_UP) or "").split())
    missing = needing_missing(store, vault)
    give_up(
        store,
        {place: [row for row in rows if _name(place, row) in given_up] for place, rows in missing.items()},
    )
    if not store.read(Keys.count_unmoved):
        store.write(StoredSettings.forget, _UNMOVED_BY)


def give_up(store: Store, lost: Mapping[Place, list[int]]) -> None:
    """Remember which secrets of accounts nobody can read, so that they keep no process from starting."""
    places = lost.keys() - {Place.DIGEST_KEY}  # without that one nothing starts
    names = " ".join(_name(place, row) for place in places for row in lost[place])
    store.write(StoredSettings.set, _GIVEN_UP, names)


def _name(place: Place, row: int) -> str:
    return f"{place.value}:{row}"


def count_unmoved_keys(store: Store, but_of: Iterable[str]) -> int:
    """Count the keys of data.csv that are known by the digest of a former secret key alone, except of these."""
    former = store.read(StoredSettings.get, _UNMOVED_BY)
    return 0 if former is None or former in but_of else store.read(Keys.count_unmoved)
