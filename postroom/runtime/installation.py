"""Opening the service: settings, logging, vault, store and accounts, in this order."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from postroom.accounts.csv import demo_csv
from postroom.accounts.csv_sync import AccountsFile, SyncReport, has_been_read, keys_in_file, report
from postroom.accounts.vault import Vault
from postroom.core.clock import rfc3339, system_clock
from postroom.core.errors import ConfigError
from postroom.core.files import MAY_PASS, reason_of
from postroom.core.text import is_text
from postroom.providers import doubtful_port, server_for, unnamed_server
from postroom.runtime.own_files import check_own_files
from postroom.runtime.strike import strike_log, strike_stored
from postroom.settings import INBOX, Settings, former_variables, load_settings, unknown_variables
from postroom.store import position
from postroom.store.store import MOVED, MOVING, SECRET_CHECK, Store, StoredSecrets, open_store
from postroom.telemetry.log import LineFormatter, is_journal
from postroom.telemetry.repeats import quieten
from postroom.worker.email_log import LOCK as EMAIL_LOG_LOCK
from postroom.worker.email_log import EmailLog

log = logging.getLogger(__name__)

VAR = Path("var")
_STANDARD_ERROR = 2
_EX_TEMPFAIL = 75  # sysexits.h
_LAST_ANSWERS_S = 0.3
_REPETITIVE = (
    "postroom.worker",
    "postroom.smtp.exchangers",
    "postroom.store.async_writer",
    "postroom.store.position",
    "postroom.web.problems",
)  # loggers that may say the same for each connection or message
_ALLOCATIONS_A_SEARCH = 20_000  # of objects that hold others; Python's own is 700
_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BLOCK = 262_144


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


def open_service(
    *, migrate: bool = False, serving: bool = False, on_broken: Callable[[str], None] = lambda reason: None
) -> Service:
    """Open the installation in the current folder; with `migrate`, make it or bring it up to date.

    With `migrate` or `serving` the database keeps a check value of the secret key where it has none yet.
    A process with another secret key changes nothing.

    `on_broken` is told when the disk has failed and the store cannot write any more.
    Raises ConfigError, StoreError; SchemaMismatch when it would have to be made or brought up to date first.
    """
    settings = load_settings()
    check_own_files(settings, VAR)
    start_logging(settings)
    if doubt := doubtful_port(settings.smtp_port, settings.smtp_security):
        log.warning("POSTROOM_SMTP_PORT, POSTROOM_SMTP_SECURITY: %s", doubt)
    store = open_store(
        settings.database_url, create=migrate, bouncer=settings.database_bouncer, on_broken=on_broken
    )
    if not is_text(str(Path.cwd())):  # it stands in the database, with each worker's lock
        raise ConfigError("POSTROOM_HOME", f"the name of {Path.cwd()} is not UTF-8 text; rename the folder")
    VAR.mkdir(mode=0o700, exist_ok=True)  # mails, keys and credentials are nobody else's
    if not migrate:
        store.check_schema()
    vault = _open_vault(store, settings)
    if migrate:
        store.migrate()
    _check_it_stays(store)
    check_position(store, settings)
    if migrate:
        note_servers(store, settings)
    if migrate or serving:
        _keep_check_value(store, vault)
    if migrate:
        strike(store, settings, vault)
    return Service(settings, store, vault)


def strike(store: Store, settings: Settings, vault: Vault) -> None:
    """Take passwords that servers have repeated out of what an earlier version has stored and logged, once."""
    strike_stored(store, vault)
    strike_log(store, vault, EmailLog(store, settings.email_log, VAR / EMAIL_LOG_LOCK))


def strike_after_upgrade(store: Store, settings: Settings) -> None:
    """Take passwords out of what is stored, where the secret key is at hand; otherwise the next `serve` does it."""
    if store.stored_secrets().is_empty:
        return
    try:
        vault = _open_vault(store, settings)
    except ConfigError as error:
        log.warning(
            "what is stored was not searched for passwords; the next `postroom serve` does it: %s", error
        )
        return
    strike(store, settings, vault)


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


def check_secret(store: Store, settings: Settings) -> None:
    """Raise ConfigError where the database was written with another secret key, or has been moved elsewhere."""
    _check_it_stays(store)
    stored = store.stored_secrets()
    if not stored.is_empty and not _is_secret_of(stored, Vault.open(settings, VAR, create=False), settings):
        raise _another_secret(settings)


def _open_vault(store: Store, settings: Settings) -> Vault:
    """Open the vault. Raises ConfigError unless the database was written with its secret key, or holds no secret yet."""
    stored = store.stored_secrets()
    vault = Vault.open(settings, VAR, create=stored.is_empty)
    if not stored.is_empty and not _is_secret_of(stored, vault, settings):
        raise _another_secret(settings)
    return vault


def _is_secret_of(stored: StoredSecrets, vault: Vault, settings: Settings) -> bool:
    """Whether the secret key is the database's. Before the check value that is one which opens what is stored."""
    if stored.check is not None:
        return stored.check in vault.fingerprints
    if stored.credentials:
        return any(vault.opens(credential) for credential in stored.credentials)
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


