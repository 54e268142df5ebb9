"""Connections to an SQLite file: their pragmas, the named statements, the pool of readers, and a copy of the file."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import apsw
from aiosql.adapters.sqlite3 import SQLite3Adapter
from aiosql.queries import Queries

from postroom.core.errors import ConfigError
from postroom.core.files import open_plain
from postroom.store.queries import load
from postroom.store.transaction import Transaction

# Versions 3.7.0 to 3.51.2 can corrupt a WAL database that two connections write to (sqlite.org/wal.html, "WAL reset").
OLDEST_SQLITE = (3, 51, 3)

WRITER_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA cache_size = -16384",
    "PRAGMA journal_size_limit = 67108864",
    # What is deleted is overwritten: an erased address is not to be found in the file (`postroom erase`).
    "PRAGMA secure_delete = ON",
    # What undoes a statement. The end of a message changes 16 pages, for which SQLite makes a file otherwise.
    "PRAGMA temp_store = MEMORY",
)
READER_PRAGMAS = ("PRAGMA query_only = ON", "PRAGMA cache_size = -1024")


class _Adapter(SQLite3Adapter):
    """Teaches aiosql that APSW counts changed rows on the connection, not on the cursor; a SELECT's rows count too."""

    def insert_update_delete(self, conn: apsw.Connection, query_name: str, sql: str, parameters: Any) -> int:
        cursor = conn.execute(sql, parameters)
        return len(cursor.fetchall()) if sql.startswith("SELECT") else conn.changes()


@cache
def load_queries() -> Queries:
    """Return the named statements, bound to this engine's driver."""
    return load("sqlite", _Adapter)


@cache
def view_script() -> str:
    """Return the script that makes the writing connection's views; several statements stand behind each view."""
    return Path(__file__).with_name("one_statement.sql").read_text(encoding="utf-8")


def connection_of(transaction: Transaction) -> apsw.Connection:
    """Return the connection that a transaction of this engine runs over."""
    return cast("apsw.Connection", transaction.connection)


def check_version() -> None:
    """Raise ConfigError for a SQLite that corrupts databases."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < OLDEST_SQLITE:
        raise ConfigError(
            "apsw", f"its SQLite {version} corrupts databases; at least {OLDEST_SQLITE} is needed"
        )


def connect(path: Path, pragmas: Sequence[str], longest_wait_s: float) -> apsw.Connection:
    """Open a connection that waits up to `longest_wait_s` for the locks of others."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(int(longest_wait_s * 1000))
    for pragma in pragmas:
        connection.execute(pragma).fetchall()
    return connection


def copy_into(path: Path, connection: apsw.Connection) -> None:
    """Copy the database into a new file, or an empty one, which only its owner may read whatever the umask."""
    os.close(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW))
    connection.execute("VACUUM INTO ?", (str(path),))


class Readers:
    """Connections that only read, kept for the next reader; `check` is called before and after one is opened."""

    def __init__(self, path: Path, longest_wait_s: float, check: Callable[[], None]) -> None:
        self._path = path
        self._longest_wait_s = longest_wait_s
        self._check = check
        self._idle: deque[apsw.Connection] = deque()
        self._closed = False

    def take(self) -> apsw.Connection:
        """Return a connection that is idle, or a new one; to be given back."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def give_back(self, connection: apsw.Connection) -> None:
        self._idle.append(connection)
        if self._closed:
            self.close()

    def _open(self) -> apsw.Connection:
        self._check()  # another file with this one's log looks damaged
        connection = connect(self._path, READER_PRAGMAS, self._longest_wait_s)
        try:
            self._check()  # or this one may have another file open
        except BaseException:
            connection.close()
            raise
        return connection

    def idle(self) -> list[apsw.Connection]:
        """Return the connections that nobody uses."""
        return list(self._idle)

    def close(self) -> None:
        """Close the idle connections; one that is lent is closed when it comes back."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
