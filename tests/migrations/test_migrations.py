"""Migrations: once, whole, by one of many; and databases that are left alone."""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, ClassVar

import apsw
import psycopg
import pytest

from postroom.core.errors import SchemaMismatch, StoreDamaged, StoreError
from postroom.runtime.installation import note_servers
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.dialect import Dialect
from postroom.store.engine import Engine
from postroom.store.log_lines import LogLines
from postroom.store.migrate import SCHEMA, load_migrations
from postroom.store.postgres.engine import PostgresEngine
from postroom.store.settings import StoredSettings
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.store import Store, open_store
from tests.children import CHILDREN
from tests.servers.postgres import Postgres
from tests.servers.waiting import eventually


@dataclass(frozen=True)
class Place(ABC):
    """Where a database is, or is to be, and the migrations for it; it can be handed to another process."""

    url: str
    migrations: Path
    endless: str  # a migration that is under way for long enough to be killed
    dialect: ClassVar[Dialect]

    @property
    def names(self) -> list[str]:
        return [migration.name for migration in load_migrations(self.migrations, self.dialect)]

    @abstractmethod
    def engine(self) -> Engine: ...

    @abstractmethod
    def query(self, sql: str) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def schema(self) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def contents(self) -> object:
        """Return whatever shows that nothing was changed."""

    @abstractmethod
    def is_under_way(self) -> bool:
        """Whether the endless migration has begun."""

    @abstractmethod
    def change(self, sql: str) -> None: ...

    def applied(self) -> list[str]:
        return [row[0] for row in self.query("SELECT name FROM schema_migration ORDER BY version")]

    def migrate(self) -> list[str]:
        store = Store(self.engine())
        try:
            return store.migrate()
        finally:
            store.close()


class SQLitePlace(Place):
    dialect = "sqlite"

    @property
    def path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    def engine(self) -> Engine:
        return SQLiteEngine(self.path, migrations=self.migrations)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return _query(self.path, sql)

    def schema(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")

    def change(self, sql: str) -> None:
        with closing(apsw.Connection(str(self.path))) as connection:
            connection.execute(sql)

    def contents(self) -> bytes:
        return self.path.read_bytes()

    def is_under_way(self) -> bool:
        log = self.path.with_name(f"{self.path.name}-wal")
        return log.exists() and log.stat().st_size > 1_000_000


class PostgresPlace(Place):
    dialect = "postgres"

    def change(self, sql: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.encode())

    def engine(self) -> Engine:
        return PostgresEngine(self.url, migrations=self.migrations)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()

    def schema(self) -> list[tuple[Any, ...]]:
        columns = self.query(
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = 'public' ORDER BY 1, 2"
        )
        return columns + self.query(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
        )

    def contents(self) -> object:
        return self.schema(), self.query("SELECT * FROM schema_migration ORDER BY version")

    def is_under_way(self) -> bool:
        return bool(
            self.query(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
            )
        )


ENDLESS = """
CREATE TABLE filled (id INTEGER PRIMARY KEY, filling BLOB);
WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number)
INSERT INTO filled SELECT n, zeroblob(4000) FROM number;
"""
# Not as endless: a server goes on with a statement after its client was killed.
SLEEPING = "CREATE TABLE filled (id INTEGER); SELECT pg_sleep(2);"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "postroom.db"


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, path: Path) -> Iterator[Place]:
    """An empty database of each engine in turn."""
    if request.param == "sqlite":
        yield SQLitePlace(f"sqlite:///{path}", SCHEMA, ENDLESS)
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = server.create_database()
    yield PostgresPlace(server.url(name), SCHEMA, SLEEPING)
    server.drop_database(name)


@pytest.fixture
def newer(place: Place, tmp_path: Path) -> Place:
    """The same database, and a copy of the real migrations to add to."""
    folder = Path(shutil.copytree(place.migrations, tmp_path / "migrations"))
    return replace(place, migrations=folder)


def add(newer: Place, place: Place, sql: str) -> str:
    """Write the migration that comes after the real ones; return its name."""
    last = load_migrations(place.migrations, place.dialect)[-1]
    name = f"{last.version + 1:04d}_second"
    (newer.migrations / f"{name}.sql").write_text(sql)
    return name


