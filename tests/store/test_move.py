"""Moving from SQLite to PostgreSQL: everything, once, or a clear refusal."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from postroom.accounts.csv_sync import AccountsFile
from postroom.accounts.vault import Vault
from postroom.cli.main import cli
from postroom.core import failpoint, pace
from postroom.core.account import Secret
from postroom.core.errors import ConfigError, StoreDamaged, StoreError
from postroom.core.message import InDoubtPolicy
from postroom.core.stored_text import PIECE
from postroom.settings import Settings
from postroom.store import move
from postroom.store.accounts import Accounts
from postroom.store.log_lines import LogLines
from postroom.store.messages import Messages
from postroom.store.pieces import accept_message
from postroom.store.settings import StoredSettings
from postroom.store.store import Store, open_store
from postroom.store.transaction import Transaction
from postroom.store.workers import Workers
from postroom.store.writer import Work
from postroom.web.app import create_app
from tests.servers.installation import KEY, ROOT
from tests.servers.postgres import Postgres
from tests.store.database import (
    DEFERRED,
    FAILED,
    FAR,
    IN_DOUBT,
    NOW,
    SENT,
    TABLES,
    Post,
    PostgresDatabase,
    SQLiteDatabase,
    accepting,
    new_message,
)

MAILS = int(os.environ.get("POSTROOM_MOVED_MAILS", "3000"))


@pytest.fixture
def house(tmp_path: Path) -> SQLiteDatabase:
    """A database in which a bit of everything has happened."""
    database = SQLiteDatabase(tmp_path)
    store = database.open_hasty()
    store.migrate()
    live_in(Post(store, database))
    store.close()
    return database


# Of tables in which nothing is written by sending.
_KEYS_AND_POOLS = (
    "INSERT INTO account_alias VALUES (1, 'sales@example.com', 7, 'admin')",
    (
        "INSERT INTO oauth_grant VALUES "
        "(1, 'google', 'refresh_token', 'https://t', 'id', NULL, 'mail', x'01', NULL, NULL, NULL, NULL, 7, 7)"
    ),
    "INSERT INTO pool VALUES (1, 'p', 'newsletters', 7, 7, NULL, 1)",
    "INSERT INTO pool_member VALUES (1, 1, 3)",
    (
        "INSERT INTO issued_key (id, uid, digest, name, pool_id, scopes, hint, source, created_at) "
        "VALUES (1, 'k', x'00ff', 'shop', 1, 'send read', 'abcd', 'api', 7)"
    ),
    "INSERT INTO issued_key_usage VALUES (1, 7, 3)",
    "INSERT INTO stopped_key VALUES (1, 7)",
    "INSERT INTO audit VALUES (1, 7, 'admin token', '127.0.0.1', 'key.issue', 'shop', '{}', 0)",
    "INSERT INTO finding VALUES (1, 7, '[]')",
    "INSERT INTO counter VALUES ('attempts', 'sent', 7)",
    "INSERT INTO listed VALUES (1, -7, 1)",
    "INSERT INTO listed_block VALUES (0, 7, 8)",
    "INSERT INTO daily_count VALUES (7, 1, 'sent', 0, 3)",
    "INSERT INTO notice VALUES ('paused', '1', 7, 8, 9, 1, 9, NULL, 'n', '{}')",
    "INSERT INTO notice_to_send VALUES ('n', '{}', '[]')",
    "INSERT INTO notice_message VALUES ('r')",
    "INSERT INTO notice_memory VALUES (1, 'h', 7, '{}')",
)
# Columns that sending in a test leaves empty.
_LOOKS = {
    "attempt": "phase = 'RCPT', dialogue = '0 C: RCPT TO:<bob@example.org>'",
    "message": "traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'",
    "account": "hold = 1, confined = 1",
    "worker": "crashed = 0",
    "notice": "ended_at = 9",
}


def live_in(post: Post) -> None:
    berta = post.add_account("berta@example.com")
    post.store.write(lambda t: t.keys.grant(berta, b"\x00\xff digest", source="csv", now=NOW))
    post.store.write(lambda t: t.settings.set("a name", "a value"))
    for outcome in (SENT, DEFERRED, FAILED, IN_DOUBT):
        post.add("bob@example.org", "dörte@example.org")
        post.finish(post.claim_one(), outcome, SENT, policy=InDoubtPolicy.HOLD)
    post.add()
    [job] = post.claim(daily_limit=10)
    post.finish(job, FAILED)
    post.accept(new_message(post.anna, key="a key", fingerprint=b"\x01\x00"))
    post.mark_dot(post.claim_one())
    accept_message(replace(new_message(post.anna), mime=b"x" * (PIECE + 1)), post.store.write)
    for number, octets in enumerate((b"first", b"second")):
        post.store.write(partial(_add_piece, number=number, octets=octets))
    post.store.write(
        lambda t: t.connections.take(post.anna, post.worker, most=2, logins_per_minute=None, now=NOW)
    )
    post.store.write(
        lambda t: t.pace.slow(berta, pace.first(1, NOW, NOW), reason="too fast", tried_at=NOW, now=NOW)
    )
    lines = [line.message_id for line in post.store.read(LogLines.unwritten, 2)]
    post.store.write(lambda t: t.log_lines.begin_batch(start=5, messages=lines, writer="somebody"))
    post.database.change("UPDATE event SET detail = 'a ' || char(0) || ' in it' WHERE id = 1")
    for statement in _KEYS_AND_POOLS:
        post.database.change(statement)
    for table, values in _LOOKS.items():
        post.database.change(f"UPDATE {table} SET {values}")


def _add_piece(transaction: Transaction, number: int, octets: bytes) -> None:
    transaction.contents.add_piece(1 << 61, number=number, octets=octets, now=NOW)


@pytest.fixture
def new_house(postgres_server: Postgres) -> Iterator[PostgresDatabase]:
    name = postgres_server.create_database()
    with closing(PostgresDatabase(postgres_server, name)) as database:
        yield database
    postgres_server.drop_database(name)


def by_name(database: SQLiteDatabase | PostgresDatabase) -> dict[str, list[dict[str, object]]]:
    """Return every row of every table with its columns' names, whatever their order."""
    return {
        table: sorted(
            (
                dict(zip(database.columns(table), row, strict=True))
                for row in database.rows(f"SELECT * FROM {table}")
            ),
            key=repr,
        )
        for table in TABLES
    }


