"""Opening the service: settings, logging, vault, store and accounts, in this order."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from postroom import inbox
from postroom.accountfile import demo_csv
from postroom.accounts import AccountsFile, report
from postroom.config import INBOX as INBOX_HOST
from postroom.config import Settings, load_settings, unknown_variables
from postroom.errors import ConfigError
from postroom.logs import LineFormatter, is_journal
from postroom.model import system_clock
from postroom.providers import doubtful_port, server_for, unnamed_server
from postroom.repeats import quieten
from postroom.store import MOVED, MOVING, Store, open_store, position
from postroom.vault import Vault

log = logging.getLogger(__name__)

_VAULT = "vault"  # setting: the fingerprint of the secret key
VAR = Path("var")
_STANDARD_ERROR = 2
_EX_TEMPFAIL = 75  # sysexits.h
_LAST_ANSWERS_S = 0.3
_REPETITIVE = (
    "postroom.worker",
    "postroom.seam",
)  # loggers that may say the same for each connection or message
_ALLOCATIONS_A_SEARCH = 20_000  # of objects that hold others; Python's own is 700
INBOX = inbox.FOLDER


@dataclass(frozen=True, slots=True)
class Service:
    """An open installation in the current folder."""

    settings: Settings
    store: Store
    vault: Vault


def start_logging(settings: Settings) -> None:
    """Log to standard error; one line for each record, but for those of a worker that repeat."""
    logging.basicConfig(level=settings.log_level, force=True)
    for_journal = is_journal(_STANDARD_ERROR)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(LineFormatter(for_journal=for_journal))
        quieten(handler, *_REPETITIVE)


def stop_this_process(reason: str) -> None:
    """End this process soon, so that it is started anew; the answers that are under way still leave."""
    log.critical("%s", reason)
    end = threading.Timer(_LAST_ANSWERS_S, os._exit, [_EX_TEMPFAIL])
    end.daemon = True
    end.start()


def open_service(*, migrate: bool = False, on_broken: Callable[[str], None] = lambda reason: None) -> Service:
    """Open the installation in the current folder; with `migrate`, make it or bring it up to date.

    `on_broken` is told when the disk has failed and the store cannot write any more.
    Raises ConfigError, StoreError; SchemaMismatch when it would have to be made or brought up to date first.
    """
    settings = load_settings()
    start_logging(settings)
    if doubt := doubtful_port(settings.smtp_port, settings.smtp_security):
        log.warning("POSTROOM_SMTP_PORT, POSTROOM_SMTP_SECURITY: %s", doubt)
    store = open_store(
        settings.database_url, create=migrate, bouncer=settings.database_bouncer, on_broken=on_broken
    )
    VAR.mkdir(mode=0o700, exist_ok=True)  # mails, keys and credentials are nobody else's
    vault = Vault.open(settings, VAR)
    if migrate:
        store.migrate()
    else:
        store.check_schema()
    _check_it_stays(store)
    check_position(store, settings)
    if migrate:
        note_servers(store, settings)
    if store.is_remote:
        _check_secret_key(store, vault)
    return Service(settings, store, vault)


def check_position(store: Store, settings: Settings, *, accept: bool = False) -> int:
    """See that the database has not stepped back (`position.check`); return how many messages are held because it has."""
    VAR.mkdir(mode=0o700, exist_ok=True)
    path = VAR / position.FILE
    return position.check(store, path, now=system_clock(), keep=settings.keep_history, accept=accept)


def note_servers(store: Store, settings: Settings) -> None:
    """Note which server accounts have worked with, where that was not noted yet, so that none stops at an update."""
    for stored in store.accounts():
        account = stored.account
        if account.worked_with == "":
            host = unnamed_server(account, settings)
            store.write(lambda transaction, id_=account.id, host=host: transaction.keep_server(id_, host))  # type: ignore[misc]


def check_folder() -> None:
    """Raise ConfigError when the current folder holds no installation."""
    if not VAR.is_dir():
        raise ConfigError(
            "POSTROOM_HOME",
            f"there is no installation in {Path.cwd()}: go to its folder, or name it with --home DIR",
        )


def _check_it_stays(store: Store) -> None:
    """See that the database has not been moved elsewhere, and is not being filled just now."""
    if (place := store.setting(MOVED)) is not None:
        raise ConfigError(
            "DATABASE_URL",
            f"this database was moved to {place}: set DATABASE_URL to that one. To go back to this one, which would send "
            "what is in its queue even if the other has sent it: postroom migrate-store --cancel SQLITE",
        )
    if (origin := store.setting(MOVING)) is not None:
        raise ConfigError(
            "DATABASE_URL",
            f"this database is not complete: it is being moved from {origin}; run migrate-store again",
        )


def _check_secret_key(store: Store, vault: Vault) -> None:
    """See that all hosts on one database have the same secret key, or one of those before it."""
    first = store.write(lambda transaction: transaction.set_setting_once(_VAULT, vault.fingerprint))
    if first not in vault.fingerprints:
        raise ConfigError(
            "POSTROOM_SECRET_KEY",
            "the passwords and keys in this database were stored with another secret key; give every host the same one: "
            "copy var/secret.key from the first, or set the variable",
        )
    if first != vault.fingerprint:
        store.write(lambda transaction: transaction.set_setting(_VAULT, vault.fingerprint))


def settle_memory() -> None:
    """Leave what is loaded by now out of every search for garbage, and search less often: little here is cyclic."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_A_SEARCH)


def check_service() -> Settings:
    """Return the settings, once it is certain that the installation can be opened; leave it closed."""
    service = open_service()
    service.store.close()
    return service.settings


def read_accounts_file(service: Service) -> None:
    """Bring the accounts in line with data.csv, and say what is wrong in it, new or not."""
    file = AccountsFile(service.store, service.vault, service.settings.accounts_csv)
    report(file.sync() or file.review())


def write_demo_accounts(path: Path) -> str | None:
    """Write a first data.csv with a key for the built-in inbox; return the key, or None when there is one already."""
    key = secrets.token_urlsafe(24)
    try:
        with path.open("x", encoding="utf-8") as file:
            path.chmod(0o600)
            file.write(demo_csv(key))
    except FileExistsError:
        return None
    return key


def warn_of_oversights(settings: Settings) -> None:
    """Have the log name what is likely a mistake at a start: settings that are none, passwords that others may read."""
    for name, meant in sorted(unknown_variables().items()):
        log.warning("there is no setting %s%s", name, f"; did you mean {meant}?" if meant else "")
    with suppress(OSError):
        if settings.accounts_csv.stat().st_mode & 0o004:
            log.warning(
                "%s holds passwords and is readable by every user of this machine: chmod 600 %s",
                settings.accounts_csv,
                settings.accounts_csv,
            )


def uses_inbox(service: Service) -> bool:
    """Whether any account sends to the built-in inbox, by its own host or by the configured one."""
    for stored in service.store.accounts():
        try:
            if server_for(stored.account, service.settings).host == INBOX_HOST:
                return True
        except ConfigError:  # the account's mail will say so
            continue
    return False


def child_commands(service: Service) -> list[str]:
    """Return the modules that `serve` has to run, with their arguments: the inbox only where an account uses it."""
    capture = ["postroom.inbox"] if uses_inbox(service) else []
    return ["postroom web", "postroom worker", *capture]