def older(folder: Path, place: Place, before: int) -> Place:
    """Return the same database, with those migrations alone that come before a number."""
    copy = Path(shutil.copytree(place.migrations, folder / f"before-{before}"))
    for script in (*copy.glob("0*.sql"), *(copy / place.dialect).glob("*.sql")):
        if int(script.name[:4]) >= before:
            script.unlink()
    return replace(place, migrations=copy)


def _query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = apsw.Connection(str(path))
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def _migrate(path: Path) -> None:
    SQLitePlace(f"sqlite:///{path}", SCHEMA, ENDLESS).migrate()


def _migrate_together(place: Place, together: Barrier) -> None:
    together.wait(60)
    place.migrate()


class TestMigrating:
    def test_a_new_database_applies_all(self, place: Place) -> None:
        assert place.migrate() == place.names == place.applied()

    def test_again_changes_nothing(self, place: Place) -> None:
        place.migrate()
        before = place.contents()
        assert place.migrate() == []
        assert place.contents() == before

    def test_applies_only_what_is_new(self, place: Place, newer: Place) -> None:
        place.migrate()
        second = add(newer, place, "CREATE TABLE a (id INTEGER); CREATE TABLE b (id INTEGER);")
        assert newer.migrate() == [second]
        assert newer.applied() == [*place.names, second]
        assert newer.query("SELECT count(*) FROM a, b") == [(0,)]

    def test_eight_processes_at_once_apply_each_once(self, place: Place) -> None:
        together = CHILDREN.Barrier(8)
        children = [CHILDREN.Process(target=_migrate_together, args=(place, together)) for _ in range(8)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0] * 8
        assert place.applied() == place.names

    def test_that_goes_wrong_half_way_leaves_nothing(self, place: Place, newer: Place) -> None:
        place.migrate()
        before = place.schema()
        add(newer, place, "CREATE TABLE a (id INTEGER); CREATE TABLE nonsense (;")
        with pytest.raises(StoreError, match="syntax error"):
            newer.migrate()
        assert (place.schema(), place.applied()) == (before, place.names)
        second = add(newer, place, "CREATE TABLE a (id INTEGER);")
        assert newer.migrate() == [second]

    def test_that_is_killed_half_way_leaves_nothing(self, place: Place, newer: Place) -> None:
        place.migrate()
        before = place.schema()
        add(newer, place, place.endless)
        child = CHILDREN.Process(target=newer.migrate)
        child.start()
        try:
            eventually(place.is_under_way)
        finally:
            child.kill()
            child.join(60)
        assert child.exitcode == -9
        assert (place.schema(), place.applied()) == (before, place.names)
        if isinstance(place, SQLitePlace):
            assert place.query("PRAGMA integrity_check") == [("ok",)]
        second = add(newer, place, "CREATE TABLE a (id INTEGER);")
        assert newer.migrate() == [second]

    def test_numbers_run_without_a_gap(self, newer: Place) -> None:
        (newer.migrations / "0099_late.sql").write_text("CREATE TABLE a (id INTEGER);")
        with pytest.raises(AssertionError):
            load_migrations(newer.migrations, newer.dialect)

    def test_own_numbers_run_without_a_gap(self, newer: Place) -> None:
        (newer.migrations / newer.dialect / "0003_more.sql").write_text("CREATE TABLE a (id INTEGER);")
        with pytest.raises(AssertionError):
            load_migrations(newer.migrations, newer.dialect)


class TestALog:
    def test_that_was_interrupted_before_an_update_is_gone_on_with_after_it(
        self, path: Path, tmp_path: Path
    ) -> None:
        """Up to schema 5 lines had numbers that were never used again; the order in a batch is the file's."""
        older(tmp_path, SQLitePlace(f"sqlite:///{path}", SCHEMA, ENDLESS), 6).migrate()
        with closing(apsw.Connection(str(path))) as connection:
            connection.execute(_FINISHED_IN_ANOTHER_ORDER)
        store = open_store(f"sqlite:///{path}")
        store.migrate()
        batch = store.read(LogLines.open_batch, "me")
        assert batch is not None
        assert (batch.start, [line.request_id for line in batch.lines]) == (77, ["third", "first"])
        assert [line.request_id for line in store.read(LogLines.unwritten, 9)] == ["fourth", "second"]
        store.close()


