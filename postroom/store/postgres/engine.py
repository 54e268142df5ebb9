"""PostgreSQL through psycopg 3: batches of works in pipeline mode, and commits whose answer was lost.

One connection writes, under the committer, and sends a whole batch of works in pipeline mode: their statements
travel together, and their guards are looked at when the answers are back. Where anything fails the batch is
run again one statement at a time, so that each failure is its own work's. Readers come from a pool.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, LiteralString, NamedTuple, TypeVar, cast

import psycopg
from aiosql.adapters.pyformat import PyFormatAdapter
from aiosql.queries import Queries
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from postroom.core import failpoint
from postroom.core.errors import CommitUnknown, ConfigError, StoreError, StoreUnavailable
from postroom.store.dialect import Dialect
from postroom.store.engine import Server
from postroom.store.migrate import SCHEMA
from postroom.store.postgres.connect import CONNECT_WITHIN_S, RELIED_ON, Connection, Connector
from postroom.store.postgres.errors import (
    AGAIN,
    DAMAGED,
    HELD_UP,
    NOT_NOW,
    may_be_the_session,
    said,
    state_of,
    translated,
)
from postroom.store.queries import load
from postroom.store.transaction import Transaction
from postroom.store.watermarks import Watermarks
from postroom.store.writer import Settled, Work

log = logging.getLogger(__name__)
V = TypeVar("V")
logging.getLogger("psycopg").setLevel(logging.ERROR)  # what it warns of, we say ourselves


_CHANNEL = "postroom"
_BEGIN = "BEGIN ISOLATION LEVEL read committed"
_MARK = "INSERT INTO commit_mark (mark) VALUES (%s) RETURNING pg_current_xact_id()::text"
_MARK_AND_WAKE = f"{_MARK}, pg_notify('{_CHANNEL}', '')"
_MIGRATION_LOCK = 0x706F7374726F6F6D  # "postroom"; an advisory lock
_READERS = 4
_BORROW_WITHIN_S = 2.0
_CHECK_AFTER_S = 1.0
_MOST_TRIES = 6
_LISTEN_AGAIN_S = 1.0
_NOTIFY_WAIT_S = 5.0
_MARKS_COUNT_S = 300.0  # after so long a commit is not missed any more
_MARKS_KEPT = "10 minutes"  # far longer than anybody tries to settle a commit
_marks = random.Random()  # noqa: S311  # they must differ, not be secret
os.register_at_fork(after_in_child=_marks.seed)  # or each of the web process's children would draw the same

_RIGHTS_MISSING = """
SELECT format('GRANT %%s ON %%I TO %%I', string_agg(needed, ', ' ORDER BY needed), relname, current_user)
FROM pg_class CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
WHERE relkind = 'r' AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('schema_migration'))
  AND relname IN ('setting', 'account', 'api_key', 'message', 'content', 'content_piece', 'pieced_content', 'upload',
                  'worker', 'delivery', 'job', 'attempt', 'event', 'idempotency', 'log_batch', 'log_line',
                  'account_usage', 'connection', 'pace', 'job_count', 'commit_mark')
  AND NOT has_table_privilege(oid, needed)
