"""A database of one engine, and people whose mail goes through it."""

from __future__ import annotations

import asyncio
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import psycopg

from postroom.core.account import AccountSettings
from postroom.core.clock import SECOND, Instant
from postroom.core.decide import Decision, decision_of
from postroom.core.job import ClaimedJob
from postroom.core.message import Accepted, InDoubtPolicy, NewMessage
from postroom.core.outcome import Blame, Deferred, Failed, InDoubt, Outcome, Reply, Sent
from postroom.core.stored_text import StoredText
from postroom.intake.request_id import new_request_id
from postroom.store.acceptance import IdempotencyClash
from postroom.store.accounts import AccountIdentity, Accounts
from postroom.store.attempts import Attempts
from postroom.store.contents import Contents
from postroom.store.log_lines import LogLines
from postroom.store.messages import Messages
from postroom.store.postgres.engine import PostgresEngine
from postroom.store.queue import Queue
from postroom.store.recovery import Recovery
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.store import Store, open_store
from postroom.store.workers import Workers
from postroom.store.writer import Work
from tests.servers.postgres import Postgres
from tests.servers.waiting import eventually

NOW: Instant = 1_700_000_000 * SECOND
LATER: Instant = NOW + 60 * SECOND
FAR: Instant = NOW + 3600 * SECOND

SENT = Sent(Reply(250, "queued as 4711", "2.0.0"))
DEFERRED = Deferred("451 4.3.0 later", Blame.MESSAGE, Reply(451, "later", "4.3.0"))
UNBURNT = Deferred("450 4.2.1 account", Blame.ACCOUNT, Reply(450, "account", "4.2.1"), burns_attempt=False)
FAILED = Failed("550 5.1.1 nobody", Blame.RECIPIENT, Reply(550, "nobody", "5.1.1"))
IN_DOUBT = InDoubt("no answer")

TABLES = (
    "setting", "account", "api_key", "message", "content", "content_piece", "pieced_content", "upload", "delivery", "job",
    "attempt", "event", "idempotency", "worker", "log_line", "log_batch", "account_usage", "connection", "pace",
    "job_count", "counter",
    "account_alias", "oauth_grant", "pool", "pool_member", "issued_key", "issued_key_usage", "stopped_key",
    "audit", "finding", "listed", "listed_block", "daily_count",
    "notice", "notice_to_send", "notice_message", "notice_memory",
)  # fmt: skip


PLAIN = AccountSettings("", None, None, None, None, None, None)


def no_password(uid: str) -> bytes | None:
    """What seals the password of an account without one."""
    return None


def at_its_own_server(email: str) -> AccountIdentity:
    return AccountIdentity(email, None, None, None)


class Database(ABC):
    """A database of one engine, opened as often as a test likes and looked at past the store."""

    url: str
    violation: type[Exception]  # what the driver raises when a constraint is violated

    def open(self) -> Store:
        return open_store(self.url)

    @abstractmethod
    def open_impatient(self) -> Store:
        """Open a store that waits only a moment for other writers."""

    @abstractmethod
    def open_hasty(self) -> Store:
        """Open a store that does not wait for the disk, for the tests in which no power fails."""

    @abstractmethod
    def connect(self) -> Any:
        """Open a connection of the driver's own, which commits each statement."""

    @abstractmethod
    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns, in their order."""

    @abstractmethod
    def writes_held(self) -> AbstractContextManager[None]:
        """Hold off every writer, as a backup or somebody's prompt might."""

    @abstractmethod
    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement; return the rows that it has."""

    def change(self, sql: str) -> None:
        self.rows(sql)

    def value(self, sql: str, *parameters: Any) -> Any:
        return self.rows(sql, *parameters)[0][0]

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of every table."""
        return {table: sorted(self.rows(f"SELECT * FROM {table}"), key=repr) for table in TABLES}


class SQLiteDatabase(Database):
    """A database file in a folder: the one that is there, a copy of `template`, or none yet."""

    violation = apsw.ConstraintError

    def __init__(self, folder: Path, template: Path | None = None) -> None:
        self.path = folder / "postroom.db"
        self.url = f"sqlite:///{self.path}"
        if template is not None:
            shutil.copy(template, self.path)

    def open_impatient(self) -> Store:
        return Store(SQLiteEngine(self.path, longest_wait_s=0.2))

    def open_hasty(self) -> Store:
        engine = SQLiteEngine(self.path)
        engine._writer.pragma("synchronous", "off")
        return Store(engine)

    def connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.execute("PRAGMA foreign_keys = ON").fetchall()
        return connection

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._looking() as connection:
            return list(connection.execute(sql, parameters))

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        with self._looking() as connection:
            return {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in TABLES}

    @contextmanager
    def _looking(self) -> Iterator[apsw.Connection]:
        connection = self.connect()
        try:
            yield connection
        finally:
            connection.close()

    def columns(self, table: str) -> list[str]:
        return [row[1] for row in self.rows(f"PRAGMA table_info({table})")]

    @contextmanager
    def writes_held(self) -> Iterator[None]:
        foreign = self.connect()
        foreign.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            foreign.execute("ROLLBACK")
            foreign.close()


