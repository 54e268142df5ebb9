"""The embedded engine: SQLite through APSW, in WAL mode, flushed at every commit.

One connection writes, for the leader of a group commit, under the lock file that orders the writers
of several processes. Readers have connections of their own and never wait.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from postroom.core.errors import ConfigError, DatabaseReplaced, ReplacedSinceCommit, StoreUnavailable
from postroom.core.events import EventListener, Happened
from postroom.core.files import reason_of
from postroom.store.dialect import Dialect
from postroom.store.events import tell
from postroom.store.migrate import SCHEMA
from postroom.store.sqlite.batch import commit_works
from postroom.store.sqlite.connections import (
    READER_PRAGMAS,
    WRITER_PRAGMAS,
    Readers,
    check_version,
    connect,
    connection_of,
    copy_into,
    load_queries,
    view_script,
)
from postroom.store.sqlite.copies import log_of, refuse_log_alone, refuse_unfinished
from postroom.store.sqlite.faults import NO_ROOM, cannot_write, translated
from postroom.store.sqlite.files import DatabaseFiles
from postroom.store.sqlite.opening import (
    open_lock,
    refuse_hard_link,
    refuse_replacement,
    refuse_without_log,
)
from postroom.store.transaction import Transaction
from postroom.store.watermarks import Watermarks
from postroom.store.writer import Work, WorkResult

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 5.0
_SPACE_FRESH_S = 1.0


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
    listener: EventListener | None = None

    def __init__(
        self,
        path: Path,
        *,
        migrations: Path = SCHEMA,
        longest_wait_s: float = _LONGEST_WAIT_S,
        on_broken: Callable[[str], None] = lambda reason: None,
    ) -> None:
        check_version()
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
        self._readers = Readers(path, longest_wait_s, lambda: self._check_files(closely=True))
        self._closed = False
        self._log = log_of(path)
        self._lock = open_lock(path, longest_wait_s)
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
        refuse_replacement(self.path, self._lock)
        refuse_log_alone(self.path)
        # -wal and -shm follow its mode. The descriptor stays open: to close one gives up all locks of this process.
        self._files = DatabaseFiles(self.path)
        refuse_hard_link(self.path)
        refuse_without_log(self.path, self._lock)
        self._lock.use()
        self._writer = connect(self.path, WRITER_PRAGMAS, self._longest_wait_s)
        self._watcher = connect(self.path, READER_PRAGMAS, self._longest_wait_s)
        self._watcher.pragma("data_version")  # now the log and its index are there
        self._files.remember()
        with suppress(OSError):  # a full disk: there is nothing to lose before there is room
            self._lock.note_open(self._files.inode)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Lend a transaction that sees the last committed state, and only reads."""
        with translated(self.path):
            connection = self._readers.take()
            try:
                yield Transaction(connection, self._queries)
            finally:
                self._readers.give_back(connection)

    def commit_batch(self, take: Callable[[], Sequence[Work[object]]]) -> list[WorkResult]:
        """Run works in one transaction, taken when it can begin. One that raises is undone alone; the rest are run again."""
        happened: list[Happened] | None = None if self.listener is None else []
        with self._writer_mutex, translated(self.path):
            if self._broken:
                raise StoreUnavailable(self._broken)
            try:
                with self._lock:
                    self._check_files()
                    if not self._has_views:
                        self._writer.execute(view_script()).fetchall()
                        self._has_views = True
                    results = commit_works(self._writer, take(), self.path, self._lock, happened)
                self._check_files(error=ReplacedSinceCommit)  # before anybody is told
            except apsw.IOError as error:
                number = self._writer.system_errno
                if number not in NO_ROOM:
                    self._break(error)
                    raise
                raise StoreUnavailable(cannot_write(self.path, os.strerror(number))) from error
            tell(self.listener, happened or ())
        return results

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

    def scrub(self) -> None:
        """Fold the log into the file and cut it off, unless a reader is in the way: erased octets stand in old frames."""
        with self._writer_mutex, translated(self.path), self._lock:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def copy_to(self, path: Path) -> None:
        with translated(self.path):
            self._check_files(closely=True)
            connection = connect(self.path, (), self._longest_wait_s)
            try:
                copy_into(path, connection)
            finally:
                connection.close()
        self._check_files(closely=True)

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

    def take_all_tables(self) -> None:
        """Do nothing: there is one transaction that writes, and readers hold nothing up."""

    def run_script(self, sql: str) -> None:
        self._writer.execute(sql).fetchall()

    @contextmanager
    def exclusively(self) -> Iterator[Transaction]:
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
        with self.reading() as tx:
            return bool(connection_of(tx).execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,)).get)

    def change_counter(self) -> int:
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
            for connection in (self._writer, self._watcher, *self._readers.idle()):
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        elif self._files.is_moved():
            rescued = self.path.with_name(f"{self.path.name}-rescued")
            with suppress(apsw.Error, OSError):  # it is there already, or its folder is gone
                copy_into(rescued, self._writer)
                log.warning(
                    "what %s held, which was replaced while it was open, is in %s", self.path, rescued
                )

    def _close_connections(self) -> None:
        self._readers.close()
        self._watcher.close()
        self._writer.close()