GROUP BY relname ORDER BY relname
""".replace("%%", "%")
_FOLD = """
WITH folded AS (DELETE FROM job_count RETURNING account_id, state, jobs)
INSERT INTO job_count SELECT account_id, state, sum(jobs) FROM folded GROUP BY account_id, state
"""
# The statements that also have a form for many at once, each with the key that tells its rows apart.
_TOGETHER = {
    "accept_message": "request_id",
    "add_idempotency": "request_id",
    "claim_job": "job_id",
    "mark_dot": "job_id",
    "complete_sent": "job_id",
}
_LARGE = 262_144  # octets of a message that goes alone
# Both run while the server reads a statement: the first where others are under way with it, the second where none is.
_WAITED_FOR = ("statement_timeout", "idle_in_transaction_session_timeout")
_PATIENCE = "SELECT " + ", ".join(f"set_config('{name}', '120s', true)" for name in _WAITED_FOR)
_NO_PATIENCE = "SELECT " + ", ".join(f"set_config('{name}', {RELIED_ON[name]}, true)" for name in _WAITED_FOR)


class _Session:
    """A connection, and how statements go over it: each at once, or, with a pipeline, together.

    What a batch does most often (`_TOGETHER`) gathers, and goes out in one statement for all before anything else does.
    These never touch the same rows within a batch, so their order among themselves means nothing.
    """

    def __init__(
        self,
        connection: psycopg.Connection[TupleRow],
        queries: Queries,
        pipeline: psycopg.Pipeline | None = None,
    ) -> None:
        self.connection = connection
        self.pipeline = pipeline
        self._queries = queries
        self._gathered: dict[str, _Gathered] = {}

    def cursor(self) -> psycopg.Cursor[TupleRow]:
        self.send()
        return self.connection.cursor(binary=True)

    def change(self, name: str, statement: str, parameters: Mapping[str, object]) -> int | _One | _Changed:
        """Run a statement that changes rows; return how many, or what will know it once the answers are there."""
        held = {key: without_nul(value) for key, value in parameters.items()}
        if self.pipeline is None:
            with self._patiently(held):
                return self.connection.execute(statement.encode(), held).rowcount
        if name in _TOGETHER and _octets(held, "mime") < _LARGE:
            gathered = self._gathered.setdefault(name, _Gathered(self, _TOGETHER[name]))
            return gathered.add(held)
        self.send()
        with self._patiently(held):
            return _Changed(self.connection.execute(statement.encode(), held), self.pipeline)

    @contextmanager
    def _patiently(self, parameters: Mapping[str, object]) -> Iterator[None]:
        """Have the server wait for a large message to arrive: its time for a statement runs while it reads one."""
        if _octets(parameters, "mime", "octets") < _LARGE:
            yield
            return
        self.connection.execute(_PATIENCE)
        yield
        self.connection.execute(_NO_PATIENCE)

    def send(self) -> None:
        """Send what has gathered."""
        waiting, self._gathered = self._gathered, {}
        for name, gathered in waiting.items():
            gathered.send(getattr(self._queries, f"{name}_many").sql)


def session_of(transaction: Transaction) -> _Session:
    """Return what a transaction of this engine runs over."""
    return cast("_Session", transaction.connection)


class _Changed:
    """How many rows a statement has changed: known once the answers are there."""

    __slots__ = ("_cursor", "_pipeline")

    def __init__(self, cursor: psycopg.Cursor[TupleRow], pipeline: psycopg.Pipeline) -> None:
        self._cursor = cursor
        self._pipeline = pipeline

    def __int__(self) -> int:
        if self._cursor.rowcount < 0:
            self._pipeline.sync()
        return self._cursor.rowcount

    def __bool__(self) -> bool:
        return int(self) > 0


class _Gathered:
    """The parameters of one statement for many, and the keys of the rows that it has changed."""

    def __init__(self, session: _Session, key: str) -> None:
        self._session = session
        self._key = key
        self._rows: list[Mapping[str, object]] = []
        self._cursor: psycopg.Cursor[TupleRow] | None = None
        self._changed: set[object] | None = None

    def add(self, row: Mapping[str, object]) -> _One:
        self._rows.append(row)
        return _One(self, row[self._key])

    def send(self, statement: str) -> None:
        columns = {name: [row[name] for row in self._rows] for name in self._rows[0]}
        self._cursor = self._session.connection.execute(statement.encode(), columns)

    def has_changed(self, key: object) -> bool:
        if self._changed is None:
            if self._cursor is None:
                self._session.send()
            assert self._cursor is not None
            self._changed = {row[0] for row in self._cursor.fetchall()}
        return key in self._changed


class _One:
    """Whether one of many was changed."""

    __slots__ = ("_all", "_key")

    def __init__(self, gathered: _Gathered, key: object) -> None:
        self._all = gathered
        self._key = key

    def __bool__(self) -> bool:
        return self._all.has_changed(self._key)


class _Adapter(PyFormatAdapter):
    """Hands what changes rows to the session, which knows when it goes out."""

    def insert_update_delete(self, conn: _Session, query_name: str, sql: str, parameters: Any) -> Any:
        return conn.change(query_name, sql, parameters)


def without_nul(value: V) -> V:
    """Return a text with NUL spelt out; anything else as it is."""
    if isinstance(value, str) and "\0" in value:
        return cast("V", value.replace("\0", "\\x00"))
    return value


def _octets(parameters: Mapping[str, object], *names: str) -> int:
    """Return how many octets the contents among the parameters have."""
    contents = (parameters.get(name) for name in names)
    return sum(len(each) for each in contents if isinstance(each, (bytes, bytearray, memoryview)))


@cache
def load_queries() -> Queries:
    """Return the named queries, bound to this engine's driver."""
    return load("postgres", _Adapter)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What will tell whether a transaction was committed: the mark that it leaves, and how to see that it is over."""

    mark: int
    _number: psycopg.Cursor[TupleRow]

    @property
    def xid(self) -> str:
        """The transaction's number; in pipeline mode known after a sync."""
        [[number, *_]] = self._number.fetchall()
        return str(number)