def moved(house: SQLiteDatabase, new_house: PostgresDatabase) -> move.Moved:
    return move.move(house.path, new_house.url, progress=lambda step, done, total: None)


def without_marks(rows: dict[str, list[dict[str, object]]]) -> dict[str, list[dict[str, object]]]:
    kept = [row for row in rows["setting"] if row["name"] != "moved_to"]
    for row in rows["event"]:
        if "\0" in str(row["detail"]):
            row["detail"] = str(row["detail"]).replace("\0", "\\x00")
    return {**rows, "setting": kept}


class TestAMove:
    def test_takes_everything_along(self, house: SQLiteDatabase, new_house: PostgresDatabase) -> None:
        counted = moved(house, new_house)
        before, after = without_marks(by_name(house)), by_name(new_house)
        assert {name for name, rows in before.items() if rows} == set(TABLES), "there is a bit of everything"
        for table in TABLES:
            assert [sorted(row.items()) for row in after[table]] == [
                sorted(row.items()) for row in before[table]
            ]
        assert counted.rows == {table: len(rows) for table, rows in before.items()}

    def test_can_be_lived_in_at_once(self, house: SQLiteDatabase, new_house: PostgresDatabase) -> None:
        moved(house, new_house)
        store = new_house.open()
        store.check_schema()
        anna = store.read(Accounts.all)[0].account.id
        for message in (new_message(anna), new_message(anna)):
            store.write(accepting(message))
            assert str(store.read(Messages.status, message.request_id)) == "queued"
        [worker] = store.read(Workers.living)
        assert store.write(lambda t: t.recovery.reap(worker.id, now=NOW, in_doubt=InDoubtPolicy.RETRY)) == 1
        store.close()

    def test_shows_how_far_it_has_come(self, house: SQLiteDatabase, new_house: PostgresDatabase) -> None:
        steps: list[tuple[str, int, int]] = []
        move.move(house.path, new_house.url, progress=lambda *step: steps.append(step))
        for name in ("copy", "compare"):
            done = [step[1] for step in steps if step[0] == name]
            assert done == sorted(done)
            assert {step[2] for step in steps if step[0] == name} == {done[-1]}

    def test_holds_a_few_large_mails_in_memory_at_once(
        self, house: SQLiteDatabase, new_house: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(move, "_CHUNK_BYTES", 2_000_000)
        store = house.open_hasty()
        anna = store.read(Accounts.all)[0].account.id
        store.write_all([accepting(new_message(anna, size=1_000_000)) for _ in range(20)])
        store.close()
        tracemalloc.start()
        try:
            moved(house, new_house)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 10_000_000, "half of what they are together"

    def test_that_found_a_difference_says_so(
        self, house: SQLiteDatabase, new_house: PostgresDatabase
    ) -> None:
        def tamper(step: str, done: int, total: int) -> None:
            if step == "copy" and done == total:
                new_house.change("UPDATE delivery SET forward_path = 'eve@example.org' WHERE id = 1")

        with pytest.raises(StoreDamaged, match="delivery is not the same"):
            move.move(house.path, new_house.url, progress=tamper)


class TestARefusal:
    def test_of_a_house_that_is_lived_in(self, house: SQLiteDatabase, new_house: PostgresDatabase) -> None:
        store = new_house.open()
        store.migrate()
        Post(store, new_house)
        before = new_house.contents()
        with pytest.raises(ConfigError, match="is not empty"):
            moved(house, new_house)
        assert new_house.contents() == before
        assert house.open().read(StoredSettings.get, "moved_to") is None
        store.close()

    def test_of_a_house_in_which_a_command_was_run(
        self, house: SQLiteDatabase, new_house: PostgresDatabase
    ) -> None:
        """Any command leaves the secret key's fingerprint there, and reading data.csv its digest."""
        store = new_house.open()
        store.migrate()
        store.write(lambda t: t.settings.set("vault", "a fingerprint"))
        store.close()
        with pytest.raises(ConfigError, match=r"is not empty \(there is something in setting\)"):
            moved(house, new_house)
        assert house.open().read(StoredSettings.get, "moved_to") is None
        new_house.change("DELETE FROM setting")
        moved(house, new_house)

    def test_of_a_second_move(
        self, house: SQLiteDatabase, new_house: PostgresDatabase, postgres_server: Postgres
    ) -> None:
        moved(house, new_house)
        with pytest.raises(ConfigError, match="is not empty"):
            moved(house, new_house)
        with (
            closing(PostgresDatabase(postgres_server, postgres_server.create_database())) as other,
            pytest.raises(ConfigError, match="was moved to"),
        ):
            moved(house, other)

    def test_of_a_house_whose_worker_is_at_work(
        self, house: SQLiteDatabase, new_house: PostgresDatabase, tmp_path: Path
    ) -> None:
        lock, store = tmp_path / "worker.lock", house.open()
        store.write(
            lambda t: t.workers.register(host="here", pid=4711, lock_file=str(lock), now=NOW, lease_until=NOW)
        )
        with lock.open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(ConfigError, match=r"is running on .* 4711"):
                moved(house, new_house)
        assert store.read(StoredSettings.get, "moved_to") is None
        store.close()
        moved(house, new_house)

    def test_of_nothing(self, tmp_path: Path, new_house: PostgresDatabase) -> None:
        with pytest.raises(ConfigError, match="there is no database"):
            move.move(tmp_path / "none.db", new_house.url, progress=lambda *_: None)


def many(folder: Path) -> SQLiteDatabase:
    database = SQLiteDatabase(folder)
    store = database.open_hasty()
    store.migrate()
    post = Post(store, database)
    for first in range(0, MAILS, 500):
        store.write_all(
            [accepting(new_message(post.anna, at=NOW + first + n)) for n in range(min(500, MAILS - first))]
        )
    store.close()
    return database


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_move_that_is_killed_goes_on_where_it_was(tmp_path: Path, new_house: PostgresDatabase) -> None:
    house = many(tmp_path)
    command = [sys.executable, "-m", "postroom", "migrate-store", str(house.path), new_house.url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    chunk = 2 + MAILS // 10_000  # the accounts are the first, and half of the mails follow
    armed = {**environment, failpoint.VARIABLE: f"move.copied:{chunk}:{tmp_path / 'deaths'}"}
    killed = subprocess.run(command, env=armed, cwd=tmp_path, capture_output=True, check=False)
    assert killed.returncode == -9, "it was in the midst of it"
    assert 0 < new_house.value("SELECT count(*) FROM message") <= MAILS
    half = new_house.value("SELECT count(*) FROM event")
    refused = subprocess.run(
        [sys.executable, "-m", "postroom", "status", "none"],
        env={**environment, "DATABASE_URL": new_house.url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 78
    assert "not complete" in refused.stderr
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"message: {MAILS}\n" in done.stdout
    assert new_house.value("SELECT count(*) FROM event") == MAILS >= half
    refused = subprocess.run(
        [sys.executable, "-m", "postroom", "status", "none"],
        env={**environment, "DATABASE_URL": house.url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "was moved to" in refused.stderr


class TestWhoIsStillThere:
    """Processes that opened the old database before it was moved, and know nothing of it."""

    def test_can_do_nothing_until_the_move_is_taken_back(
        self, house: SQLiteDatabase, new_house: PostgresDatabase
    ) -> None:
        store = house.open()
        [anna, *_] = store.read(Accounts.all)
        works: list[Work[Any]] = [
            accepting(new_message(anna.account.id)),
            lambda t: t.workers.register(host="h", pid=1, lock_file="l", now=NOW, lease_until=NOW),
            lambda t: t.queue.claim(account_id=anna.account.id, worker_id=1, most=1, most_bytes=1, now=FAR),
        ]
        moved(house, new_house)
        for result in store.write_all(works):
            with pytest.raises(StoreError, match=f"it was moved to .*{new_house.name}"):
                result.unwrap()
        assert move.cancel(house.path)
        accepted, _, claimed = [result.unwrap() for result in store.write_all(works)]
        assert accepted.request_id
        assert len(claimed) == 1
        store.close()

    def test_a_web_process_answers_503_and_keeps_nothing(
        self, house: SQLiteDatabase, new_house: PostgresDatabase, tmp_path: Path
    ) -> None:
        (tmp_path / "data.csv").write_text(f"key,email,app_password,host\n{KEY},web@example.com,,inbox\n")
        settings, vault = Settings(rate_limit=""), Vault((Secret("a-secret-key"),))
        with closing(house.open()) as store:
            AccountsFile(store, vault, tmp_path / "data.csv").sync()
            web = create_app(settings, store, vault).test_client()
            before = post(web)
            command(house, new_house.url)
            refused = post(web)
            kept = house.value("SELECT count(*) FROM message")
            command(house, "--cancel")
            after = post(web)
        assert [before, refused, after] == [202, 503, 202]
        assert new_house.value("SELECT count(*) FROM message") == kept
        assert house.value("SELECT count(*) FROM message") == kept + 1


def command(house: SQLiteDatabase, *arguments: str) -> None:
    """Run `postroom migrate-store` in this process."""
    done = CliRunner().invoke(cli, ["migrate-store", str(house.path), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def post(web: FlaskClient) -> int:
    document = {"subject": "A subject", "recipient": "you@postroom.example", "body": "A body", "key": KEY}
    return web.post("/send-email", json=document).status_code


def test_a_move_can_be_taken_back(house: SQLiteDatabase, new_house: PostgresDatabase) -> None:
    moved(house, new_house)
    assert move.cancel(house.path)
    assert not move.cancel(house.path)
    store: Store = open_store(house.url)
    assert store.read(StoredSettings.get, "moved_to") is None
    store.close()
