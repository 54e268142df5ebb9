"""`postroom migrate-store`: moves every row from SQLite to an empty PostgreSQL database, and compares them.

Rows are copied by key in chunks; each chunk is committed with the note of how far the copy has come, so that an
interrupted move goes on where it was. The source is marked and closed first: a database that has been moved is not
served from any more, lest its queue be sent twice, or mail be accepted into it that nobody will send.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psycopg
from psycopg import sql

from postroom.core import failpoint
from postroom.core.errors import ConfigError, StoreDamaged
from postroom.core.files import plain_file
from postroom.store.postgres.engine import PostgresEngine
from postroom.store.postgres.session import session_of, without_nul
from postroom.store.sqlite.connections import connection_of
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.sqlite.faults import translated as sqlite_translated
from postroom.store.store import MOVED, MOVING, Store
from postroom.store.transaction import Transaction
from postroom.store.workers import Workers

_NOTE = "moving:"  # settings of the target: the last key copied of each table
_Value: TypeAlias = "int | float | str | bytes | None"  # of a column, in both databases
_Row: TypeAlias = "tuple[_Value, ...]"
_CHUNK = 5000  # rows that are held in memory at once, or fewer of many bytes
_CHUNK_BYTES = 16 * 1024 * 1024

# What a process that is on the source yet may not do there from the mark on: accept, sign on as a worker, move a job.
_CLOSED = {
    "moved_message": "INSERT ON message",
    "moved_worker": "INSERT ON worker",
    "moved_job": "UPDATE ON job",
}
_CLOSE = """
CREATE TRIGGER IF NOT EXISTS {name} BEFORE {move} BEGIN
    SELECT RAISE(ABORT, 'it was moved to ' || (SELECT value FROM setting WHERE name = 'moved_to'));
