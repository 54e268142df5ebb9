"""Checks that the secret key is the one that the database was written with, before anything is stored with it."""

from __future__ import annotations

from postroom.accounts.csv_sync import keys_in_file
from postroom.accounts.vault import Vault
from postroom.core.errors import ConfigError
from postroom.runtime.own_files import VAR
from postroom.settings import Settings
from postroom.store.settings import StoredSettings
from postroom.store.store import SECRET_CHECK, Store, StoredSecrets


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
    if not stored.is_empty and not is_secret_of(stored, Vault.open(settings, VAR, create=False), settings):
        raise _another_secret(settings)


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
        "from the first host. Where the secret is lost: postroom secret replace",
    )


def keep_check_value(store: Store, vault: Vault) -> None:
    """Store the check value of the secret key; that of the new key, where the former is still among its keys."""
    first = store.write(StoredSettings.set_once, SECRET_CHECK, vault.fingerprint)
    if first not in vault.fingerprints:  # another process was faster
        raise ConfigError(
            "POSTROOM_SECRET_KEY", "another process has just set up this database with another secret key"
        )
    if first != vault.fingerprint:
        store.write(StoredSettings.set, SECRET_CHECK, vault.fingerprint)
