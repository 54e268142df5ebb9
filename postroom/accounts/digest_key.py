"""The installation's own random key, which digests API keys: stored encrypted, so that it outlives the secret key."""

from __future__ import annotations

import secrets
from typing import Final

from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.core.clock import Instant
from postroom.core.errors import ConfigError
from postroom.store.admin_tokens import AdminTokens
from postroom.store.sealed_values import DIGEST_KEY
from postroom.store.settings import StoredSettings
from postroom.store.store import Store
from postroom.store.transaction import Transaction

CONTEXT: Final = "setting:digest_key"
_OCTETS: Final = 32


def adopt_digest_key(store: Store, vault: Vault, *, create: bool) -> None:
    """Have the vault digest by the installation's own key; with `create`, make one where there is none yet.

    Raises ConfigError where the secret key does not open it.
    """
    stored = store.read(StoredSettings.get, DIGEST_KEY)
    if stored is None and create:
        stored = store.write(
            StoredSettings.set_once, DIGEST_KEY, _sealed(secrets.token_bytes(_OCTETS), vault)
        )
    if stored is None:
        return
    if not _opens(stored, vault):
        raise ConfigError(
            "POSTROOM_SECRET_KEY",
            "it does not open the key of this installation's API keys; add the former secret behind a comma",
        )
    vault.adopt_digest_key(_opened(stored, vault))


def renew_digest_key(transaction: Transaction, vault: Vault, now: Instant) -> None:
    """Make another key of the installation, where the one before cannot be opened; it is adopted once committed.

    Every issued key is revoked, since nobody can recognise one any more. The keys of data.csv work again
    as soon as the file is read, and the next start makes an admin token, or takes the one it finds.
    """
    transaction.settings.set(DIGEST_KEY, _sealed(secrets.token_bytes(_OCTETS), vault))
    transaction.issued_keys.revoke_all(now)
    transaction.keys.forget_own_digests()
    AdminTokens(transaction).forget_place()


def _sealed(key: bytes, vault: Vault) -> str:
    return vault.seal(key.hex(), CONTEXT).hex()


def _opened(stored: str, vault: Vault) -> bytes:
    return bytes.fromhex(vault.open_sealed(bytes.fromhex(stored), CONTEXT).reveal())


def _opens(stored: str, vault: Vault) -> bool:
    try:
        _opened(stored, vault)
    except UndecryptableSecret:
        return False
    return True
