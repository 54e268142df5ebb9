"""Checks copies of SQLite databases for backups, and keeps all processes out of one during a restore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from postroom.core.errors import StoreDamaged, StoreInUse
from postroom.store.sqlite.writer_lock import WriterLock

_LONGEST_WAIT_S = 5.0


def check_copy(path: Path) -> None:
    """Raise StoreDamaged unless all pages and indexes of a database that nobody has open are sound."""
    try:
        connection = apsw.Connection(
            f"file:{path}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        )
        try:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check(1)")]
        finally:
            connection.close()
    except apsw.Error as error:
        raise StoreDamaged(f"the copy of the database is damaged: {error}") from error
    if found != ["ok"]:
        raise StoreDamaged(f"the copy of the database is damaged: {found[0]}")


def log_of(database: Path) -> Path:
    """Return the write-ahead log of a database."""
    return database.with_name(f"{database.name}-wal")


def mark_of(database: Path) -> Path:
    """Return the file that says that a restore of this database is not complete."""
    return database.with_name(f"{database.name}-restoring")


def is_absent(database: Path) -> bool:
    """Whether there is no database, nor anything of one that a start would have to refuse."""
    place = database.resolve()
    return not (place.exists() or mark_of(place).exists() or log_of(place).exists())


def refuse_unfinished(path: Path) -> None:
    """Raise StoreDamaged while a restore is half done."""
    mark = mark_of(path)
    if mark.exists():
        raise StoreDamaged(
            f"a restore of {path} was interrupted ({mark} says so); nothing was changed. Run `postroom restore FILE` again; "
            f"or, to go back, give every NAME.before-TIME its former name, and remove {mark} then"
        )


def refuse_log_alone(path: Path) -> None:
    """Raise StoreDamaged for a write-ahead log without its database: SQLite would remove it."""
    log = log_of(path)
    if _size(log) and not _size(path):
        raise StoreDamaged(
            f"{log} is here without its database, and is removed as soon as there is a new one; nothing was changed. Put "
            f"{path} back (a restore that was interrupted has called it {path.name}.before-TIME); or, to go on without it, "
            f"move {log} away"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def closed_to_all(path: Path) -> Iterator[WriterLock]:
    """Keep a database that nobody has open from being opened: a process that tries waits, and gives up after a while.

    Raises StoreInUse where a process of Postroom has it open.
    """
    place = path.resolve()
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = WriterLock(place.with_name(f"{place.name}-lock"), _LONGEST_WAIT_S)
    try:
        with lock:
            if lock.is_in_use():
                raise StoreInUse(f"{path} is in use: stop Postroom first")
            lock.use()  # in place of the lock that the look has left, which would keep others from theirs
            yield lock
    finally:
        lock.close()