END
"""

# In the order of their references, each with its key.
_TABLES = {
    "account": ("id",),
    "account_alias": ("account_id", "email"),
    "oauth_grant": ("account_id",),
    "pool": ("id",),
    "pool_member": ("pool_id", "account_id"),
    "api_key": ("id",),
    "issued_key": ("id",),
    "issued_key_usage": ("key_id", "slot"),
    "stopped_key": ("key_id",),
    "audit": ("id",),
    "finding": ("account_id",),
    "message": ("id",),
    "content": ("message_id",),
    "pieced_content": ("message_id",),
    "content_piece": ("upload", "number"),
    "upload": ("id",),
    "worker": ("id",),
    "delivery": ("id",),
    "job": ("id",),
    "attempt": ("id",),
    "event": ("id",),
    "idempotency": ("account_id", "key"),
    "log_batch": ("id",),
    "log_line": ("id",),
    "account_usage": ("account_id", "slot"),
    "connection": ("id",),
    "pace": ("account_id",),
    "job_count": ("account_id", "state"),
    "counter": ("name", "label"),
    "listed": ("kind", "value", "message_id"),
    "listed_block": ("block",),
    "daily_count": ("day", "account_id", "measure", "step"),
    "notice": ("kind", "subject"),
    "notice_to_send": ("notice_id",),
    "notice_message": ("request_id",),
    "notice_memory": ("one",),
    "setting": ("name",),
}

Progress = Callable[[str, int, int], None]
"""Told the step (`copy` or `compare`), how many rows are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move has copied and compared: rows by table."""

    rows: dict[str, int]


def move(source: Path, target_url: str, *, bouncer: bool = False, progress: Progress) -> Moved:
    """Copy the database file `source` to PostgreSQL, and compare every row.

    Run again after an interruption it goes on where it was. Raises ConfigError when the source is
    missing, in use, or moved elsewhere, and when the target is not empty; StoreUnavailable when either
    is away; StoreDamaged when something is not the same.
    """
    if not source.is_file():
        raise ConfigError("SQLITE", f"there is no database at {source}")
    with ExitStack() as stack:
        mover = _Mover(source, target_url, bouncer, progress)
        stack.callback(mover.close)
        mover.prepare()
        stack.enter_context(mover.source_held())
        mover.copy()
        rows = mover.compare()
        mover.finish()
    return Moved(rows)


def cancel(source: Path) -> bool:
    """Let a database be served from again that was marked as moved; False when it was not."""
    engine = SQLiteEngine(source)
    try:
        with engine.exclusively() as transaction:
            before = transaction.settings.get(MOVED)
            transaction.settings.forget(MOVED)
            connection = connection_of(transaction)
            for name in _CLOSED:
                connection.execute(f"DROP TRIGGER IF EXISTS {name}")
    finally:
        engine.close()
    return before is not None


class _Mover:
    def __init__(self, source: Path, target_url: str, bouncer: bool, progress: Progress) -> None:
        self._path = source
        self._progress = progress
        self._source = SQLiteEngine(source)
        self._target = PostgresEngine(target_url, bouncer=bouncer)
        self._target.check()
        self._rows = 0

    def close(self) -> None:
        self._target.close()
        self._source.close()

    # -- before

    def prepare(self) -> None:
        """See that nothing is in use or overwritten, and mark both sides."""
        Store(self._source).migrate()
        Store(self._target).migrate()
        with self._source.exclusively() as transaction:
            self._refuse_if_running()  # under the lock, so that none signs on between the look and the mark
            self._mark_target()
            self._close_source(transaction)

    def _mark_target(self) -> None:
        place = self._target.where
        with self._target.exclusively() as transaction:
            moving = transaction.settings.get(MOVING)
            if moving is None and (table := self._lived_in(transaction)):
                raise ConfigError(
                    "POSTGRES",
                    f"{place} is not empty (there is something in {table}); nothing there is overwritten. Make a new "
                    f"database, and run nothing on it before the move",
                )
            if moving not in (None, self._identity()):
                raise ConfigError("POSTGRES", f"{place} is half filled from another database, {moving}")
            transaction.settings.set(MOVING, self._identity())

    def _close_source(self, transaction: Transaction) -> None:
        """Mark the source as moved; a process that is on it yet, a web process say, gets an error from now on."""
        place = self._target.where
        moved = transaction.settings.get(MOVED)
        if moved not in (None, place):
            raise ConfigError("SQLITE", f"{self._path} was moved to {moved}")
        transaction.settings.set(MOVED, place)
        for name, move in _CLOSED.items():
            connection_of(transaction).execute(_CLOSE.format(name=name, move=move))

    def _identity(self) -> str:
        return str(self._path.resolve())

    def _refuse_if_running(self) -> None:
        for worker in Store(self._source).read(Workers.living):
            try:
                with plain_file(Path(worker.lock_file)) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    "SQLITE", f"Postroom is running on {self._path} (pid {worker.pid}): stop it first"
                ) from None
            except OSError:
                continue  # no such file: it is not of this machine, or long gone

    @staticmethod
    def _lived_in(transaction: Transaction) -> str | None:
        """Return the first table of the target that holds anything; any command leaves a setting."""
        for table in _TABLES:
            query = sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))
            if session_of(transaction).connection.execute(query).fetchone():
                return table
        return None

    @contextmanager
    def source_held(self) -> Iterator[None]:
        """Keep every writer off the source, and see one state of it."""
        with self._source.exclusively() as transaction:
            self._reader = connection_of(transaction)
            yield

    # -- copying

    def copy(self) -> None:
        self._rows, done = sum(map(self._count, _TABLES)) - 1, 0  # the mark stays
        for table in _TABLES:
            for copied in self._copy_table(table):
                done += copied
                self._progress("copy", done, self._rows)

    def _count(self, table: str) -> int:
        with sqlite_translated(self._path):
            count = self._reader.execute(f"SELECT count(*) FROM {table}").get  # noqa: S608  # ours
        return int(count)

    def _columns(self, table: str) -> list[str]:
        return [str(row[1]) for row in self._reader.execute(f"PRAGMA table_info({table})").fetchall()]

    def _copy_table(self, table: str) -> Iterator[int]:
        """Copy a table chunk by chunk; yield how many rows each had, those of an earlier run first."""
        after = self._noted(table)
        if after is not None:
            yield self._count_up_to(table, after)
        for rows in self._chunks(table, after):
            self._write(table, rows)
            failpoint.hit("move.copied")
            yield len(rows)

    def _noted(self, table: str) -> list[_Value] | None:
        with self._target.reading() as transaction:
            text = transaction.settings.get(_NOTE + table)
        return None if text is None else json.loads(text)

    def _count_up_to(self, table: str, key: list[_Value]) -> int:
        names = ", ".join(_TABLES[table])
        marks = ", ".join("?" * len(key))
        query = f"SELECT count(*) FROM {table} WHERE ({names}) <= ({marks})"  # noqa: S608  # ours
        with sqlite_translated(self._path):
            count = self._reader.execute(query, key).get
        return int(count)

    def _chunks(self, table: str, after: list[_Value] | None = None) -> Iterator[list[_Row]]:
        """Yield the rows of the source in the order of their key, as PostgreSQL can hold them."""
        columns, key = self._columns(table), _TABLES[table]
        places = [columns.index(name) for name in key]
        names, marks = ", ".join(key), ", ".join("?" * len(key))
        while True:
            where = f"WHERE ({names}) > ({marks})" if after is not None else ""
            query = f"SELECT {', '.join(columns)} FROM {table} {where} ORDER BY {names} LIMIT {_CHUNK}"  # noqa: S608
            with sqlite_translated(self._path):
                rows = _as_many_as_fit(self._reader.execute(query, after or []))
            if not rows:
                return
            after = [rows[-1][place] for place in places]
            yield [tuple(map(without_nul, row)) for row in _moved(table, rows)]

    def _write(self, table: str, rows: list[_Row]) -> None:
        """Copy a chunk and note how far that is, in one transaction."""
        columns = self._columns(table)
        places = [columns.index(name) for name in _TABLES[table]]
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with self._target.exclusively() as transaction:
            connection = session_of(transaction).connection
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
            if rows:
                note = json.dumps([rows[-1][place] for place in places])
                transaction.settings.set(_NOTE + table, note)

    # -- comparing

    def compare(self) -> dict[str, int]:
        """Compare every row of every table, in the order of its key; return how many there are."""
        counts, done = {}, 0
        for table in _TABLES:
            ours, theirs = _Digest(), _Digest()
            with self._target_rows(table) as cursor:
                for rows in self._chunks(table):
                    ours.add(rows)
                    theirs.add(
                        _moved(table, cursor.fetchmany(len(rows)))
                    )  # as many bytes, if they are the same
                    done += len(rows)
                    self._progress("compare", done, self._rows)
                while rest := cursor.fetchmany(_CHUNK):
                    theirs.add(_moved(table, rest))
            if ours != theirs:
                raise StoreDamaged(
                    f"{table} is not the same: {ours.count} rows were to be moved and {theirs.count} are there, with "
                    f"checksums {ours.text} and {theirs.text}. Drop the database at {self._target.where} and begin anew"
                )
            counts[table] = ours.count
        return counts

    @contextmanager
    def _target_rows(self, table: str) -> Iterator[psycopg.ServerCursor[_Row]]:
        """Open a cursor over the target's rows in the order of their key."""
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
            sql.SQL(", ").join(map(sql.Identifier, self._columns(table))),
            sql.Identifier(table),
            sql.SQL(", ").join(_in_byte_order(name) for name in _TABLES[table]),
        )
        with self._target.exclusively() as transaction:
            cursor: psycopg.ServerCursor[_Row] = session_of(transaction).connection.cursor(name="compare")
            with cursor:
                cursor.execute(query)
                yield cursor

    # -- after

    def finish(self) -> None:
        """Let new rows go on behind the old ones, and the target be served from."""
        with self._target.exclusively() as transaction:
            for table, key in _TABLES.items():
                if key == ("id",) and table != "upload":  # whose ids are random
                    session_of(transaction).connection.execute(
                        sql.SQL(
                            "SELECT setval(pg_get_serial_sequence({}, 'id'), coalesce(max(id), 0) + 1, false) FROM {}"
                        ).format(sql.Literal(table), sql.Identifier(table))
                    )
            session_of(transaction).connection.execute(
                "DELETE FROM setting WHERE name = %s OR starts_with(name, %s)", [MOVING, _NOTE]
            )
        with self._target.exclusively() as transaction:
            session_of(transaction).connection.execute("ANALYZE")


