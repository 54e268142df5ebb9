"""The upgrade of databases that have messages in them: from each number on, killed at each, and beside processes of before.

What is in the database is written by SQL that was right at the time: a table keeps its old columns' values.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from postroom.core import failpoint
from postroom.core.clock import SECOND
from postroom.core.errors import LeaseLost, StoreError, WorkerExpired
from postroom.core.job import JobRef
from postroom.core.message import InDoubtPolicy
from postroom.store.migrate import FIRST_SHARED, SCHEMA, load_migrations
from postroom.store.queue import Queue
from postroom.store.recovery import Recovery
from postroom.store.store import Store
from postroom.store.transaction import Transaction
from postroom.store.workers import Workers
from postroom.worker.liveness import Reaper
from tests.migrations.test_migrations import Place, PostgresPlace, SQLitePlace, older
from tests.servers.postgres import Postgres
from tests.servers.waiting import eventually

MANY = 100_000 if os.environ.get("POSTROOM_SOAK") else 400
NOW = 1_700_000_000 * SECOND

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {many})"
# The state of message n is n % 8: queued, deferred, claimed, claimed with its dot out, held, sent, failed, cancelled.
_FIRST = f"""
INSERT INTO setting (name, value) VALUES ('vault', 'fingerprint');
INSERT INTO account (id, email, name, host, source, state, state_reason, state_since, resume_at, worked_at, created_at,
                     updated_at)
VALUES (1, 'anna@example.com', 'Anna', NULL, 'csv', 'active', NULL, NULL, NULL, {NOW}, 1, 1),
       (2, 'bob@example.com', '', 'mail.example.com', 'csv', 'paused', '535 no', {NOW}, {NOW} + 9, {NOW}, 1, 1),
       (3, 'dora@example.com', '', 'mail.example.com', 'csv', 'parked', 'too many', {NOW}, {NOW} + 9, NULL, 1, 1);
INSERT INTO worker (id, host, pid, lock_file, started_at, lease_until) VALUES (1, 'here', 1, 'none.lock', 1, {NOW});

{{numbers}}
INSERT INTO message (id, request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at)
SELECT n, 'message ' || n, 1 + n % 3, 'anna@example.com', 'Hello ' || n, 9, 0, {NOW} + n FROM numbers;

INSERT INTO api_key (account_id, digest, source, created_at) SELECT id, {{octets}}, 'csv', 1 FROM account WHERE id = 1;
INSERT INTO content (message_id, mime) SELECT id, {{octets}} FROM message;
INSERT INTO delivery (message_id, forward_path, state, reason, reply_code, possible_duplicate, finished_at)
SELECT id, 'you' || id || '@example.org',
       CASE WHEN id % 8 < 5 THEN 'pending' WHEN id % 8 = 5 THEN 'sent' WHEN id % 8 = 6 THEN 'failed' ELSE 'cancelled' END,
       CASE WHEN id % 8 IN (1, 4, 6) THEN 'no such mailbox' END, CASE WHEN id % 8 IN (5, 6) THEN 250 END,
       CASE WHEN id % 8 = 4 THEN 1 ELSE 0 END, CASE WHEN id % 8 > 4 THEN {NOW} + 5 END
FROM message;
INSERT INTO job (id, kind, account_id, message_id, state, due_at, attempt, crashes, held, claim_token, claimed_by,
                 claimed_at, dot_at, finished_at)
SELECT id, 'delivery', account_id, id,
       CASE WHEN id % 8 IN (2, 3) THEN 'claimed' WHEN id % 8 = 5 THEN 'done' WHEN id % 8 = 6 THEN 'failed'
            WHEN id % 8 = 7 THEN 'cancelled' ELSE 'queued' END,
       accepted_at, id % 8 % 3, id % 8 % 2, CASE WHEN id % 8 = 4 THEN 1 ELSE 0 END,
       CASE WHEN id % 8 IN (2, 3) THEN 1000 + id END, CASE WHEN id % 8 IN (2, 3) THEN 1 END,
       CASE WHEN id % 8 IN (2, 3) THEN {NOW} + 3 END, CASE WHEN id % 8 = 3 THEN {NOW} + 4 END,
       CASE WHEN id % 8 > 4 THEN {NOW} + 5 END
