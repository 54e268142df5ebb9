"""PostgreSQL through psycopg 3: batches of works in pipeline mode, and commits whose answer was lost.

One connection writes, for the leader of a group commit, and sends a whole batch of works in pipeline mode: their statements
travel together, and their guards are checked when the answers are back. Where anything fails the batch is
run again one statement at a time, so that each failure is its own work's. Readers come from a pool.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg.rows import TupleRow

from postroom.core.errors import ConfigError, StoreError, StoreUnavailable
from postroom.core.events import EventListener
from postroom.store.dialect import Dialect
from postroom.store.engine import Server
from postroom.store.migrate import SCHEMA
from postroom.store.postgres.batch import Batch
from postroom.store.postgres.connect import Connector
from postroom.store.postgres.errors import (
    AGAIN,
    may_be_the_session,
    said,
    translated,
)
from postroom.store.postgres.listener import Listener
from postroom.store.postgres.readers import Readers
from postroom.store.postgres.session import Session, load_queries, session_of
from postroom.store.postgres.table_locks import take_all_tables
from postroom.store.postgres.writing import WritingConnection
from postroom.store.transaction import Transaction
from postroom.store.watermarks import Watermarks
from postroom.store.writer import Work, WorkResult

log = logging.getLogger(__name__)
logging.getLogger("psycopg").setLevel(logging.ERROR)  # what it warns of, we say ourselves

_MIGRATION_LOCK = 0x706F7374726F6F6D  # "postroom"; an advisory lock
_MOST_TRIES = 6
_MARKS_KEPT = "10 minutes"  # far longer than any commit is looked for

_RIGHTS_MISSING = """
SELECT format('GRANT %%s ON %%I TO %%I', string_agg(needed, ', ' ORDER BY needed), relname, current_user)
FROM pg_class CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
WHERE relkind = 'r' AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('schema_migration'))
  AND relname = ANY(%s)
  AND NOT has_table_privilege(oid, needed)
GROUP BY relname ORDER BY relname
"""
_TABLES = re.compile(r"^CREATE TABLE (\w+) \($", re.MULTILINE)
_FOLDS: tuple[LiteralString, ...] = (
    """
WITH folded AS (DELETE FROM job_count RETURNING account_id, state, jobs)
INSERT INTO job_count SELECT account_id, state, sum(jobs) FROM folded GROUP BY account_id, state
""",
    """
