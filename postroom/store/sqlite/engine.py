"""The embedded engine: SQLite through APSW, in WAL mode, flushed at every commit.

One connection writes, for the leader of a group commit, under the lock file that orders the writers
of several processes. Readers have connections of their own and never wait.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import apsw
from aiosql.adapters.sqlite3 import SQLite3Adapter
from aiosql.queries import Queries

from postroom.core import failpoint
from postroom.core.errors import (
    ConfigError,
    DatabaseReplaced,
    ReplacedSinceCommit,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
)
from postroom.core.files import kind_of, open_plain, reason_of
from postroom.core.text import is_text
from postroom.store.dialect import Dialect
from postroom.store.migrate import SCHEMA
from postroom.store.queries import load
from postroom.store.sqlite.copies import refuse_log_alone, refuse_unfinished
from postroom.store.sqlite.files import DatabaseFiles
from postroom.store.sqlite.writer_lock import WriterLock
from postroom.store.transaction import Transaction
from postroom.store.watermarks import Watermarks
from postroom.store.writer import Work, WorkResult

log = logging.getLogger(__name__)

# Versions 3.7.0 to 3.51.2 can corrupt a WAL database that two connections write to (sqlite.org/wal.html, "WAL reset").
OLDEST_SQLITE = (3, 51, 3)

_LONGEST_WAIT_S = 5.0
_SPACE_FRESH_S = 1.0
_WRITER_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA cache_size = -16384",
    "PRAGMA journal_size_limit = 67108864",
    # What undoes a statement. The end of a message changes 16 pages, for which SQLite makes a file otherwise.
    "PRAGMA temp_store = MEMORY",
)
_READER_PRAGMAS = ("PRAGMA query_only = ON", "PRAGMA cache_size = -1024")
_NOT_NOW = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.NoMemError,
    apsw.InterruptError,
    apsw.PermissionsError,
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # nothing was flushed, and there may be room again
_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)


class _Adapter(SQLite3Adapter):
    """Teaches aiosql that APSW counts changed rows on the connection, not on the cursor."""

    def insert_update_delete(self, conn: Any, query_name: str, sql: str, parameters: Any) -> int:
        conn.execute(sql, parameters)
        changed: int = conn.changes()
        return changed


@cache
def load_queries() -> Queries:
    """Return the named statements, bound to this engine's driver."""
    return load("sqlite", _Adapter)


@cache
def _views() -> str:
    """Return what makes the writing connection's views, behind which several statements stand."""
    return Path(__file__).with_name("one_statement.sql").read_text(encoding="utf-8")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except apsw.Error as error:
        raise _translation(path, error) from error


def _translation(path: Path, error: apsw.Error) -> StoreError:
    """Return what stands for one of the driver's errors, which is its cause."""
    found: StoreError
    if isinstance(error, _DAMAGED):
        found = StoreDamaged(
            f"the database {path} is damaged ({error}); nothing was changed. Restore it from a backup, or move "
            f"it away together with its -wal file to start afresh"
        )
    elif isinstance(error, apsw.FullError):
        found = StoreUnavailable(_cannot_write(path, os.strerror(errno.ENOSPC)))
    elif isinstance(error, _NOT_NOW):
        found = StoreUnavailable(_cannot_write(path, str(error)))
    else:
        found = StoreError(f"the database {path}: {error}")
    found.__cause__ = error
    return found


def _cannot_write(path: Path, reason: str) -> str:
    return f"the database {path} cannot be written just now: {reason}"


def connection_of(transaction: Transaction) -> apsw.Connection:
    """Return what a transaction of this engine runs over."""
    return cast("apsw.Connection", transaction.connection)