FROM message;
INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome, reply_code, reply_text)
SELECT id, 1, 1, {NOW}, {NOW} + 5, CASE WHEN id % 8 = 5 THEN 'sent' ELSE 'failed' END, 250, 'OK'
FROM job WHERE id % 8 IN (5, 6);
INSERT INTO event (message_id, at, kind) SELECT id, accepted_at, 'accepted' FROM message;
INSERT INTO event (message_id, delivery_id, at, kind, detail)
SELECT message_id, id, {NOW} + 5, 'sent', '250 OK' FROM delivery WHERE state = 'sent';
INSERT INTO idempotency (account_id, key, fingerprint, request_id, created_at)
SELECT account_id, 'key ' || id, {{octets}}, request_id, accepted_at FROM message WHERE id % 5 = 0;
INSERT INTO log_batch (id, start) VALUES (1, 77);
INSERT INTO log_line (message_id, batch) SELECT id, CASE WHEN id % 16 = 5 THEN 1 END FROM message WHERE id % 8 > 4;
"""
# What came between the first number and the last ones of the engines' own.
_LAST = f"""
UPDATE message SET in_doubt = 'hold' WHERE id % 7 = 0;
UPDATE content SET checksum = 4711 WHERE message_id % 2 = 0;
UPDATE delivery SET checksum = 42 WHERE id % 2 = 0;
UPDATE job SET reserved_slot = 5, reserved = 1 WHERE state = 'claimed' AND id % 3 = 0;
UPDATE job SET drawn = 2, drawn_at = {NOW} WHERE id % 8 = 1;
UPDATE account SET worked_with = 'smtp.gmail.com', setbacks = 2, passed_at = 3, server_lacks = '{{}}' WHERE id = 1;
INSERT INTO account_usage (account_id, slot, recipients) VALUES (1, 5, 99);
INSERT INTO connection (account_id, worker_id) VALUES (1, 1);
INSERT INTO pace VALUES (3, 1, 2, 3, 4, 5, 6, 7);
DELETE FROM content WHERE message_id % 40 = 8;
INSERT INTO pieced_content (message_id, upload, checksum) SELECT id, 100 + id, 7 FROM message WHERE id % 40 = 8;
INSERT INTO content_piece (upload, number, octets) SELECT upload, 0, {{octets}} FROM pieced_content;
INSERT INTO content_piece (upload, number, octets) SELECT upload, 1, {{octets}} FROM pieced_content;
INSERT INTO upload (id, began_at) VALUES (1, {NOW});
"""
_TABLES = (
    "setting", "account", "api_key", "message", "content", "delivery", "job", "attempt", "event", "idempotency", "worker",
    "log_batch", "log_line", "account_usage", "connection", "pace", "upload", "content_piece", "pieced_content",
)  # fmt: skip
# At the first number. Later ones may rename, and fill in what is new.
_KEPT_FROM_THE_START = ("message", "content", "delivery", "attempt", "event", "idempotency")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database of each engine in turn."""
    if request.param == "sqlite":
        yield SQLitePlace(f"sqlite:///{tmp_path / 'postroom.db'}", SCHEMA, "")
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield PostgresPlace(server.url(name), SCHEMA, "")
    server.drop_database(name)


def fill(place: Place, folder: Path, many: int) -> None:
    """Write messages in every state at the first number, bring them to the last one of before, and add what came since."""
    octets = "x'00ff'" if isinstance(place, SQLitePlace) else r"'\x00ff'::bytea"
    older(folder, place, 2).migrate()
    place.change(_FIRST.format(numbers=_NUMBERS.format(many=many), octets=octets))
    older(folder, place, FIRST_SHARED).migrate()
    place.change(_LAST.replace("{octets}", octets))