class _Last(NamedTuple):
    """Our last commit: its mark, when it was, and on which server."""

    mark: int
    at: float  # monotonic
    clock: int
    server: Server | None


def _is_under_way(connection: psycopg.Connection[TupleRow], xid: str) -> bool:
    try:
        [[status]] = connection.execute("SELECT pg_xact_status(%s::text::xid8)", [xid]).fetchall()
    except psycopg.errors.InvalidParameterValue:  # in the future: a crash has taken the number back
        return False
    return bool(status == "in progress")


def _is_everybodys(fault: Exception, *, is_new: bool) -> bool:
    if isinstance(fault, HELD_UP):
        return False
    return isinstance(fault, (*NOT_NOW, *DAMAGED)) or (may_be_the_session(fault) and not is_new)


class PostgresEngine:
    """Connections to one PostgreSQL database, and the transactions on it.

    `bouncer`: the server is a pgbouncer in transaction mode, so there are no prepared statements, no
    session settings and no LISTEN. A writer waits up to `longest_wait_s` for the locks of another one.
    A commit whose answer was lost is settled by looking for the mark that it leaves, for up to
    `settle_within_s`; where that fails CommitUnknown is raised.
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
        settle_within_s: float = 30.0,
    ) -> None:
        self.migrations = migrations
        self._connector = Connector(url, bouncer=bouncer, lock_timeout_s=longest_wait_s)
        self.where = self._connector.where
        self._settle_within_s = settle_within_s
        self.watermarks: Watermarks | None = Watermarks()
        self._queries = load_queries()
        self._mutex = threading.Lock()
        self._writer: Connection | None = None
        self._listener: _Listener | None = None
        self._closed = False
        self._has_rights = False
        self._last: _Last | None = None
        self._stepped_back_to: int | None = None  # when our last commit was that the server has lost
        self._suspect_since = 0.0  # when a connection was last found to be lost
        self._pool: ConnectionPool[Connection] | None = None
        self._pool_mutex = threading.Lock()

    # -- connections

    def _connect(self) -> Connection:
        return self._connector.connect()

    def check(self) -> None:
        """Raise StoreUnavailable, or ConfigError when trying again would not help."""
        self._connector.check()

    @property
    def _bouncer(self) -> bool:
        return self._connector.bouncer

    def _open_pool(self) -> ConnectionPool[Connection]:
        """Open the readers' pool at the first need: by then it is known whether a bouncer is in between."""
        with self._pool_mutex:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._connector.conninfo,
                    connection_class=self._reader_class(),
                    min_size=0,
                    max_size=_READERS,
                    timeout=_BORROW_WITHIN_S,
                    reconnect_timeout=_BORROW_WITHIN_S,
                    check=self._check,
                    configure=self._configure_reader,
                    open=True,
                    name="postroom",
                )
            return self._pool

    def _reader_class(self) -> type[Connection]:
        connector = self._connector

        class Reader(Connection):
            @classmethod
            def connect(cls, conninfo: str = "", **_: Any) -> Any:
                return connector.connect()

        return Reader

    def _configure_reader(self, connection: Connection) -> None:
        if self._bouncer:
            return
        try:
            connection.execute("SET default_transaction_read_only = on")
        except psycopg.Error:
            connection.close()  # the pool does not
            raise

    def _check(self, connection: Connection) -> None:
        """Look whether a connection of the pool is still there, unless it was so a moment ago."""
        now = time.monotonic()
        seen = connection.seen_at
        if now - seen > _CHECK_AFTER_S or seen < self._suspect_since:
            with connection.answering_within(CONNECT_WITHIN_S):
                ConnectionPool.check_connection(connection)
            connection.seen_at = now

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Lend a connection of the pool. One on which anything failed is not used again.

        Raises SessionInDoubt where a new session may do what this one could not: then all older ones are given up.
        """
        with translated(self.where):
            try:
                with self._open_pool().connection() as connection:
                    try:
                        if self._bouncer:  # the pool ends what is begun here
                            settings = self._connector.setting_statement(local=True)
                            connection.execute(f"{_BEGIN} READ ONLY; {settings}".encode())
                        yield Transaction(
                            _Session(connection, self._queries), self._queries, watermarks=self.watermarks
                        )
                    except psycopg.Error:
                        connection.close()
                        raise
            except psycopg.Error as error:
                self._suspect_since = time.monotonic()  # the other readers' connections may be lost too
                if state_of(error) and may_be_the_session(error):
                    self._open_pool().drain()  # what has made one session fail may have made the others
                raise

    # -- writing

    def commit_batch(self, take: Callable[[], Sequence[Work[object]]]) -> list[Settled]:
        with self._mutex, translated(self.where):
            works = take()
            if not works:
                return []
            is_new = False  # whether the session was opened after another one had failed
            for number in range(_MOST_TRIES):
                connection = self._own()
                try:
                    self._hold_if_stepped_back(connection)
                    return self._try_batch(self._own(), works, is_new=is_new)
                except AGAIN as error:
                    log.info("a transaction met another one and is run again: %s", said(error))
                    time.sleep(random.uniform(0, 0.01) * 2**number)  # noqa: S311  # not a secret
                except psycopg.Error as error:
                    self._suspect_since = time.monotonic()
                    if is_new or not may_be_the_session(error):
                        raise
                    is_new = True
                    log.info("a session failed, nothing was committed, and a new one tries: %s", said(error))
        raise StoreUnavailable(f"the database {self.where} is too busy: transactions keep meeting each other")

    def _begin(self, connection: psycopg.Connection[TupleRow]) -> None:
        connection.execute(_BEGIN)
        if self._bouncer:  # there are no sessions that could have the settings
            connection.execute(self._connector.setting_statement(local=True).encode())

    def _hold_if_stepped_back(self, connection: psycopg.Connection[TupleRow]) -> None:
        until = self._stepped_back_to
        if until is not None:
            now = time.time_ns() // 1000
            self._try_batch(
                connection,
                [lambda transaction: transaction.holds.hold_queued(now, until=until, claimed=False)],
                is_new=True,
            )
            self._stepped_back_to = None

    def _try_batch(
        self, connection: psycopg.Connection[TupleRow], works: Sequence[Work[object]], *, is_new: bool
    ) -> list[Settled]:
        try:
            settled = self._together(connection, works)
            return settled if settled is not None else self._one_by_one(works, is_new=is_new)
        except BaseException:
            self._drop()
            raise

    def _own(self) -> Connection:
        """Return the writing connection, a new one where the old one was lost."""
        if self._writer is not None and self._writer.closed:
            self._writer = None
        if self._writer is None:
            self._writer = self._connect()
            self._look_for_the_last_commit(self._writer)
        return self._writer

    def _look_for_the_last_commit(self, connection: Connection) -> None:
        """See, after a failover, whether the new server has our last commit: else it has stepped back."""
        server, last = self._connector.server, self._last
        if last is None or server is None or last.server is None or server.timeline == last.server.timeline:
            return
        look = "SELECT EXISTS (SELECT 1 FROM commit_mark WHERE mark = %s)"
        [[is_there]] = connection.execute(look, [last.mark], prepare=False).fetchall()
        is_recent = time.monotonic() - last.at < _MARKS_COUNT_S
        self._last = None
        if not is_there and is_recent:
            self._stepped_back_to = last.clock
            log.error(
                "%s has lost what was committed last: it was no synchronous standby. What was accepted in its last moments "
                "is gone, and what is queued may have been sent: it is held", self.where,
            )  # fmt: skip

    def _drop(self) -> None:
        """Give up the writing connection: something failed on it.

        After a pipeline that failed, the driver may name prepared statements that the server never parsed,
        and every later transaction on that connection would fail.
        """
        connection, self._writer = self._writer, None
        if connection is None or connection.closed:
            return
        with suppress(psycopg.Error):  # what it holds is to be free before the next one begins
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK", prepare=False)
        connection.close()

    def _together(
        self, connection: psycopg.Connection[TupleRow], works: Sequence[Work[object]]
    ) -> list[Settled] | None:
        """Run the works in pipeline mode and commit; None, everything undone, when one of them fails."""
        guards: list[object] = []
        try:
            with connection.pipeline() as pipeline:
                self._begin(connection)
                session = _Session(connection, self._queries, pipeline)
                transaction = Transaction(
                    session, self._queries, guards.append, self.watermarks, results_deferred=True
                )
                values = [work(transaction) for work in works]
                transaction.count_accepted()
                session.send()
                evidence = self._prepare_commit(connection, transaction)
                pipeline.sync()
                undone = not all(guards)
                xid = evidence.xid
        except (psycopg.errors.PipelineAborted, *HELD_UP):
            self._drop()
            return None
        except NOT_NOW:
            raise
        except Exception:  # whose it was is found out one by one
            self._drop()
            return None
        if undone:
            connection.execute("ROLLBACK")
            return None
        self._commit(connection, xid, evidence.mark)
        transaction.committed()
        return [Settled(value) for value in values]

    def _one_by_one(self, works: Sequence[Work[object]], *, is_new: bool) -> list[Settled]:
        """Run the works in one transaction, each with a savepoint to go back to.

        Raises what is no work's own fault; an error that a new session (`is_new`) does not end is its work's own.
        """
        connection = self._own()
        self._begin(connection)
        session = _Session(connection, self._queries)
        transaction = Transaction(session, self._queries, watermarks=self.watermarks)
        settled = []
        for work in works:
            connection.execute("SAVEPOINT work")
            accepted = transaction.accepted.copy()
            try:
                with translated(self.where):
                    settled.append(Settled(work(transaction)))
            except Exception as error:
                fault = error.__cause__
                if isinstance(fault, Exception) and _is_everybodys(fault, is_new=is_new):
                    raise fault from error  # the fault is the database's, so nobody's work can be committed
                settled.append(Settled(error=error))
                transaction.accepted = accepted
                connection.execute("ROLLBACK TO SAVEPOINT work")
                if isinstance(fault, HELD_UP):  # the next work may need the same: it has waited long enough
                    connection.execute("SET LOCAL lock_timeout = '100ms'")
            else:
                connection.execute("RELEASE SAVEPOINT work")
        transaction.count_accepted()
        evidence = self._prepare_commit(connection, transaction)
        self._commit(connection, evidence.xid, evidence.mark)
        transaction.committed()
        return settled

    @staticmethod
    def _prepare_commit(connection: psycopg.Connection[TupleRow], transaction: Transaction) -> _Evidence:
        """Wake the workers, once for all works, and leave what will tell whether this was committed."""
        mark = _marks.getrandbits(63)
        statement = _MARK_AND_WAKE if transaction.has_new_work else _MARK
        return _Evidence(mark, connection.execute(statement, [mark]))

    def _commit(self, connection: psycopg.Connection[TupleRow], xid: str, mark: int) -> None:
        failpoint.hit("store.commit")
        try:
            done = connection.execute("COMMIT")
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            connection.close()
            log.warning("the connection was lost during COMMIT: %s", said(error))
            if not self._was_committed(xid, mark):
                raise
        else:
            if done.statusmessage != "COMMIT":
                raise StoreUnavailable(f"the database {self.where} answered COMMIT with {done.statusmessage}")
        self._last = _Last(mark, time.monotonic(), time.time_ns() // 1000, self._connector.server)

    def _was_committed(self, xid: str, mark: int) -> bool:
        """Look what became of a transaction, once it is over. Raises CommitUnknown when nobody can tell."""
        deadline = time.monotonic() + self._settle_within_s
        reason = "it is still under way"
        while time.monotonic() < deadline:
            try:
                with self._connect() as connection:
                    # While it is under way, its backend has not noticed yet that we are gone.
                    if not _is_under_way(connection, xid):
                        look = "SELECT EXISTS (SELECT 1 FROM commit_mark WHERE mark = %s)"
                        [[committed]] = connection.execute(look, [mark]).fetchall()
                        log.warning("what had no answer %s committed", "was" if committed else "was not")
                        return bool(committed)
            except psycopg.Error as error:
                reason = said(error)
            time.sleep(0.1)
        raise CommitUnknown(
            f"the database {self.where} was lost during COMMIT, and what became of it is not known: {reason}"
        )

    def check_rights(self) -> None:
        if self._has_rights:
            return
        with self.reading() as transaction:
            rows = session_of(transaction).connection.execute(_RIGHTS_MISSING).fetchall()
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
            was_open = self._writer is not None and not self._writer.closed
            try:
                self._try_write()
            except psycopg.Error as error:
                if not was_open or not may_be_the_session(error):
                    raise
                self._drop()
                self._try_write()

    def _try_write(self) -> None:
        try:
            connection = self._own()
            self._begin(connection)
            Transaction(_Session(connection, self._queries), self._queries).settings.set("tried", "")
        finally:
            self._undo()

    def _undo(self) -> None:
        connection = self._writer
        if connection is not None and not connection.closed:
            with suppress(psycopg.Error):
                connection.execute("ROLLBACK")
                return
            self._drop()

    def forget_commits(self) -> None:
        """Drop the marks of commits that nobody can be asking for any more."""
        self._tidy("DELETE FROM commit_mark WHERE at < now() - %s::interval", _MARKS_KEPT)

    def fold_counts(self) -> None:
        """Put the rows that count an account's jobs together to one for each state."""
        self._tidy(_FOLD)

    def _tidy(self, statement: LiteralString, *parameters: str) -> None:
        with self._mutex, translated(self.where):
            connection = self._own()
            try:
                connection.execute(statement, parameters)
            except psycopg.Error:
                self._drop()
                raise

    # -- migrations

    @contextmanager
    def exclusively(self) -> Iterator[Transaction]:
        with self._mutex, translated(self.where):
            connection = self._own()
            try:
                with connection.answering_within(None), connection.transaction():
                    if self._bouncer:
                        connection.execute(self._connector.setting_statement(local=True).encode())
                    connection.execute("SET LOCAL lock_timeout = 0")
                    connection.execute("SET LOCAL statement_timeout = 0")
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATION_LOCK])
                    yield Transaction(
                        _Session(connection, self._queries), self._queries, watermarks=self.watermarks
                    )
            except psycopg.errors.InsufficientPrivilege as error:
                self._drop()
                raise ConfigError(
                    "DATABASE_URL",
                    f"the role may not change the schema at {self.where} ({said(error)}): run `postroom migrate` with the "
                    "role that owns it, or GRANT USAGE, CREATE ON SCHEMA public",
                ) from error
            except BaseException:
                self._drop()
                raise

    def run_script(self, sql: str) -> None:
        self._own().execute(sql.encode())

    def has_table(self, name: str) -> bool:
        with self.reading() as transaction:
            connection = session_of(transaction).connection
            row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
        return bool(row and row[0])

    # -- the rest

    def change_counter(self) -> int:
        """Count the notifications; a listener is started at the first call. Behind a pgbouncer there are none."""
        if self._bouncer:
            return 0
        if self._listener is None:
            self._listener = _Listener(self._connect, self.where)
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
            if self._pool is not None:
                self._pool.close()
            if self._writer is not None:
                self._writer.close()


class _Listener:
    """A thread that counts notifications. While it is not connected, the workers' own looks must do."""

    def __init__(self, connect: Callable[[], Connection], where: str) -> None:
        self._connect = connect
        self.where = where
        self._closed = threading.Event()
        self.count = 0
        self._thread = threading.Thread(target=self._run, name="listen", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    self.count += 1  # what came before we listened
                    while not self._closed.is_set():
                        for _ in connection.notifies(timeout=_NOTIFY_WAIT_S, stop_after=1):
                            self.count += 1
            except (psycopg.Error, ConfigError) as error:
                log.info("not listening at %s just now: %s", self.where, said(error))
                self._closed.wait(_LISTEN_AGAIN_S)

    def close(self) -> None:
        self._closed.set()