def _keep_check_value(store: Store, vault: Vault) -> None:
    """Keep the check value of the secret key; that of the new one, where the former is still among its keys."""
    first = store.write(lambda transaction: transaction.set_setting_once(SECRET_CHECK, vault.fingerprint))
    if first not in vault.fingerprints:  # another process was faster
        raise ConfigError(
            "POSTROOM_SECRET_KEY", "another process has just set up this database with another secret key"
        )
    if first != vault.fingerprint:
        store.write(lambda transaction: transaction.set_setting(SECRET_CHECK, vault.fingerprint))


@dataclass(frozen=True, slots=True)
class Replaced:
    """What became of a database whose secret key was replaced."""

    accepted: int  # rows of data.csv
    lost: tuple[str, ...]  # accounts whose passwords nobody can read any more


def replace_secret() -> Replaced | None:
    """Store everything of data.csv with the present secret key, in place of one that is lost; None if it is the same."""
    settings = load_settings()
    check_own_files(settings, VAR)
    start_logging(settings)
    store = open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)
    try:
        store.check_schema()
        _check_it_stays(store)
        check_position(store, settings)
        return _replace_secret(store, settings)
    finally:
        store.close()


def _refuse_beside_workers(store: Store) -> None:
    """Raise ConfigError while a worker runs: it would go on with the former key. One that was killed counts no more."""
    from postroom.worker import liveness  # with all of the worker, which no other command needs

    for record in liveness.running(store, system_clock, pause=time.sleep)[:1]:
        where = f"pid {record.pid}"
        if record.host != liveness.host_identity():
            until = rfc3339(record.lease_until)
            where += f" on another host, or before this one was restarted; if it was killed, it counts until {until}"
        raise ConfigError(
            "POSTROOM_SECRET_KEY",
            f"a worker is running ({where}): stop Postroom on every host, then repeat this",
        )


def _replace_secret(store: Store, settings: Settings) -> Replaced | None:
    _refuse_beside_workers(store)
    if not keys_in_file(settings.accounts_csv):
        raise ConfigError(
            "POSTROOM_ACCOUNTS_CSV",
            f"{settings.accounts_csv} holds no account: passwords and keys would be lost; put the file in its place first",
        )
    vault, stored = Vault.open(settings, VAR), store.stored_secrets()
    if not stored.is_empty and _is_secret_of(stored, vault, settings):
        return None
    store.write(lambda transaction: transaction.set_setting(SECRET_CHECK, vault.fingerprint))
    found = AccountsFile(store, vault, settings.accounts_csv).sync()
    report(found)
    lost = [
        each.account.email
        for each in store.accounts()
        if each.credential and not vault.opens(each.credential)
    ]
    return Replaced(found.accepted if found else 0, tuple(lost))


def settle_memory() -> None:
    """Leave what is loaded by now out of every search for garbage, and search less often: little here is cyclic."""
    _return_large_blocks()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_A_SEARCH)


def _return_large_blocks() -> None:
    """Have glibc give large blocks back to the system as soon as they are free: it keeps more and more of them else."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def check_service() -> Settings:
    """Return the settings, once it is certain that the installation can be opened; leave it closed."""
    service = open_service(serving=True)
    service.store.close()
    return service.settings


def read_accounts_file(service: Service) -> SyncReport | None:
    """Bring the accounts in line with data.csv, and say what is wrong in it, new or not."""
    file = AccountsFile(service.store, service.vault, service.settings.accounts_csv)
    found = file.sync() or file.review()
    report(found)
    return found


def write_demo_accounts(service: Service) -> str | None:
    """Write a first data.csv with a key for the built-in inbox; return the key.

    None where there is a file, or was one: in its place a first one would end all keys. Raises ConfigError.
    """
    path = service.settings.accounts_csv
    if has_been_read(service.store):
        return None
    if not path.parent.exists():
        raise ConfigError(
            "POSTROOM_ACCOUNTS_CSV",
            f"there is no folder {path.parent.absolute()}; make it, or name another file",
        )
    key = secrets.token_urlsafe(24)
    try:
        with path.open("x", encoding="utf-8") as file:
            path.chmod(0o600)
            file.write(demo_csv(key))
    except FileExistsError:
        return None
    except OSError as error:
        if error.errno in MAY_PASS:
            raise
        raise ConfigError(
            "POSTROOM_ACCOUNTS_CSV", f"cannot write {path}: {reason_of(error)}; name another file"
        ) from error
    return key


def warn_of_oversights(settings: Settings) -> None:
    """Have the log name what is likely a mistake at a start: settings that are none, passwords that others may read."""
    for name, meant in sorted(unknown_variables().items()):
        log.warning("there is no setting %s%s", name, f"; did you mean {meant}?" if meant else "")
    for name, present in former_variables().items():
        log.warning("%s is called %s now: rename it", name, present)
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
            if server_for(stored.account, service.settings).host == INBOX:
                return True
        except ConfigError:  # the account's mail will say so
            continue
    return False


def child_commands(service: Service) -> list[str]:
    """Return the modules that `serve` has to run, with their arguments: the inbox only where an account uses it."""
    capture = ["postroom.inbox.server"] if uses_inbox(service) else []
    return ["postroom web", "postroom worker", *capture]
