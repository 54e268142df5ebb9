"""Copies of an SQLite database: made while it is in use, and checked before anybody relies on one."""

from __future__ import annotations

from pathlib import Path

import apsw

from postroom.errors import StoreDamaged
from postroom.store.writerlock import WriterLock


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


def is_in_use(path: Path) -> bool:
    """Whether any process of Postroom has the database open."""
    place = path.resolve()
    lock_file = place.with_name(f"{place.name}-lock")
    if not lock_file.exists():
        return False
    lock = WriterLock(lock_file, 0.0)
    try:
        return lock.is_in_use()
    finally:
        lock.close()