class TestCheaperChecks:
    """Schema 13 puts the conditions of five tables into other words, where they stand."""

    TABLES = ("message", "delivery", "job", "attempt", "job_count")

    def test_refuse_what_they_refused_and_keep_what_is_there(self, path: Path, tmp_path: Path) -> None:
        place = older(tmp_path, SQLitePlace(f"sqlite:///{path}", SCHEMA, ENDLESS), 13)
        place.migrate()
        place.change(_FINISHED_IN_ANOTHER_ORDER + _COUNTED)
        rows = [place.query(f"SELECT * FROM {table}") for table in self.TABLES]
        with closing(apsw.Connection(str(path))) as other:
            _assert_refused(other)
            older(tmp_path, replace(place, migrations=SCHEMA), 15).migrate()
            _assert_refused(other)  # it has read the old schema
        assert place.query("PRAGMA integrity_check") == [("ok",)]
        assert [place.query(f"SELECT * FROM {table}") for table in self.TABLES] == rows

    def test_make_no_table_of_their_values(self, path: Path) -> None:
        _migrate(path)
        for name, sql in _query(path, "SELECT name, sql FROM sqlite_schema WHERE type = 'table'"):
            for values in re.findall(r"IN \(([^)]*)\)", sql):
                assert values.count(",") < 2 or name == "account", f"{name}: {values}"


def _assert_refused(connection: apsw.Connection) -> None:
    for wrong in (
        "job SET state = 'x'",
        "job SET state = 'queued'",
        "job SET finished_at = NULL",
        "delivery SET state = 'x'",
        "attempt SET outcome = 'x'",
        "message SET in_doubt = 'x'",
        "job_count SET state = 'x'",
    ):
        with pytest.raises(apsw.ConstraintError, match="CHECK"):
            connection.execute(f"UPDATE {wrong}")


class TestAServerThatNobodyNamed:
    """Up to here an account of a domain that no preset knew sent through Gmail, unless POSTROOM_SMTP_HOST was set."""

    @pytest.mark.parametrize("named", [None, "relay.example"])
    def test_is_kept_by_an_account_that_has_worked(
        self, place: Place, tmp_path: Path, named: str | None
    ) -> None:
        [new] = (place.migrations / place.dialect).glob("*_servers_that_worked.sql")
        older(tmp_path, place, int(new.name[:4])).migrate()
        store = Store(place.engine())
        try:
            self._add_accounts(place)
            store.migrate()
            note_servers(store, Settings(smtp_host=named))
            kept = {stored.account.email: stored.account.worked_with for stored in store.read(Accounts.all)}
        finally:
            store.close()
        assert kept == {
            "worked@corp.example": None if named else "smtp.gmail.com",
            "never@corp.example": None,
            "preset@gmail.com": None,
            "named@corp.example": None,
        }

    @staticmethod
    def _add_accounts(place: Place) -> None:
        place.change(
            "INSERT INTO account (email, host, source, created_at, updated_at, worked_at) VALUES "
            "('worked@corp.example', NULL, 'csv', 1, 1, 1), ('never@corp.example', NULL, 'csv', 1, 1, NULL), "
            "('preset@gmail.com', NULL, 'csv', 1, 1, 1), ('named@corp.example', 'mail.example', 'csv', 1, 1, 1)"
        )


