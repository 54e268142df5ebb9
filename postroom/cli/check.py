"""`postroom check`: could the service start here, and would it find all that its settings name?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postroom.core.errors import ConfigError, PostroomError, StoreUnavailable
from postroom.core.files import reason_of, whose
from postroom.core.text import counted, printable_lines

if TYPE_CHECKING:
    from postroom.settings import Settings
    from postroom.store.store import Store

EX_CONFIG = 78  # sysexits.h


@click.command()
def check() -> int:
    """Check whether the service could start here and do all that its settings ask for.

    Looks at the settings, the folder, data.csv, the database, email_log.txt, the limiter, shipping of the log, traces,
    notices, and the ports of HTTP and of the metrics.

    Changes nothing. Prints a line for each; the exit status is 0, or 78 when one of them is wrong. For ExecStartPre,
    init containers and CI: run it before the service starts, since it needs the ports too.
    """
    wrong = 0
    for name, found in _findings():
        wrong += isinstance(found, Exception)
        state = "wrong" if isinstance(found, Exception) else "ok"
        click.echo(printable_lines(f"{state:5}  {name}: {found}"))
    return EX_CONFIG if wrong else 0


def _findings() -> Iterator[tuple[str, str | Exception]]:
    from postroom.runtime.installation import VAR
    from postroom.runtime.own_files import check_own_files
    from postroom.settings import load_settings

    try:
        settings = load_settings()
        check_own_files(settings, VAR)
    except ConfigError as error:
        yield "settings", error
        return
    yield "settings", _settings_line()
    for name, look in (
        ("folder", _folder),
        ("data.csv", _accounts),
        ("database", _database),
        ("email_log", _email_log),
        ("limiter", _limiter),
        ("shipping", _shipping),
        ("traces", _traces),
        ("notices", _notices),
        ("port", _port),
        ("metrics", _metrics),
    ):
        yield name, _found(look, settings)


def _found(look: Callable[[Settings], str], settings: Settings) -> str | Exception:
    try:
        return look(settings)
    except (ConfigError, PostroomError, OSError) as error:
        return error


def _settings_line() -> str:
    from postroom.settings import unknown_variables

    unknown = sorted(unknown_variables())
    return f"ignored, since there are none of these names: {', '.join(unknown)}" if unknown else "can be read"


def _folder(settings: Settings) -> str:
    from postroom.runtime import installation

    place = installation.VAR if installation.VAR.is_dir() else Path()
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError("POSTROOM_HOME", f"{place.resolve()} cannot be written to: {whose(place)}")
    if place == installation.VAR:
        _own_files(place)
    return str(Path.cwd())


def _own_files(var: Path) -> None:
    """Raise ConfigError for a file of the installation that this user may not write to, as after a start by root."""
    for path in sorted(var.iterdir()):
        needed = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
        if not path.is_socket() and not os.access(path, needed):
            raise ConfigError(
                "POSTROOM_HOME", f"{path} cannot be read and written: {whose(path)}; give it to this user"
            )


def _accounts(settings: Settings) -> str:
    from postroom.accounts.csv_sync import file_at

    path = settings.accounts_csv
    try:
        file = file_at(path)
    except FileNotFoundError:
        if not path.parent.exists():
            raise ConfigError(
                "POSTROOM_ACCOUNTS_CSV", f"there is no folder {path.parent.absolute()}"
            ) from None
        return f"{path} is not there; `postroom serve` will write a first one"
    except OSError as error:
        raise ConfigError("POSTROOM_ACCOUNTS_CSV", f"{path} cannot be read: {reason_of(error)}") from error
    faults = [f"line {fault.line}: {fault.message}" if fault.line else fault.message for fault in file.faults]
    if file.fatal:
        raise ConfigError("POSTROOM_ACCOUNTS_CSV", f"{path} {faults[0]}")
    left_out = f"; left out: {'; '.join(faults)}" if faults else ""
    return f"{counted(len(file.rows), 'row')}{left_out}"


def _database(settings: Settings) -> str:
    from postroom.store.sqlite.copies import is_absent
    from postroom.store.store import open_store, sqlite_path

    path = sqlite_path(settings.database_url)
    if path is not None and is_absent(path):
        _can_be_made(path)
        return "is not there; `postroom serve` or `postroom migrate` will make it"
    try:
        store = open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)
    except StoreUnavailable as error:
        if path is not None:
            raise
        raise ConfigError("DATABASE_URL", f"{error}; start its server, or correct the address") from error
    with closing(store):
        return _look_into(store, settings)


def _can_be_made(database: Path) -> None:
    """Raise ConfigError where there is no folder for a new database, or not enough room."""
    folder = database.resolve().parent
    if not folder.exists() and database.parent == Path("var"):
        return  # made by the first start; `_folder` has looked at the place
    if not folder.is_dir():
        raise ConfigError("DATABASE_URL", f"there is no folder {folder}; make it, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError("DATABASE_URL", f"{folder} cannot be written to: {whose(folder)}")


def _look_into(store: Store, settings: Settings) -> str:
    from postroom.core.errors import SchemaMismatch
    from postroom.runtime import installation

    try:
        store.check_schema()
    except SchemaMismatch as error:
        if "newer" in str(error):
            raise
        return f"{error} (`postroom serve` does so itself)"
    installation.check_secret(store, settings)
    store.check_writable()
    _room(store.free_bytes(), settings)
    return "is up to date, and its secret key is ours"


def _limiter(settings: Settings) -> str:
    from postroom.web.rate_limiter import answers

    url = settings.ratelimit_storage_uri
    if url.startswith("memory:"):
        return "in memory"
    if not answers(url):
        raise ConfigError(
            "RATELIMIT_STORAGE_URI",
            "its server does not answer; start it, or name another (REDIS_URL stands in)",
        )
    return "answers"


def _room(free_bytes: int, settings: Settings) -> None:
    if free_bytes < settings.disk_reserve:
        raise ConfigError(
            "POSTROOM_DISK_RESERVE",
            f"{free_bytes >> 20} MiB are free where the database is, fewer than the reserve of "
            f"{settings.disk_reserve >> 20} MiB: no message would be accepted; make room there",
        )


def _email_log(settings: Settings) -> str:
    path = settings.email_log
    try:
        may = os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError as error:
        raise ConfigError("POSTROOM_EMAIL_LOG", f"{path}: {reason_of(error)}; name another file") from error
    if path.is_dir():
        raise ConfigError("POSTROOM_EMAIL_LOG", f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise ConfigError("POSTROOM_EMAIL_LOG", f"there is no folder {path.parent.absolute()}; make it")
    if not may:
        denied = path if path.exists() else path.parent
        raise ConfigError(
            "POSTROOM_EMAIL_LOG", f"{path} cannot be written to: {whose(denied)}; name another file"
        )
    return str(path)


def _shipping(settings: Settings) -> str:
    from postroom.telemetry.shipping.chosen import intake_of

    chosen = intake_of(settings)
    return "none (POSTROOM_LOG_SHIP is empty)" if chosen is None else f"to {chosen[1].where}"


def _traces(settings: Settings) -> str:
    from postroom.runtime.tracing import check_traces

    return "are exported" if check_traces() else "none (no OTEL_… asks for them)"


def _notices(settings: Settings) -> str:
    if not settings.notify:
        return "nobody is told what is wrong (POSTROOM_NOTIFY is empty)"
    from postroom.notices.process import check_ways
    from postroom.runtime.notice_accounts import unknown_senders

    check_ways(settings)
    if unknown := unknown_senders(settings):
        raise ConfigError("POSTROOM_NOTIFY", unknown[0])
    return f"ways to the admins: {', '.join(way.name for way in settings.notify)}"


def _port(settings: Settings) -> str:
    from postroom.runtime import listen

    listen.check(settings)
    return f"free: {listen.described(settings)}"


def _metrics(settings: Settings) -> str:
    from postroom.telemetry.metrics.port import check_port

    if settings.metrics_port is None:
        return "have no port of their own (POSTROOM_METRICS_PORT is empty)"
    check_port(settings.metrics_host, settings.metrics_port)
    return f"free: http://{settings.metrics_host}:{settings.metrics_port}/metrics"
