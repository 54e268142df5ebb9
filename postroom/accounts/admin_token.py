"""The admin token: POSTROOM_ADMIN_TOKEN, or one that is made once for each installation and kept in `var/admin.token`."""

from __future__ import annotations

import os
import secrets
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.api_key import ApiKey, Scope
from postroom.core.clock import Instant, system_clock
from postroom.core.errors import ConfigError
from postroom.core.files import read_plain, reason_of, sync
from postroom.core.setting_values import parse_admin_token
from postroom.settings import Settings
from postroom.store.admin_tokens import PLACE, AdminTokens
from postroom.store.issued_keys import IssuedKeys
from postroom.store.settings import StoredSettings
from postroom.store.store import Store
from postroom.store.transaction import Transaction

SOURCE: Final = "admin"  # of its row among the issued keys
NAME: Final = "admin token"
FILE: Final = "admin.token"  # in var/
_VARIABLE: Final = "POSTROOM_ADMIN_TOKEN"
_OCTETS: Final = 32
_LARGEST: Final = 4096
_HINT: Final = 4  # characters


@dataclass(frozen=True, slots=True)
class FoundToken:
    """The admin token as this host has it: the token, or where it is."""

    token: Secret | None
    place: str


def ensure_admin_token(store: Store, vault: Vault, settings: Settings, var: Path) -> None:
    """Have the admin token in force: that of the setting, else the one that was made at the first start.

    Raises ConfigError where the file cannot be written or read.
    """
    if settings.admin_token is not None:
        _put_in_force(store, vault, settings.admin_token, _VARIABLE)
    elif not store.read(IssuedKeys.of_source, SOURCE):
        _make(store, vault, var / FILE)


def renew_admin_token(store: Store, vault: Vault, var: Path) -> None:
    """Make another token, write it to the file of this host, and end the one before. Raises ConfigError."""
    path = var / FILE
    path.unlink(missing_ok=True)
    _put_in_force(store, vault, _token_in(path), _here(path))


def find_admin_token(store: Store, vault: Vault, settings: Settings, var: Path) -> FoundToken:
    """Return the token that is in force, where this host has it."""
    place = store.read(StoredSettings.get, PLACE) or "not made yet: the first `postroom serve` makes it"
    path = var / FILE
    if settings.admin_token is not None and _is_in_force(store, vault, settings.admin_token):
        return FoundToken(settings.admin_token, _VARIABLE)
    if path.exists():
        token = _token_in(path)
        if _is_in_force(store, vault, token):
            return FoundToken(token, _here(path))
    return FoundToken(None, place)


def _make(store: Store, vault: Vault, path: Path) -> None:
    """Write a token and put it in force; another host that was first keeps its own.

    The file comes first: if the process dies before the commit, the next start takes the token from it.
    """
    token = _token_in(path)
    digest = vault.own_digest(token.reveal())

    def work(transaction: Transaction) -> bool:
        if transaction.settings.set_once(PLACE, _here(path)) != _here(path):
            return False
        if not transaction.issued_keys.of_source(SOURCE):
            _issue(transaction, token, digest, system_clock())
        return True

    if not store.write(work):
        path.unlink(missing_ok=True)


def _put_in_force(store: Store, vault: Vault, token: Secret, place: str) -> None:
    """Let this token be the only one."""
    digest = vault.own_digest(token.reveal())
    if _is_in_force(store, vault, token) and store.read(StoredSettings.get, PLACE) == place:
        return

    def work(transaction: Transaction) -> None:
        now = system_clock()
        transaction.settings.set(PLACE, place)
        working = transaction.issued_keys.of_source(SOURCE)
        for each in working:
            if each.key.digest != digest and each.key.id is not None:
                transaction.issued_keys.revoke(each.key.id, now)
        if any(each.key.digest == digest for each in working):
            return
        if not AdminTokens(transaction).restore(digest):
            _issue(transaction, token, digest, now)

    store.write(work)


def _issue(transaction: Transaction, token: Secret, digest: bytes, now: Instant) -> None:
    key = ApiKey(digest=digest, uid=str(uuid.uuid4()), name=NAME, scopes=frozenset({Scope.ADMIN}))
    transaction.issued_keys.issue(key, hint=token.reveal()[-_HINT:], source=SOURCE, now=now)


def _is_in_force(store: Store, vault: Vault, token: Secret) -> bool:
    digest = vault.own_digest(token.reveal())
    return any(each.key.digest == digest for each in store.read(IssuedKeys.of_source, SOURCE))


def _here(path: Path) -> str:
    return f"{path.absolute()} on {socket.gethostname()}"


def _token_in(path: Path) -> Secret:
    """Return the token in the file, which is made where it is not there. Raises ConfigError."""
    try:
        if not path.exists():
            _create(path)
        text = read_plain(path, _LARGEST).decode("ascii").strip()
        if path.stat().st_mode & 0o077:
            raise ConfigError(_VARIABLE, f"{path} is open to other users of this machine; chmod 600 {path}")
        return parse_admin_token(text)
    except OSError as error:
        raise ConfigError(_VARIABLE, f"{path} cannot be made or read: {reason_of(error)}") from error
    except ValueError:
        raise ConfigError(
            _VARIABLE, f"{path} holds no admin token; remove it, and run postroom keys admin --new"
        ) from None


def _create(path: Path) -> None:
    """Write a new token, whole and synced before the file has its name; the first process to link it wins."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            file.write(secrets.token_urlsafe(_OCTETS).encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)