_FINISHED_IN_ANOTHER_ORDER = """
INSERT INTO account (id, email, source, created_at, updated_at) VALUES (1, 'anna@example.com', 'csv', 1, 1);
INSERT INTO message (id, request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at)
SELECT key + 1, value, 1, 'anna@example.com', 'Hello', 9, 0, 1
FROM json_each('["first", "second", "third", "fourth"]');
INSERT INTO delivery (message_id, forward_path, state, finished_at)
SELECT id, 'bob@example.org', 'sent', 2 FROM message;
INSERT INTO job (kind, account_id, message_id, state, due_at, finished_at)
SELECT 'delivery', 1, id, 'done', 1, 2 FROM message;
INSERT INTO log_batch (id, start, writer) VALUES (8, 77, 'me');
INSERT INTO log_line (id, message_id, batch) VALUES (3, 3, 8), (4, 1, 8), (5, 4, NULL), (6, 2, NULL);
"""
_COUNTED = """
INSERT INTO job_count VALUES (1, 'done', 4);
INSERT INTO attempt (job_id, number, worker_id, started_at, finished_at, outcome) SELECT id, 1, 1, 1, 2, 'sent' FROM job;
"""


class TestMismatch:
    def test_an_empty_database_says_what_to_do(self, place: Place) -> None:
        store = open_store(place.url)
        with pytest.raises(SchemaMismatch, match="run `postroom migrate`"):
            store.check_schema()
        store.close()

    def test_an_older_database_says_what_to_do(self, place: Place, newer: Place) -> None:
        place.migrate()
        add(newer, place, "CREATE TABLE a (id INTEGER);")
        store = Store(newer.engine())
        with pytest.raises(SchemaMismatch, match="run `postroom migrate`"):
            store.check_schema()
        store.close()

    @pytest.mark.parametrize("call", ["migrate", "check_schema"])
    def test_a_newer_database_is_refused(self, place: Place, newer: Place, call: str) -> None:
        add(newer, place, "CREATE TABLE a (id INTEGER);")
        newer.migrate()
        before = place.schema()
        store = open_store(place.url)
        with pytest.raises(SchemaMismatch, match="update Postroom"):
            getattr(store, call)()
        store.close()
        assert place.schema() == before

    @pytest.mark.parametrize("call", ["migrate", "check_schema"])
    def test_another_migration_of_the_same_number_is_refused(
        self, place: Place, newer: Place, call: str
    ) -> None:
        place.migrate()
        first = newer.migrations / place.dialect / f"{place.names[0]}.sql"
        first.write_text(first.read_text() + "\nCREATE TABLE a (id INTEGER);\n")
        before = place.schema()
        store = Store(newer.engine())
        with pytest.raises(SchemaMismatch, match="do not belong together"):
            getattr(store, call)()
        store.close()
        assert place.schema() == before


class TestDamage:
    def test_a_file_that_is_no_database_is_left_alone(self, path: Path) -> None:
        garbage = b"This is my shopping list. " * 500
        path.write_bytes(garbage)
        with pytest.raises(StoreDamaged, match="nothing was changed"):
            open_store(f"sqlite:///{path}")
        assert path.read_bytes() == garbage

    def test_a_damaged_schema_is_left_alone(self, path: Path) -> None:
        _migrate(path)
        self._spoil(path, 100)
        spoilt = path.read_bytes()
        with pytest.raises(StoreDamaged, match="nothing was changed"):  # noqa: PT012
            store = open_store(f"sqlite:///{path}")
            try:
                store.check_schema()
            finally:
                store.close()
        assert path.read_bytes() == spoilt

    def test_a_damaged_table_is_left_alone_by_readers_and_writers(self, path: Path) -> None:
        _migrate(path)
        root, size = self._table(path, "setting")
        self._spoil(path, (root - 1) * size)
        spoilt = path.read_bytes()
        store = open_store(f"sqlite:///{path}")
        store.check_schema()
        with pytest.raises(StoreDamaged):
            store.read(StoredSettings.get, "anything")
        settled = store.write_all(
            [lambda t: t.settings.set("a", "b"), lambda t: t.keys.revoke_except([], source="csv", now=1)]
        )
        assert [type(result.error) for result in settled] == [StoreDamaged] * 2
        store.close()
        assert path.read_bytes() == spoilt

    @staticmethod
    def _table(path: Path, name: str) -> tuple[int, int]:
        [(root,)] = _query(path, f"SELECT rootpage FROM sqlite_schema WHERE name = '{name}'")
        [(size,)] = _query(path, "PRAGMA page_size")
        return root, size

    @staticmethod
    def _spoil(path: Path, at: int) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"\xa5" * 16)
