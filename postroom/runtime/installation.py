"""Opens an installation: settings, logging, database, secret key, and the checks before anything is changed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from postroom.accounts.admin_token import ensure_admin_token
from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.vault import Vault
from postroom.core.clock import system_clock
from postroom.core.errors import ConfigError
from postroom.core.events import EventListener, Happened
from postroom.core.log_options import LogFormat
from postroom.core.text import is_text
from postroom.providers import unnamed_server, unusual_port
from postroom.runtime import own_files, secret_key
from postroom.runtime.own_files import check_own_files
from postroom.runtime.strike import strike_log, strike_stored
from postroom.runtime.supervisor import INBOX as INBOX_MODULE
from postroom.runtime.supervisor import NOTIFIER
from postroom.runtime.tracing import traces_of_process
from postroom.settings import (
    EMAIL_LOG_IN_THE_WAY,
    INBOX,
    Settings,
    former_variables,
    load_settings,
    unknown_variables,
)
from postroom.store import position
from postroom.store.account_servers import AccountServers
from postroom.store.accounts import Accounts
from postroom.store.settings import StoredSettings
from postroom.store.store import MOVED, MOVING, Store, open_store
from postroom.telemetry import service_log
from postroom.telemetry.repeats import quieten
from postroom.telemetry.service_log import ServiceLog
from postroom.telemetry.shipping.chosen import shipper_of
from postroom.worker.email_log import LOCK as EMAIL_LOG_LOCK
from postroom.worker.email_log import EmailLog

if TYPE_CHECKING:
    from postroom.telemetry.traces import Traces

log = logging.getLogger(__name__)

VAR = own_files.VAR
_EX_TEMPFAIL = 75  # sysexits.h
_LAST_ANSWERS_S = 0.3
_REPETITIVE = (
    "opentelemetry",
    "postroom.worker",
    "postroom.smtp.exchangers",
    "postroom.store.async_writer",
    "postroom.store.position",
    "postroom.web.problems",
    "postroom.telemetry.shipping",
)  # loggers that may repeat a line for each connection or message


@dataclass(frozen=True, slots=True)
class Service:
    """An open installation in the current folder."""

    settings: Settings
    store: Store
    vault: Vault
    log: ServiceLog | None = None  # None: a command's, which writes to standard error
    traces: Traces | None = None

    def close_telemetry(self) -> None:
        """Let go of lines and spans that are left, within a bounded time."""
        if self.traces is not None:
            self.traces.close()
        if self.log is not None:
            self.log.close()


def start_logging(settings: Settings) -> None:
    """Log to standard error; one line for each record, except repeated ones of some loggers."""
    handler = service_log.text_handler()
    service_log.replace_handlers(handler, settings.log_level)
    quieten(handler, *_REPETITIVE)


def _start_log(settings: Settings, *, as_service: bool) -> ServiceLog | None:
    """Log as POSTROOM_LOG_FORMAT says: what serves does so, commands do not. Raises ConfigError."""
    if not as_service:
        start_logging(settings)
        return None
    return start_service_log(settings)


def start_service_log(settings: Settings) -> ServiceLog:
    """Log as POSTROOM_LOG_FORMAT says, and ship as POSTROOM_LOG_SHIP does. Raises ConfigError."""
    if settings.log_format is not LogFormat.TEXT and _is_standard_output(settings.email_log):
        raise ConfigError("POSTROOM_EMAIL_LOG", EMAIL_LOG_IN_THE_WAY)
    return service_log.start(settings.log_options, VAR, _REPETITIVE, shipper_of(settings))


def _is_standard_output(path: Path) -> bool:
    """Whether a name leads to what this process has as its standard output."""
    try:
        found = path.stat()
        is_same = os.path.samestat(found, os.fstat(service_log.STANDARD_OUTPUT))
        return is_same and not os.path.samestat(found, os.stat(os.devnull))  # noqa: PTH116
    except OSError:
        return False


def _tell_events(own_log: ServiceLog | None, store: Store, vault: Vault) -> Traces | None:
    """Have the events of messages logged, where that takes no records, and traced; and what is shipped measured.

    Returns the traces of this process, where there are any.
    """
    if own_log is None:
        return None
    own_log.addresses.adopt(vault.own_digest)
    own_log.measure(store.measures)
    traces = traces_of_process()
    listeners = [*([own_log.tell] if own_log.takes_events else []), *([traces.tell] if traces else [])]
    if listeners:
        store.listen(partial(_tell_all, listeners))
    return traces


def _tell_all(listeners: Sequence[EventListener], happened: Sequence[Happened]) -> None:
    for listener in listeners:
        listener(happened)


def stop_this_process(reason: str) -> None:
    """End this process soon, so that it is started again; answers that are under way are still sent."""
    log.critical("%s", reason)
    end = threading.Timer(_LAST_ANSWERS_S, os._exit, [_EX_TEMPFAIL])
    end.daemon = True
    end.start()


def open_service(
    *,
    migrate: bool = False,
    serving: bool = False,
    as_service: bool = False,
    on_broken: Callable[[str], None] = lambda reason: None,
) -> Service:
    """Open the installation in the current folder; with `migrate`, make it or bring it up to date.

    With `migrate` or `serving` the database keeps a check value of the secret key where it has none yet.
    A process with another secret key changes nothing. `as_service` is for the service's own processes: they log as
    POSTROOM_LOG_FORMAT says.

    `on_broken` is told when the disk has failed and the store cannot write any more.
    Raises ConfigError, StoreError; SchemaMismatch when it would have to be made or brought up to date first.
    """
    settings = load_settings()
    check_own_files(settings, VAR)
    own_log = _start_log(settings, as_service=as_service)
    if doubt := unusual_port(settings.smtp_port, settings.smtp_security):
        log.warning("POSTROOM_SMTP_PORT, POSTROOM_SMTP_SECURITY: %s", doubt)
    store = open_store(
        settings.database_url, create=migrate, bouncer=settings.database_bouncer, on_broken=on_broken
    )
    vault = _prepare(store, settings, migrate=migrate, serving=serving)
    return Service(settings, store, vault, own_log, _tell_events(own_log, store, vault))


def _prepare(store: Store, settings: Settings, *, migrate: bool, serving: bool) -> Vault:
    """Check the folder, the database and the secret key, as `open_service` says; return the vault."""
    if not is_text(str(Path.cwd())):  # it stands in the database, with each worker's lock
        raise ConfigError("POSTROOM_HOME", f"the name of {Path.cwd()} is not UTF-8 text; rename the folder")
    VAR.mkdir(mode=0o700, exist_ok=True)  # messages, keys and credentials are private
    if not migrate:
        store.check_schema()
    vault = secret_key.open_vault(store, settings)
    if migrate:
        store.migrate()
    check_it_stays(store)
    check_position(store, settings)
    if migrate:
        note_servers(store, settings)
    if migrate or serving:
        secret_key.check_former_values(store, vault)
        secret_key.keep_check_value(store, vault)
    adopt_digest_key(store, vault, create=migrate or serving)
    if migrate or serving:
        ensure_admin_token(store, vault, settings, VAR)
    if migrate:
        strike(store, settings, vault)
    return vault


def strike(store: Store, settings: Settings, vault: Vault) -> None:
    """Take passwords that servers have repeated out of the database and the log of an earlier version, once."""
    strike_stored(store, vault)
    strike_log(store, vault, EmailLog(store, settings.email_log, VAR / EMAIL_LOG_LOCK))


def strike_after_upgrade(store: Store, settings: Settings) -> None:
    """Take passwords out of the database and the log where the secret key is at hand; otherwise the next `serve` does it."""
    if store.stored_secrets().is_empty:
        return
    try:
        vault = secret_key.open_vault(store, settings)
    except ConfigError as error:
        log.warning(
            "what is stored was not searched for passwords; the next `postroom serve` does it: %s", error
        )
        return
    strike(store, settings, vault)


def check_position(store: Store, settings: Settings, *, accept: bool = False) -> int:
    """Check that the database has not been set back (`position.check`); return how many messages are held because it was."""
    VAR.mkdir(mode=0o700, exist_ok=True)
    path = VAR / position.FILE
    return position.check(store, path, now=system_clock(), keep=settings.keep_history, accept=accept)


def note_servers(store: Store, settings: Settings) -> None:
    """Store the server that each account has worked with, where that is unknown, so that none stops at an update."""
    for account_id in store.read(AccountServers.unknown):
        stored = store.read(Accounts.get, account_id)
        if stored is not None and stored.account.worked_with == "":
            store.write(Accounts.keep_server, account_id, unnamed_server(stored.account, settings))


def check_folder() -> None:
    """Raise ConfigError when the current folder holds no installation."""
    if not VAR.is_dir():
        raise ConfigError(
            "POSTROOM_HOME",
            f"there is no installation in {Path.cwd()}: go to its folder, or name it with --home DIR",
        )


def check_it_stays(store: Store) -> None:
    """Raise ConfigError where the database was moved elsewhere, or is being filled by a move."""
    if (place := store.read(StoredSettings.get, MOVED)) is not None:
        raise ConfigError(
            "DATABASE_URL",
            f"this database was moved to {place}: set DATABASE_URL to that one. To go back to this one, which would send "
            "what is in its queue even if the other has sent it: postroom migrate-store --cancel SQLITE",
        )
    if (origin := store.read(StoredSettings.get, MOVING)) is not None:
        raise ConfigError(
            "DATABASE_URL",
            f"this database is not complete: it is being moved from {origin}; run migrate-store again",
        )


def check_secret(store: Store, settings: Settings) -> None:
    """Raise ConfigError where something stored needs another secret key, or the database has been moved elsewhere."""
    check_it_stays(store)
    secret_key.check_secret(store, settings)


def check_service() -> Settings:
    """Return the settings after opening the installation once; leave it closed."""
    service = open_service(serving=True, as_service=True)
    service.store.close()
    return service.settings


def warn_of_oversights(settings: Settings) -> None:
    """Log likely mistakes at a start: unknown or renamed settings, and a data.csv that others can read."""
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
    hosts = service.store.read(AccountServers.hosts)
    return INBOX in hosts or ("" in hosts and (service.settings.smtp_host or "").lower() == INBOX)


def child_commands(service: Service) -> list[str]:
    """Return the modules that `serve` has to run, with their arguments.

    The inbox only where an account uses it, and the process that tells the admins only where there is a way to them.
    """
    capture = [INBOX_MODULE] if uses_inbox(service) else []
    notices = [" ".join(NOTIFIER)] if service.settings.notify else []
    return ["postroom web", "postroom worker", *notices, *capture]