def rows(place: Place, *tables: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of these tables in a fixed order, each by the names of its columns."""
    if isinstance(place, SQLitePlace):
        with closing(apsw.Connection(str(place.path))) as connection:
            found = {table: _by_name(connection.execute(f"SELECT * FROM {table}")) for table in tables}
    else:
        every = " UNION ALL ".join(f"SELECT '{table}', to_jsonb({table}) FROM {table}" for table in tables)
        found = {table: [] for table in tables}
        for table, row in place.query(every):
            found[table].append(row)
    return {table: sorted(each, key=_key) for table, each in found.items()}


def _by_name(cursor: apsw.Cursor) -> list[dict[str, Any]]:
    return [dict(zip([name for name, *_ in cursor.description], row, strict=True)) for row in cursor]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a row can be told by, whatever has been added to it since."""
    keys = ("id", "message_id", "upload", "number", "account_id", "slot", "key", "name")
    return tuple(str(row.get(key)).zfill(20) for key in keys)


def assert_sound(place: Place) -> None:
    if isinstance(place, SQLitePlace):
        assert place.query("PRAGMA integrity_check") == [("ok",)]
        assert place.query("PRAGMA foreign_key_check") == []


def as_of_now(
    before: dict[str, list[dict[str, Any]]], after: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Return what the rows of before are to be now: all that they were, and what a number is known to change."""
    expected: dict[str, Any] = {}
    for table, old in before.items():
        expected[table] = [{**new, **was} for was, new in zip(old, after[table], strict=True)]
    for job in expected["job"]:
        job["lane"] = job.pop("account_id")
        assert job["not_before"] is None
        if job["state"] == "claimed" and job["dot_at"] is None:
            job["claim_token"] = -job["claim_token"]
    for worker, now in zip(expected["worker"], after["worker"], strict=True):
        assert now["gone_at"] is not None, "it is of an earlier version"
        worker["gone_at"] = now["gone_at"]
    return expected


def test_a_database_of_before_loses_nothing(place: Place, tmp_path: Path) -> None:
    fill(place, tmp_path, MANY)
    before = rows(place, *_TABLES)
    began = time.perf_counter()
    assert place.migrate() == place.names[-len(list(SCHEMA.glob("0*.sql"))) :]
    print(f"{MANY} messages: {time.perf_counter() - began:.2f} s")  # for the soak run
    assert_sound(place)
    after = rows(place, *_TABLES)
    assert after == as_of_now(before, after)
    assert len(after["message"]) == MANY
    counted = place.query(
        "SELECT state, CAST(sum(jobs) AS BIGINT) FROM job_count GROUP BY state ORDER BY state"
    )
    each = [sum(n % 8 == state for n in range(1, MANY + 1)) for state in (7, 5, 6)]
    assert counted == [("accepted", MANY), *zip(("cancelled", "done", "failed"), each, strict=True)], (
        "the upgrade has ended none"
    )


class Killed(Exception):
    """In place of the death of the process that migrates."""


def test_an_upgrade_that_is_killed_at_any_number_leaves_the_number_before(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = load_migrations(place.migrations, place.dialect)
    octets = "x'00ff'" if isinstance(place, SQLitePlace) else r"'\x00ff'::bytea"
    older(tmp_path, place, 2).migrate()
    place.change(_FIRST.format(numbers=_NUMBERS.format(many=32), octets=octets))
    first = rows(place, *_KEPT_FROM_THE_START)
    for done, migration in enumerate(migrations[1:], start=1):
        before, schema = rows(place, "job", "worker", *_KEPT_FROM_THE_START), place.schema()
        left = _killed_inside(place, tmp_path / f"killed-{migration.version}", monkeypatch)
        assert left.applied() == [each.name for each in migrations[:done]]
        assert rows(left, "job", "worker", *_KEPT_FROM_THE_START) == before
        assert left.schema() == schema
        assert_sound(left)
        older(tmp_path / "next", place, migration.version + 1).migrate()
        assert place.applied()[-1] == migration.name
        now = rows(place, *_KEPT_FROM_THE_START)
        for table, was in first.items():
            assert [{**new, **old} for old, new in zip(was, now[table], strict=True)] == now[table], (
                migration.name
            )
    assert place.schema() == _schema_of_a_new_one(place, tmp_path)


def _killed_inside(place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Let the next migration come as far as its last statement and no further; return what is left then.

    Of SQLite these are the files as they are at that moment, which is what a process that is killed leaves.
    """

    def die(name: str) -> None:
        if name != "migrate.inside":
            return
        if isinstance(place, SQLitePlace):
            folder.mkdir()
            for suffix in ("", "-wal"):
                shutil.copy(f"{place.path}{suffix}", folder)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(failpoint, "hit", die)
        with pytest.raises(Killed):
            place.migrate()
    if isinstance(place, SQLitePlace):
        return SQLitePlace(f"sqlite:///{folder / place.path.name}", place.migrations, "")
    return place


def _schema_of_a_new_one(place: Place, folder: Path) -> list[tuple[Any, ...]]:
    if not isinstance(place, SQLitePlace):
        return place.schema()  # names of constraints and all are compared with schema/postgres.sql
    other = SQLitePlace(f"sqlite:///{folder / 'new' / 'postroom.db'}", SCHEMA, "")
    other.migrate()
    return other.schema()


# What a process of the version before goes on with.
_OLD_CLAIM = "SELECT job.id FROM job WHERE job.account_id = 1 AND job.state = 'queued' AND job.held = 0"
_OLD_ACCEPTANCE = """
INSERT INTO acceptance (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at, in_doubt, mime, checksum,
                        forward_path, envelope_checksum)
VALUES ('new', 1, 'a', 'b', 1, 0, 1, NULL, x'00', 1, 'c', 1)
"""
_OLD_END = """
INSERT INTO conclusion (message_id, delivery_id, job_id, number, worker_id, started_at, finished_at, reply_code,
                        reply_enhanced, reply_text, detail)
SELECT 3, 3, id, 1, 1, 1, 2, 250, '', '', '' FROM job WHERE id = 3
"""
_OLD_ACCEPTANCE_ON_POSTGRES = """
WITH message AS (
    INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at)
    VALUES ('new', 1, 'a', 'b', 1, 0, 1) RETURNING id, account_id, accepted_at
)
INSERT INTO job (kind, account_id, message_id, due_at) SELECT 'delivery', account_id, id, accepted_at FROM message
"""
_OLD_STATEMENTS = {
    "sqlite": (_OLD_CLAIM, _OLD_ACCEPTANCE, _OLD_END),
    "postgres": (_OLD_CLAIM, _OLD_ACCEPTANCE_ON_POSTGRES),
}


def test_processes_of_the_version_before_neither_accept_nor_send_and_what_they_had_comes_back(
    place: Place, tmp_path: Path
) -> None:
    """They run while the database is upgraded; their statements are prepared."""
    fill(place, tmp_path, 16)
    with closing(Store(place.engine())) as store, _connection_of_before(place) as old:
        place.migrate()
        before = rows(place, *_TABLES)
        for statement in _OLD_STATEMENTS[place.dialect]:
            with pytest.raises(Exception, match=r"no such (table|column)|no column named|account_id"):
                old.execute(statement)
        with pytest.raises(LeaseLost):  # nothing leaves without it
            store.write(Queue.mark_dot, _claim_of(2, 1002), NOW)
        with pytest.raises(WorkerExpired):
            store.write(Workers.hold_alive, 1)
        assert not store.write(Workers.renew_lease, 1, NOW + 60 * SECOND), "so it ends"
        assert rows(place, *_TABLES) == before
        store.write(Queue.mark_dot, _claim_of(3, 1003), NOW)  # its dot was out: it may record the answer
        assert store.read(Recovery.gone_with_hands_full) == [1]
        assert Reaper(store, lambda: NOW, InDoubtPolicy.HOLD).look_behind() == 4
        found = place.query("SELECT id, state, held FROM job WHERE id % 8 IN (2, 3) ORDER BY id")
        assert found == [(2, "queued", 0), (3, "queued", 1), (10, "queued", 0), (11, "queued", 1)]
        assert place.query("SELECT count(*) FROM connection") == [(0,)]
        worker = store.write(_register)
        store.migrate()
        assert store.write(Workers.renew_lease, worker, NOW + 60 * SECOND), "one of this version goes on"


@contextmanager
def _connection_of_before(place: Place) -> Iterator[Any]:
    """Return a connection of the driver's that has read the schema."""
    if isinstance(place, SQLitePlace):
        with closing(apsw.Connection(str(place.path))) as connection:
            assert connection.execute(_OLD_CLAIM).fetchall()
            yield connection
        return
    with psycopg.connect(place.url, autocommit=True, prepare_threshold=0) as session:
        assert session.execute(_OLD_CLAIM).fetchall()
        yield session


def _register(transaction: Transaction) -> int:
    return transaction.workers.register(
        host="here", pid=2, lock_file="new.lock", now=NOW, lease_until=NOW + 1
    )


def _claim_of(job_id: int, token: int) -> JobRef:
    return JobRef(id=job_id, token=token, attempt=1, message_id=job_id, deliveries=())


def test_an_upgrade_that_fails_ends_no_worker(place: Place, tmp_path: Path) -> None:
    fill(place, tmp_path, 16)
    broken = Path(shutil.copytree(place.migrations, tmp_path / "broken"))
    (broken / "0015_words_that_grow.sql").write_text("CREATE TABLE nonsense (;")
    with pytest.raises(StoreError), closing(Store(type(place)(place.url, broken, "").engine())) as store:
        store.migrate()
    assert place.query("SELECT gone_at FROM worker") == [(None,)]


def test_an_upgrade_meets_a_transaction_of_a_process_of_before_without_a_deadlock(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    name = postgres_server.create_database()
    place = PostgresPlace(postgres_server.url(name), SCHEMA, "")
    fill(place, tmp_path, 16)
    with psycopg.connect(place.url) as old, ThreadPoolExecutor(1) as threads:
        old.execute("SELECT 1 FROM worker")  # which the upgrade is to change later than the attempts
        migrated = threads.submit(place.migrate)
        waits = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'"
        eventually(lambda: place.query(waits), 20, "the upgrade to wait for the table")
        old.execute("SELECT 1 FROM attempt")
        old.execute("INSERT INTO setting (name, value) VALUES ('went', 'on')")
        old.commit()
        assert migrated.result()
    assert place.query("SELECT value FROM setting WHERE name = 'went'") == [("on",)]
    postgres_server.drop_database(name)