# Everything that a test may have changed but the rows: columns, constraints, indexes, triggers, settings; and the
# migrations that are said to be applied, which nothing clears.
_SCHEMA = """
SELECT attrelid::regclass::text, attname, atttypid::text FROM pg_attribute
WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
UNION ALL
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT tgrelid::regclass::text, tgname, tgenabled::text FROM pg_trigger
UNION ALL
SELECT 'setting', setrole::text, setconfig::text FROM pg_db_role_setting
WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT 'migration', version::text, checksum FROM schema_migration
ORDER BY 1, 2, 3
"""
_OTHER_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_CLEAR = f"""
BEGIN;
SET LOCAL session_replication_role = replica;  -- so that the order means nothing
{"".join(f"DELETE FROM {table};" for table in (*TABLES, "commit_mark"))}
SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S';
COMMIT;
"""


def _lock_all(connection: psycopg.Connection[Any]) -> bool:
    """Lock every table; a writer that goes through them in another order may be waiting for us, and we for it."""
    try:
        for table in TABLES:
            connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
    except psycopg.errors.DeadlockDetected:
        connection.rollback()
        return False
    return True


class PostgresDatabase(Database):
    """A database of a server. What the tests look at goes over one connection, which is made again when it is ended."""

    violation = psycopg.IntegrityError

    def __init__(self, server: Postgres, name: str) -> None:
        self.server = server
        self.name = name
        self.url = server.url(name)
        self._mutex = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None

    def open_impatient(self) -> Store:
        return Store(PostgresEngine(self.url, longest_wait_s=0.2))

    def open_hasty(self) -> Store:
        """The clock of these tests goes forwards and back, so that every look begins at the beginning."""
        engine = PostgresEngine(self.url)
        engine.watermarks = None
        return Store(engine)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def columns(self, table: str) -> list[str]:
        query = "SELECT column_name FROM information_schema.columns WHERE table_name = ? ORDER BY ordinal_position"
        return [row[0] for row in self.rows(query, table)]

    @contextmanager
    def writes_held(self) -> Iterator[None]:
        with psycopg.connect(self.url) as foreign:
            eventually(partial(_lock_all, foreign), 120, "all tables to be locked")
            yield
            foreign.rollback()

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        statement = sql.replace("%", "%%").replace("?", "%s") if parameters else sql
        with self._mutex:
            try:
                return self._run(statement.encode(), parameters or None)
            except psycopg.OperationalError:
                if self._connection is not None and not self._connection.closed:
                    raise
                return self._run(statement.encode(), parameters or None)

    def _run(self, statement: bytes, parameters: tuple[Any, ...] | None) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = self.connect()
            self._connection.prepare_threshold = (
                None  # a prepared statement does not outlive a change of the schema
            )
        cursor = self._connection.execute(statement, parameters)
        return [] if cursor.description is None else cursor.fetchall()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def schema(self) -> list[tuple[Any, ...]]:
        """Return everything but rows that a test may have changed."""
        return self.rows(_SCHEMA)

    def clear(self) -> None:
        """End every other session and remove every row; numbers begin at one again."""
        eventually(lambda: not self.rows(_OTHER_SESSIONS), 60, f"the sessions of {self.name} to end")
        self.rows(_CLEAR)


class PostgresPool:
    """Databases that are up to date, used by one test after another: to make one anew takes fifty times as long.

    A test finds no rows, and numbers that begin at one. A database whose schema or settings a test has changed is
    not used again.
    """

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._idle: PostgresDatabase | None = None
        self._template = server.create_database()
        database = PostgresDatabase(server, self._template)
        store = database.open()
        store.migrate()
        store.close()
        self._schema = database.schema()
        database.close()

    @contextmanager
    def lend(self) -> Iterator[PostgresDatabase]:
        database, self._idle = self._idle or self._make(), None
        try:
            yield database
        finally:
            if database.schema() == self._schema:
                database.clear()
                self._idle = database
            else:
                database.close()
                self._server.drop_database(database.name)

    def close(self) -> None:
        if self._idle is not None:
            self._idle.close()

    def _make(self) -> PostgresDatabase:
        return PostgresDatabase(self._server, self._server.create_database(self._template))


