"""Examines the installation for `postroom doctor`: versions, database, clock, disk, workers, modes of its files."""

from __future__ import annotations

import platform
import ssl
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from postroom import __version__
from postroom.accounts.doctor.clock import about_clock
from postroom.accounts.doctor.finding import Finding, Severity, error, not_known, ok, warning
from postroom.core.clock import Clock, Instant, system_clock
from postroom.core.env_file import NAME as DOT_ENV
from postroom.core.errors import ConfigError, PostroomError, SchemaMismatch, StoreError
from postroom.core.text import counted
from postroom.runtime.own_files import VAR
from postroom.settings import Settings, secret_files
from postroom.store.findings import Findings
from postroom.store.store import Store, sqlite_path
from postroom.store.workers import WorkerRecord, Workers
from postroom.worker.liveness import was_renewed

_OTHERS: Final = stat.S_IRWXO
_GROUP: Final = stat.S_IRWXG
_ROOM: Final = 4  # times the reserve: below that is little
_SENDING_STOPS: Final = 4  # below that part of the reserve no worker sends


class PrivateFile(NamedTuple):
    """A file or folder that holds secrets, and how bad it is when everybody can read it."""

    path: Path
    mode: int
    open_to_all: Severity


def examine_installation(
    settings: Settings, store: Store, clock: Clock = system_clock
) -> tuple[Finding, ...]:
    """Return the findings about an installation whose database is open. Raises StoreError."""
    return (
        *about_versions(store.read(Findings.database_version)),
        about_database(store, settings),
        _clock(store, clock),
        about_disk(store.free_bytes(), settings.disk_reserve),
        about_workers(store.read(Workers.living), clock()),
        *about_files(private_files(settings)),
    )


def examine_without_database(
    fault: PostroomError | ConfigError, settings: Settings | None
) -> tuple[Finding, ...]:
    """Return the findings about an installation that cannot be opened: `fault` says why."""
    files = private_files(settings) if settings else []
    return (*about_versions(None), about_fault(fault), *about_files(files))


# -- values


def about_versions(database: str | None) -> Iterator[Finding]:
    names = [f"Postroom {__version__}", f"Python {platform.python_version()}", database, ssl.OPENSSL_VERSION]
    yield ok("versions", ", ".join(name for name in names if name))


def about_fault(fault: PostroomError | ConfigError) -> Finding:
    if isinstance(fault, SchemaMismatch):
        return error(
            "database", "the database cannot be used by this version", str(fault), "postroom migrate"
        )
    if isinstance(fault, ConfigError):
        return error(
            "settings",
            f"the setting {fault.variable} cannot be used",
            fault.message,
            f"correct {fault.variable}",
        )
    fix = "start the database, or correct DATABASE_URL"
    return error("database", "the database cannot be used", str(fault), fix)


def about_database(store: Store, settings: Settings) -> Finding:
    path = sqlite_path(settings.database_url)
    where = str(path) if path else "the server of DATABASE_URL"
    try:
        store.check_schema()
        store.check_writable()
    except (StoreError, ConfigError) as fault:
        return about_fault(fault)
    return ok("database", f"{where} can be read and written, and its schema is this version's")


def _clock(store: Store, clock: Clock) -> Finding:
    theirs = store.read(Findings.database_clock)
    if theirs is None:
        return not_known(
            "clock", "nobody has told the time here", "SQLite has no other clock than this machine's"
        )
    return about_clock(clock(), theirs, "the database's server")


def about_disk(free_bytes: int, reserve: int) -> Finding:
    if free_bytes == sys.maxsize:
        return not_known("disk", "the room on the disk of the database's server cannot be seen from here")
    said = f"{free_bytes >> 20} MiB are free where the database is, and POSTROOM_DISK_RESERVE is {reserve >> 20} MiB"
    fix = "make room there, or set POSTROOM_KEEP_BODIES and POSTROOM_KEEP_HISTORY shorter"
    if free_bytes < reserve:
        none_is_sent = ", and none is sent" if free_bytes < reserve // _SENDING_STOPS else ""
        return error("disk", said, f"no message is accepted{none_is_sent}", fix)
    if free_bytes < _ROOM * reserve:
        return warning("disk", said, "below the reserve no message is accepted", fix)
    return ok("disk", said)


def about_workers(living: Iterable[WorkerRecord], now: Instant) -> Finding:
    working = sum(was_renewed(record, now) for record in living)
    if not working:
        fix = "start the service: postroom serve"
        return warning("workers", "no worker runs: messages wait", fix=fix)
    return ok("workers", f"{counted(working, 'worker runs', 'workers run')}")


def private_files(settings: Settings) -> list[PrivateFile]:
    """Return the files of the installation that hold secrets, those that are there."""
    named = [
        (VAR, Severity.WARNING),
        (VAR / "secret.key", Severity.ERROR),
        (VAR / "admin.token", Severity.ERROR),
        (Path(DOT_ENV), Severity.WARNING),
        (settings.accounts_csv, Severity.WARNING),
        *((path, Severity.WARNING) for path in secret_files().values()),
    ]
    found = []
    for path, severity in named:
        with suppress(OSError):
            found.append(PrivateFile(path, path.stat().st_mode, severity))
    return found


def about_files(files: Iterable[PrivateFile]) -> Iterator[Finding]:
    """Yield each file or folder that others than its owner have access to; one finding where there is none."""
    private = []
    for path, mode, severity in files:
        shown = f"{path} has mode {stat.S_IMODE(mode):04o}"
        fix = f"chmod {'700' if stat.S_ISDIR(mode) else '600'} {path}"
        if mode & _OTHERS:
            yield Finding(
                "files", severity, f"{shown}: every user of this machine has access to it", None, fix
            )
        elif mode & _GROUP:
            yield Finding("files", Severity.NOTE, f"{shown}: its group has access to it", None, fix)
        else:
            private.append(str(path))
    if private:
        yield ok("files", f"private: {', '.join(private)}")
