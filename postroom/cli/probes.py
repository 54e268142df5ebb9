"""`postroom check` and `postroom healthy`: can the service start here, and are its processes alive?"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postroom.core.errors import ConfigError, PostroomError
from postroom.core.files import reason_of, whose
from postroom.core.text import counted, printable_lines
from postroom.store.workers import Workers

if TYPE_CHECKING:
    from postroom.settings import Settings
    from postroom.store.store import Store

EX_CONFIG = 78  # sysexits.h
_ANSWERS_WITHIN_S = 5.0


@click.command()
def check() -> int:
    """Check whether the service could start here: settings, folder, data.csv, database, limiter and port.

    Changes nothing. Prints a line for each; the exit status is 0, or 78 when one of them is wrong. For ExecStartPre,
    init containers and CI: run it before the service starts, since it needs the port too.
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
        ("limiter", _limiter),
        ("notices", _notices),
        ("port", _port),
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
    return str(Path.cwd())


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
        return "is not there; `postroom serve` or `postroom migrate` will make it"
    with closing(open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)) as store:
        return _look_into(store, settings)


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
    return "is up to date, and its secret key is ours"


def _limiter(settings: Settings) -> str:
    from postroom.web.rate_limiter import answers

    url = settings.ratelimit_storage_uri
    if url.startswith("memory:"):
        return "in memory"
    if not answers(url):
        raise ConfigError("RATELIMIT_STORAGE_URI", "its server does not answer")
    return "answers"


def _notices(settings: Settings) -> str:
    if not settings.notify:
        return "nobody is told what is wrong (POSTROOM_NOTIFY is empty)"
    from postroom.notices.process import check_ways

    check_ways(settings)
    return f"ways to the admins: {', '.join(way.name for way in settings.notify)}"


def _port(settings: Settings) -> str:
    from postroom.runtime import listen

    listen.check(settings)
    return f"free: {listen.described(settings)}"


@click.command()
@click.argument("which", type=click.Choice(["web", "worker"]))
def healthy(which: str) -> int:
    """Say whether this host's web process, or its workers, are alive: status 0 or 1. For probes of a container.

    A worker that hangs has not renewed its lease. While the database is away this cannot be seen, and a restart
    would not help: then a worker is healthy for as long as its process runs.
    """
    from postroom.settings import load_settings

    is_healthy, said = (_web if which == "web" else _workers)(load_settings())
    click.echo(said, err=not is_healthy)
    return 0 if is_healthy else 1


class _Socket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWERS_WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWERS_WITHIN_S)
        self.sock.connect(str(self._path))


def _web(settings: Settings) -> tuple[bool, str]:
    from postroom.runtime import listen

    path = listen.socket_path(settings)
    try:
        client = _Socket(path) if path else _tcp(listen.address_of(settings), settings.port)
        with closing(client):
            client.request("GET", "/livez")
            status = client.getresponse().status
    except (OSError, http.client.HTTPException, ConfigError) as error:
        return False, f"the web process does not answer: {error}"
    return status == 200, f"the web process answers {status}"


def _tcp(address: str, port: int) -> http.client.HTTPConnection:
    from postroom.runtime import listen

    return http.client.HTTPConnection(listen.ANY.get(address, address), port, timeout=_ANSWERS_WITHIN_S)


def _workers(settings: Settings) -> tuple[bool, str]:
    from postroom.core.clock import system_clock
    from postroom.core.errors import StoreError
    from postroom.runtime import installation
    from postroom.store.store import open_store
    from postroom.worker import liveness

    folder = installation.VAR / "workers"
    running = liveness.running_in(folder)
    if not running:
        return False, "no worker runs here"
    with suppress(StoreError):
        store = open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)
        with closing(store):
            ours = [record for record in store.read(Workers.living) if liveness.belongs_to(record, folder)]
        alive = sum(liveness.was_renewed(record, system_clock()) for record in ours)
        said = f"{alive} of {counted(running, 'worker')} here renewed the lease of late"
        return alive >= running, said
    return True, f"{counted(running, 'worker runs', 'workers run')} here; the database cannot be asked"