WITH folded AS (DELETE FROM counter RETURNING name, label, value)
INSERT INTO counter SELECT name, label, sum(value) FROM folded GROUP BY name, label
""",
)


def tables() -> list[str]:
    """Return the tables that Postroom reads and writes: all of the committed schema but the record of migrations."""
    schema = (SCHEMA / "postgres.sql").read_text(encoding="utf-8")
    return [name for name in _TABLES.findall(schema) if name != "schema_migration"]


class PostgresEngine:
    """Connections to one PostgreSQL database, and the transactions on it.

    `bouncer`: the server is a pgbouncer in transaction mode, so there are no prepared statements, no
    session settings and no LISTEN. A writer waits up to `longest_wait_s` for the locks of another one.
    A commit whose answer was lost is looked for by the mark that it leaves, for up to
    `find_out_within_s`; where that fails CommitUnknown is raised.
    """

    dialect: Dialect = "postgres"
    is_remote = True

    def __init__(
        self,
        url: str,
        *,
        migrations: Path = SCHEMA,
        bouncer: bool = False,
        longest_wait_s: float = 5.0,
        find_out_within_s: float = 30.0,
    ) -> None:
        self.migrations = migrations
        self._connector = Connector(url, bouncer=bouncer, lock_timeout_s=longest_wait_s)
        self.where = self._connector.where
        self.watermarks: Watermarks | None = Watermarks()
        self.listener: EventListener | None = None
        self._queries = load_queries()
        self._mutex = threading.Lock()
        self._writing = WritingConnection(self._connector, find_out_within_s)
        self._readers = Readers(self._connector, self._queries)
        self._listener: Listener | None = None
        self._closed = False
        self._has_rights = False

    def check(self) -> None:
        """Raise StoreUnavailable, or ConfigError when trying again would not help."""
        self._connector.check()

    @property
    def _bouncer(self) -> bool:
        return self._connector.bouncer

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Lend a connection for reading. Raises SessionInDoubt where a new session may do what this one could not."""
        with self._readers.reading(self.watermarks) as transaction:
            yield transaction

    def commit_batch(self, take: Callable[[], Sequence[Work[object]]]) -> list[WorkResult]:
        with self._mutex, translated(self.where):
            works = take()
            if not works:
                return []
            is_new = False  # whether the session was opened after another one had failed
            for number in range(_MOST_TRIES):
                connection = self._writing.current()
                try:
                    self._hold_if_stepped_back(connection)
                    return self._run(self._writing.current(), works, is_new=is_new)
                except AGAIN as error:
                    log.info("a transaction met another one and is run again: %s", said(error))
                    time.sleep(random.uniform(0, 0.01) * 2**number)  # noqa: S311  # not a secret
                except psycopg.Error as error:
                    self._readers.suspect()
                    if is_new or not may_be_the_session(error):
                        raise
                    is_new = True
                    log.info("a session failed, nothing was committed, and a new one tries: %s", said(error))
        raise StoreUnavailable(f"the database {self.where} is too busy: transactions keep meeting each other")

    def _hold_if_stepped_back(self, connection: psycopg.Connection[TupleRow]) -> None:
        until = self._writing.stepped_back_to
        if until is not None:
            now = time.time_ns() // 1000
            self._run(
                connection,
                [lambda transaction: transaction.holds.hold_queued(now, until=until, claimed=False)],
                is_new=True,
            )
            self._writing.stepped_back_to = None

    def _run(
        self, connection: psycopg.Connection[TupleRow], works: Sequence[Work[object]], *, is_new: bool
    ) -> list[WorkResult]:
        batch = Batch(self._writing, self._queries, self.watermarks, self.where, self.listener)
        try:
            return batch.run(connection, works, is_new=is_new)
        except BaseException:
            self._writing.drop()
            raise

    def check_rights(self) -> None:
        if self._has_rights:
            return
        with self.reading() as transaction:
            rows = session_of(transaction).connection.execute(_RIGHTS_MISSING, [tables()]).fetchall()
        if rows:
            raise ConfigError(
                "DATABASE_URL", f"the role lacks rights at {self.where}: {'; '.join(row[0] for row in rows)}"
            )
        self._has_rights = True

    def server(self) -> Server | None:
        return self._connector.server

    def check_place(self) -> None:
        """The server looks after its files."""

    def try_write(self) -> None:
        with self._mutex, translated(self.where):
            was_open = self._writing.is_open
            try:
                self._try_write()
            except psycopg.Error as error:
                if not was_open or not may_be_the_session(error):
                    raise
                self._writing.drop()
                self._try_write()

    def _try_write(self) -> None:
        try:
            connection = self._writing.current()
            self._writing.begin(connection)
            Transaction(Session(connection, self._queries), self._queries).settings.set("tried", "")
        finally:
            self._writing.undo()

    def forget_commits(self) -> None:
        """Drop the marks of commits that nobody can be asking for any more."""
        self._tidy("DELETE FROM commit_mark WHERE at < now() - %s::interval", _MARKS_KEPT)

    def fold_counts(self) -> None:
        """Put the rows that count together: to one for each state of an account's jobs, and to one for each total."""
        for statement in _FOLDS:
            self._tidy(statement)

    def scrub(self) -> None:
        """Do nothing: old versions of rows go with the server's vacuum, and no client can hasten that for all of them."""

    def _tidy(self, statement: LiteralString, *parameters: str) -> None:
        with self._mutex, translated(self.where):
            connection = self._writing.current()
            try:
                connection.execute(statement, parameters)
            except psycopg.Error:
                self._writing.drop()
                raise

    @contextmanager
    def exclusively(self) -> Iterator[Transaction]:
        with self._mutex, translated(self.where):
            connection = self._writing.current()
            try:
                with connection.answering_within(None), connection.transaction():
                    if self._bouncer:
                        connection.execute(self._connector.setting_statement(local=True).encode())
                    connection.execute("SET LOCAL lock_timeout = 0")
                    connection.execute("SET LOCAL statement_timeout = 0")
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATION_LOCK])
                    yield Transaction(
                        Session(connection, self._queries), self._queries, watermarks=self.watermarks
                    )
            except psycopg.errors.InsufficientPrivilege as error:
                self._writing.drop()
                raise ConfigError(
                    "DATABASE_URL",
                    f"the role may not change the schema at {self.where} ({said(error)}): run `postroom migrate` with the "
                    "role that owns it, or GRANT USAGE, CREATE ON SCHEMA public",
                ) from error
            except BaseException:
                self._writing.drop()
                raise

    def take_all_tables(self) -> None:
        take_all_tables(self._writing.current())

    def run_script(self, sql: str) -> None:
        self._writing.current().execute(sql.encode())

    def has_table(self, name: str) -> bool:
        with self.reading() as transaction:
            connection = session_of(transaction).connection
            row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
        return bool(row and row[0])

    def change_counter(self) -> int:
        """Count the notifications; a listener is started at the first call. Behind a pgbouncer there are none."""
        if self._bouncer:
            return 0
        if self._listener is None:
            self._listener = Listener(self._connector.connect, self.where)
        return self._listener.count

    def copy_to(self, path: Path) -> None:
        raise StoreError("a database on PostgreSQL is copied with pg_dump")

    def free_bytes(self) -> int:
        """The server's disk is the server's affair."""
        return sys.maxsize

    def used_bytes(self) -> int:
        """So is what it takes there."""
        return 0

    def close(self) -> None:
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            if self._listener is not None:
                self._listener.close()
            self._readers.close()
            self._writing.close()