class Post:
    """A store with Anna's account and one worker, and short words for what happens to her mail."""

    def __init__(self, store: Store, database: Database) -> None:
        self.store = store
        self.database = database
        self.anna = self.add_account("anna@example.com")
        self.worker = self.add_worker()

    def add_account(self, email: str) -> int:
        return self.store.write(
            Accounts.upsert, at_its_own_server(email), PLAIN, no_password, source="csv", now=NOW
        )

    def add_worker(self, lease_until: Instant = LATER) -> int:
        return self.store.write(
            Workers.register, host="here", pid=1, lock_file="none.lock", now=NOW, lease_until=lease_until
        )

    def accept(self, message: NewMessage) -> Accepted | IdempotencyClash:
        return self.store.write(accepting(message))

    def add(self, *recipients: str, account: int | None = None, at: Instant = NOW, size: int = 20) -> str:
        """Accept a message and return its request id."""
        account_id = self.anna if account is None else account
        message = new_message(account_id, *recipients or ("bob@example.org",), at=at, size=size)
        self.accept(message)
        return message.request_id

    def add_many(self, count: int) -> list[str]:
        messages = [new_message(self.anna, at=NOW + number) for number in range(count)]
        settled = self.store.write_all([accepting(message) for message in messages])
        return [result.unwrap().request_id for result in settled]

    def claim(
        self,
        *,
        account: int | None = None,
        worker: int | None = None,
        most: int = 100,
        most_bytes: int = 1_000_000,
        first_bytes: int = 1 << 40,
        now: Instant = NOW,
        daily_limit: int | None = None,
        paced: bool = False,
        probing: bool = False,
    ) -> list[ClaimedJob]:
        return self.store.write(
            Queue.claim,
            account_id=self.anna if account is None else account,
            worker_id=self.worker if worker is None else worker,
            most=most,
            most_bytes=most_bytes,
            first_bytes=first_bytes,
            now=now,
            daily_limit=daily_limit,
            paced=paced,
            probing=probing,
        )

    def claim_one(self, now: Instant = NOW, worker: int | None = None) -> ClaimedJob:
        [job] = self.claim(now=now, worker=worker)
        return job

    def mark_dot(self, job: ClaimedJob, now: Instant = NOW) -> None:
        self.store.write(Queue.mark_dot, job, now)

    def unmark_dot(self, job: ClaimedJob) -> None:
        self.store.write(Queue.unmark_dot, job)

    def release(self, job: ClaimedJob, now: Instant = NOW) -> None:
        self.store.write(Queue.release, job, now)

    def finish(
        self,
        job: ClaimedJob,
        *outcomes: Outcome,
        retry_at: Instant | None = FAR,
        policy: InDoubtPolicy = InDoubtPolicy.RETRY,
        now: Instant = LATER,
    ) -> None:
        """Finish a job with one outcome for each of its recipients, in their order."""
        by_id: Mapping[int, Outcome] = {
            delivery.id: outcome for delivery, outcome in zip(job.deliveries, outcomes, strict=True)
        }
        self.finish_with(job, decision_of(job, by_id, policy, now=now, due_at=retry_at), now)

    def finish_with(self, job: ClaimedJob, decision: Decision, now: Instant = LATER) -> None:
        self.store.write(Attempts.finish, job, decision, worker_id=self.worker, started_at=NOW, now=now)

    def reap(
        self,
        worker: int | None = None,
        *,
        lease: Instant | None = None,
        policy: InDoubtPolicy = InDoubtPolicy.RETRY,
        now: Instant = LATER,
        crashed: bool = True,
    ) -> int:
        worker_id = self.worker if worker is None else worker
        return self.store.write(
            Recovery.reap, worker_id, now=now, in_doubt=policy, lease=lease, crashed=crashed
        )

    def status(self, request_id: str) -> str:
        return str(self.store.read(Messages.status, request_id))

    def job(self, request_id: str) -> dict[str, Any]:
        """Return the job's row."""
        columns = ("state", "due_at", "attempt", "crashes", "held", "claim_token", "dot_at", "finished_at")
        [row] = self.database.rows(
            f"SELECT {', '.join(f'job.{column}' for column in columns)} "
            "FROM job JOIN message ON message.id = job.message_id WHERE request_id = ?",
            request_id,
        )
        return dict(zip(columns, row, strict=True))

    def attempts(self) -> list[tuple[Any, ...]]:
        return self.database.rows(
            "SELECT number, worker_id, started_at, finished_at, outcome, reply_code, reply_enhanced, reply_text "
            "FROM attempt ORDER BY id"
        )

    def unlogged(self) -> list[str]:
        """Return the status of each line that email_log.txt lacks."""
        return [line.status for line in self.store.read(LogLines.unwritten, 1000)]


def content_of(store: Store, job: ClaimedJob) -> bytes:
    """Return a claimed job's content as its worker sends it. Raises ContentDamaged."""
    large = job.large
    if large is None:
        return job.mime

    async def read(number: int) -> bytes:
        return store.read(Contents.piece, large, number)

    async def whole() -> bytes:
        text = StoredText(large.size, large.checksum, read)
        return b"".join([piece async for piece in text.pieces()])

    return asyncio.run(whole())


def new_message(
    account_id: int,
    *recipients: str,
    at: Instant = NOW,
    size: int = 20,
    key: str | None = None,
    fingerprint: bytes | None = None,
    not_before: Instant | None = None,
) -> NewMessage:
    return NewMessage(
        request_id=new_request_id(at),
        account_id=account_id,
        reverse_path="anna@example.com",
        forward_paths=recipients or ("bob@example.org",),
        subject="Hello",
        mime=b"x" * size,
        smtputf8=False,
        accepted_at=at,
        idempotency_key=key,
        fingerprint=fingerprint,
        not_before=not_before,
    )


def accepting(message: NewMessage) -> Work[Accepted | IdempotencyClash]:
    """Return the work that accepts a message."""
    return lambda transaction: transaction.acceptance.accept(message)
