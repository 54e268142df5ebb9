"""The installation's own random key, which digests API keys: stored encrypted, so that it outlives the secret key."""

from __future__ import annotations

import secrets
from typing import Final

from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.core.errors import ConfigError
from postroom.store.settings import StoredSettings
from postroom.store.store import Store

DIGEST_KEY: Final = "digest_key"  # setting: the sealed key, in hexadecimal digits
CONTEXT: Final = "setting:digest_key"


def adopt_digest_key(store: Store, vault: Vault, *, create: bool) -> None:
    """Have the vault digest by the installation's own key; with `create`, make one where there is none yet.

    Raises ConfigError where the secret key does not open it.
    """
    stored = store.read(StoredSettings.get, DIGEST_KEY)
    if stored is None and create:
        fresh = vault.seal(secrets.token_hex(32), CONTEXT).hex()
        stored = store.write(StoredSettings.set_once, DIGEST_KEY, fresh)
    if stored is None:
        return
    try:
        key = vault.open_sealed(bytes.fromhex(stored), CONTEXT)
    except UndecryptableSecret:
        raise ConfigError(
            "POSTROOM_SECRET_KEY",
            "it does not open the key of this installation's API keys; add the former secret behind a comma",
        ) from None
    vault.adopt_digest_key(bytes.fromhex(key.reveal()))