def _in_byte_order(name: str) -> sql.Composable:
    """Order texts as SQLite does, whatever the database's collation."""
    column: sql.Composable = sql.Identifier(name)
    return sql.SQL('{} COLLATE "C"').format(column) if name in ("key", "name", "state") else column


def _moved(table: str, rows: list[_Row]) -> list[_Row]:
    """Return the rows that belong to the installation: the marks of the move itself do not."""
    if table != "setting":
        return rows
    return [row for row in rows if row[0] not in (MOVED, MOVING) and not str(row[0]).startswith(_NOTE)]


def _as_many_as_fit(rows: Iterable[_Row]) -> list[_Row]:
    """Return the first rows, so many that they do not take too much memory together; one at least."""
    found, size = [], 0
    for row in rows:
        found.append(row)
        size += sum(len(value) for value in row if isinstance(value, (bytes, str)))
        if size >= _CHUNK_BYTES:
            break
    return found


class _Digest:
    """The number of some rows and a checksum of what they hold."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, rows: list[_Row]) -> None:
        self.count += len(rows)
        for row in rows:
            self._hash.update(f"{row!r}\n".encode())

    @property
    def text(self) -> str:
        return self._hash.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Digest) and (self.count, self.text) == (other.count, other.text)

    __hash__ = None  # type: ignore[assignment]