class SQLiteEngine:
    """Connections to one database file, and the transactions on it.

    A writer waits up to `longest_wait_s` for the other processes. When the disk fails
    under a commit, `on_broken` is told the reason and nothing is committed any more: what
    a failed flush has left on the disk is unknown, and a second one would report success
    for pages that the kernel has dropped. A process that opens the file anew sees the truth.
    """

    dialect: Dialect = "sqlite"
    is_remote = False
    watermarks: Watermarks | None = None  # what is gone leaves nothing behind here

    def __init__(
        self,
        path: Path,
        *,
        migrations: Path = SCHEMA,
        longest_wait_s: float = _LONGEST_WAIT_S,
        on_broken: Callable[[str], None] = lambda reason: None,
    ) -> None:
        version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
        if version < OLDEST_SQLITE:
            raise ConfigError(
                "apsw", f"its SQLite {version} corrupts databases; at least {OLDEST_SQLITE} is needed"
            )
        # By whatever name: two names must not have two locks and two logs.
        self.path = path = path.resolve()
        self.migrations = migrations
        self._longest_wait_s = longest_wait_s
        self._on_broken = on_broken
        self._broken = ""
        self._has_views = False  # whether the writing connection has those of one_statement.sql
        self._is_replaced = False
        self._space: tuple[float, int, int] = (float("-inf"), 0, 0)  # when; free and used
        self._queries = load_queries()
        self._readers: deque[apsw.Connection] = deque()
        self._closed = False
        self._log = path.with_name(path.name + "-wal")
        try:
            if path.exists() and (kind := kind_of(path.stat().st_mode)):
                raise ConfigError("DATABASE_URL", f"{path} is {kind}; name a file")
            if not is_text(str(path)):
                raise ConfigError(
                    "DATABASE_URL",
                    f"cannot use {path}: SQLite takes names in UTF-8 alone; rename the file or its folder",
                )
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = WriterLock(path.with_name(path.name + "-lock"), longest_wait_s)
        except OSError as error:
            raise ConfigError(
                "DATABASE_URL", f"cannot use {error.filename or path}: {reason_of(error)}"
            ) from error
        try:
            with translated(path), self._lock:
                self._open()
        except BaseException as error:
            self._lock.close()
            if isinstance(error, OSError):
                raise ConfigError("DATABASE_URL", f"cannot use {path}: {reason_of(error)}") from error
            raise
        self._writer_mutex = threading.Lock()

    def _open(self) -> None:
        refuse_unfinished(self.path)
        self._refuse_a_replacement()
        refuse_log_alone(self.path)
        # -wal and -shm follow its mode. The descriptor stays open: to close one gives up all locks of this process.
        self._files = DatabaseFiles(self.path)
        if self.path.stat().st_nlink > 1:
            raise ConfigError(
                "DATABASE_URL",
                f"{self.path} has another name too (a hard link): SQLite would have a log for each name, and damage it; "
                "make a copy, and remove the other name",
            )
        self._refuse_without_log()
        self._lock.use()
        self._writer = self._connect(_WRITER_PRAGMAS)
        self._watcher = self._connect(_READER_PRAGMAS)
        self._watcher.pragma("data_version")  # now the log and its index are there
        self._files.remember()
        with suppress(OSError):  # a full disk: there is nothing to lose before there is room
            self._lock.note_open(self._files.inode)

    def _refuse_a_replacement(self) -> None:
        """Raise StoreDamaged when another file has the name of the database that is, or was left, open."""
        noted = self._lock.noted_inode()
        if noted is None:
            return
        is_same = self.path.exists() and self.path.stat().st_ino == noted
        index = self._log.with_name(self.path.name + "-shm")
        # The process that closes it last removes the index, and then the log.
        is_whole = is_same and self._log.exists() == index.exists()
        if self._lock.is_in_use() and not is_whole:
            raise StoreDamaged(
                f"{self.path}, or its -wal or -shm file, was moved, removed or replaced while Postroom has it open; "
                f"nothing was changed. Put it back, or stop every process of Postroom first"
            )
        if not is_same and self._log.exists():
            raise StoreDamaged(
                f"{self.path} is not the file that {self._log} was written for: the database was replaced while it was "
                f"open, or after a crash; nothing was changed. Put it back; or, to go on with this one, which loses "
                f"mail and may send some twice, remove {self._log}, {index} and "
                f"{self.path}-lock"
            )

    def _refuse_without_log(self) -> None:
        """Raise StoreDamaged when the write-ahead log was taken away: SQLite would go on without a word.

        The process that closes the file last folds the log into it, so that it is newer than the last write.
        """
        if not self._log.exists() and self._lock.is_newer_than(self.path):
            raise StoreDamaged(
                f"{self._log} is missing, and with it what was last written; nothing was changed. Put it back, or "
                f"restore the database from a backup. To go on without it, which loses mail and may send some twice, "
                f"remove {self.path}-lock"
            )

    def _connect(self, pragmas: Sequence[str]) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(int(self._longest_wait_s * 1000))
        for pragma in pragmas:
            connection.execute(pragma).fetchall()
        return connection

    def _connect_reader(self) -> apsw.Connection:
        self._check_files(closely=True)  # another file with this one's log looks damaged
        connection = self._connect(_READER_PRAGMAS)
        try:
            self._check_files(closely=True)  # or this one may have another file open
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Lend a transaction that sees the last committed state, and only reads."""
        with translated(self.path):
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._connect_reader()
            try:
                yield Transaction(connection, self._queries)
            finally:
                self._readers.append(connection)
                if self._closed:
                    self._close_readers()

    def commit_batch(self, take: Callable[[], Sequence[Work[Any]]]) -> list[WorkResult]:
        """Run works in one transaction, taken when it can begin. One that raises is undone alone; the rest are run again."""
        with self._writer_mutex, translated(self.path):
            if self._broken:
                raise StoreUnavailable(self._broken)
            try:
                with self._lock:
                    self._check_files()
                    if not self._has_views:
                        self._writer.execute(_views()).fetchall()
                        self._has_views = True
                    works = take()
                    results: list[WorkResult | None] = [None] * len(works)
                    while works and not self._try_batch(works, results):
                        pass
                self._check_files(error=ReplacedSinceCommit)  # before anybody is told
            except apsw.IOError as error:
                number = self._writer.system_errno
                if number not in _NO_ROOM:
                    self._break(error)
                    raise
                raise StoreUnavailable(_cannot_write(self.path, os.strerror(number))) from error
        return [result for result in results if result is not None]

    def _check_files(
        self, *, closely: bool = False, error: type[DatabaseReplaced] = DatabaseReplaced
    ) -> None:
        """Raise `error` when what is committed would not be found after a restart."""
        replaced = self._replacement(closely=closely)
        if replaced is not None and not self._is_replaced:
            log.error("%s", replaced)
        self._is_replaced = replaced is not None
        if replaced is not None:
            raise error(str(replaced)) from replaced

    def _replacement(self, *, closely: bool) -> DatabaseReplaced | None:
        try:
            self._files.check(closely=closely)
        except DatabaseReplaced as error:
            return error
        return None

    def _break(self, error: apsw.IOError) -> None:
        self._broken = (
            f"the disk failed while {self.path} was written ({error}); this process has stopped writing"
        )
        self._on_broken(self._broken)

    def check_rights(self) -> None:
        """The file's are seen when it is opened."""

    def server(self) -> None:
        """There is none."""

    def check_place(self) -> None:
        self._check_files(closely=True)

    def try_write(self) -> None:
        with self._writer_mutex, translated(self.path):
            if self._broken:
                raise StoreUnavailable(self._broken)
            with self._lock:
                self._check_files(closely=True)
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    Transaction(self._writer, self._queries).settings.set("tried", "")
                finally:
                    with suppress(apsw.Error):  # SQLite may have done so itself
                        self._writer.execute("ROLLBACK")

    def forget_commits(self) -> None:
        """Nothing is kept: here an answer cannot be lost."""

    def fold_counts(self) -> None:
        """Nothing is to do: here each count is one row."""

    def copy_to(self, path: Path) -> None:
        with translated(self.path):
            self._check_files(closely=True)
            connection = self._connect(())
            try:
                self._copy_into(path, connection)
            finally:
                connection.close()
        self._check_files(closely=True)

    @staticmethod
    def _copy_into(path: Path, connection: apsw.Connection) -> None:
        """Copy the database into a new file, or an empty one, which only its owner may read whatever the umask."""
        os.close(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW))
        connection.execute("VACUUM INTO ?", (str(path),))

    def free_bytes(self) -> int:
        """Return the room that is left on the database's file system, as of the last second."""
        return self._look_at_space()[1]

    def used_bytes(self) -> int:
        """Return the sizes of the database and its write-ahead log, as of the last second."""
        return self._look_at_space()[2]

    def _look_at_space(self) -> tuple[float, int, int]:
        now = time.monotonic()
        if now - self._space[0] > _SPACE_FRESH_S:
            found = os.statvfs(self.path.parent)
            used = 0
            for path in (self.path, self.path.with_name(f"{self.path.name}-wal")):
                with suppress(FileNotFoundError):
                    used += path.stat().st_size
            self._space = now, found.f_bavail * found.f_frsize, used
        return self._space

    def _try_batch(self, works: Sequence[Work[Any]], results: list[WorkResult | None]) -> bool:
        """Commit every work that has not failed yet; False when another one failed and all must be redone."""
        connection = self._writer
        connection.execute("BEGIN IMMEDIATE")
        changes = connection.total_changes()
        try:
            transaction = Transaction(connection, self._queries)
            for index, work in enumerate(works):
                before = results[index]
                if before is not None and before.error is not None:
                    continue
                results[index] = result = self._run(work, transaction)
                if result.error is not None:
                    return False
            transaction.count_accepted()
            if connection.total_changes() != changes:
                self._lock.note_write()  # before the commit, which may checkpoint too
            failpoint.hit("store.commit")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                with suppress(apsw.Error):  # what went wrong before says more
                    connection.execute("ROLLBACK")
        return True

    def _run(self, work: Work[Any], transaction: Transaction) -> WorkResult:
        try:
            return WorkResult(work(transaction))
        except (*_NOT_NOW, *_DAMAGED):
            raise  # the fault is the database's, so nobody's work can be committed
        except Exception as error:
            return WorkResult(
                error=_translation(self.path, error) if isinstance(error, apsw.Error) else error
            )

    def run_script(self, sql: str) -> None:
        """Run a migration's statements inside the transaction that is open (see `exclusively`)."""
        self._writer.execute(sql).fetchall()

    @contextmanager
    def exclusively(self) -> Iterator[Transaction]:
        """Hold the only write transaction; commit at the end, roll back on any error."""
        with self._writer_mutex, translated(self.path), self._lock:
            self._check_files()
            self._has_views = False  # what is TEMP goes when `temp_store` changes
            # An index of a large table is not sorted in memory.
            self._writer.execute("PRAGMA temp_store = FILE")
            self._writer.execute("BEGIN IMMEDIATE")
            changes = self._writer.total_changes()
            try:
                yield Transaction(self._writer, self._queries)
                if self._writer.total_changes() != changes:
                    self._lock.note_write()
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                self._writer.execute("PRAGMA temp_store = MEMORY")

    def has_table(self, name: str) -> bool:
        with self.reading() as transaction:
            return bool(
                connection_of(transaction)
                .execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,))
                .fetchall()
            )

    def change_counter(self) -> int:
        """Return a number that changes with every commit of any process (cheap: no disk access)."""
        with translated(self.path):
            value: int = self._watcher.pragma("data_version")
        return value

    def close(self) -> None:
        """Close all connections; the last one of all processes folds the WAL back into the file."""
        with self._writer_mutex:
            if self._closed:
                return
            self._closed = True
            with suppress(StoreUnavailable), self._lock:
                self._spare_the_replacement()
                self._close_connections()
                if not self._log.exists():
                    self._lock.note_closed()
            self._close_connections()
            self._files.close()
            self._lock.close()

    def _spare_the_replacement(self) -> None:
        """Fold nothing into a file that has taken the place of ours, and save what ours holds where it has no name."""
        if self._replacement(closely=True) is None:
            return
        if self._files.is_written_over:
            for connection in (self._writer, self._watcher, *self._readers):
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        elif self._files.is_moved():
            rescued = self.path.with_name(f"{self.path.name}-rescued")
            with suppress(apsw.Error, OSError):  # it is there already, or its folder is gone
                self._copy_into(rescued, self._writer)
                log.warning(
                    "what %s held, which was replaced while it was open, is in %s", self.path, rescued
                )

    def _close_connections(self) -> None:
        self._close_readers()
        self._watcher.close()
        self._writer.close()

    def _close_readers(self) -> None:
        with suppress(IndexError):
            while True:
                self._readers.pop().close()
