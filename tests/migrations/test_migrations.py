"""Migrations: once, whole, by one of many; and databases that are left alone."""

from __future__ import annotations

import multiprocessing
import re
import shutil
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import apsw
import pytest

from postroom.errors import SchemaMismatch, StoreDamaged, StoreError
from postroom.store import Store, open_store
from postroom.store import migrate as migrate_module
from postroom.store.postgres import _TOGETHER
from postroom.store.sqlite import MIGRATIONS, SQLiteEngine
from tests.servers.waiting import eventually

SPAWN = multiprocessing.get_context("spawn")
NAMES = [path.stem for path in sorted(MIGRATIONS.glob("*.sql"))]
SECOND = f"{len(NAMES) + 1:04d}_second"
ENDLESS = """
CREATE TABLE filled (id INTEGER PRIMARY KEY, filling BLOB);
WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number)
INSERT INTO filled SELECT n, zeroblob(4000) FROM number;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "postroom.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the real migrations, to add to."""
    return Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))


def _query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = apsw.Connection(str(path))
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def _schema(path: Path) -> list[tuple[Any, ...]]:
    return _query(path, "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")


def _applied(path: Path) -> list[str]:
    return [row[0] for row in _query(path, "SELECT name FROM schema_migration ORDER BY version")]


def _migrate(path: Path, folder: Path = MIGRATIONS) -> list[str]:
    store = Store(SQLiteEngine(path, migrations=folder))
    try:
        return store.migrate()
    finally:
        store.close()


def _migrate_together(path: Path, together: Barrier) -> None:
    together.wait(30)
    _migrate(path)


class TestMigrating:
    def test_a_new_database_applies_all(self, path: Path) -> None:
        assert _migrate(path) == NAMES == _applied(path)

    def test_again_changes_nothing(self, path: Path) -> None:
        _migrate(path)
        before = path.read_bytes()
        assert _migrate(path) == []
        assert path.read_bytes() == before

    def test_applies_only_what_is_new(self, path: Path, folder: Path) -> None:
        _migrate(path)
        (folder / f"{SECOND}.sql").write_text("CREATE TABLE a (id INTEGER); CREATE TABLE b (id INTEGER);")
        assert _migrate(path, folder) == [SECOND]
        assert _applied(path) == [*NAMES, SECOND]
        assert {"a", "b"} <= {row[1] for row in _schema(path)}

    def test_eight_processes_at_once_apply_each_once(self, path: Path) -> None:
        together = SPAWN.Barrier(8)
        children = [SPAWN.Process(target=_migrate_together, args=(path, together)) for _ in range(8)]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
        assert [child.exitcode for child in children] == [0] * 8
        assert _applied(path) == NAMES

    def test_that_goes_wrong_half_way_leaves_nothing(self, path: Path, folder: Path) -> None:
        _migrate(path)
        before = _schema(path)
        second = folder / f"{SECOND}.sql"
        second.write_text("CREATE TABLE a (id INTEGER); CREATE TABLE nonsense (;")
        with pytest.raises(StoreError, match="syntax error"):
            _migrate(path, folder)
        assert (_schema(path), _applied(path)) == (before, NAMES)
        second.write_text("CREATE TABLE a (id INTEGER);")
        assert _migrate(path, folder) == [SECOND]

    def test_that_is_killed_half_way_leaves_nothing(self, path: Path, folder: Path) -> None:
        _migrate(path)
        before = _schema(path)
        second = folder / f"{SECOND}.sql"
        second.write_text(ENDLESS)
        child = SPAWN.Process(target=_migrate, args=(path, folder))
        child.start()
        log = path.with_name("postroom.db-wal")
        try:
            eventually(lambda: log.exists() and log.stat().st_size > 1_000_000)
        finally:
            child.kill()
            child.join(30)
        assert child.exitcode == -9
        assert (_schema(path), _applied(path)) == (before, NAMES)
        assert _query(path, "PRAGMA integrity_check") == [("ok",)]
        second.write_text("CREATE TABLE a (id INTEGER);")
        assert _migrate(path, folder) == [SECOND]

    def test_numbers_run_without_a_gap(self, folder: Path) -> None:
        (folder / "0099_late.sql").write_text("CREATE TABLE a (id INTEGER);")
        with pytest.raises(AssertionError):
            migrate_module.load_migrations(folder)


class TestMismatch:
    def test_an_empty_database_says_what_to_do(self, path: Path) -> None:
        store = open_store(f"sqlite:///{path}")
        with pytest.raises(SchemaMismatch, match="run `postroom migrate`"):
            store.check_schema()
        store.close()

    def test_an_older_database_says_what_to_do(self, path: Path, folder: Path) -> None:
        _migrate(path)
        (folder / f"{SECOND}.sql").write_text("CREATE TABLE a (id INTEGER);")
        store = Store(SQLiteEngine(path, migrations=folder))
        with pytest.raises(SchemaMismatch, match="run `postroom migrate`"):
            store.check_schema()
        store.close()

    @pytest.mark.parametrize("call", ["migrate", "check_schema"])
    def test_a_newer_database_is_refused(self, path: Path, folder: Path, call: str) -> None:
        (folder / f"{SECOND}.sql").write_text("CREATE TABLE a (id INTEGER);")
        _migrate(path, folder)
        before = _schema(path)
        store = open_store(f"sqlite:///{path}")
        with pytest.raises(SchemaMismatch, match="update Postroom"):
            getattr(store, call)()
        store.close()
        assert _schema(path) == before

    @pytest.mark.parametrize("call", ["migrate", "check_schema"])
    def test_another_migration_of_the_same_number_is_refused(
        self, path: Path, folder: Path, call: str
    ) -> None:
        _migrate(path)
        first = folder / f"{NAMES[0]}.sql"
        first.write_text(first.read_text() + "\nCREATE TABLE a (id INTEGER);\n")
        before = _schema(path)
        store = Store(SQLiteEngine(path, migrations=folder))
        with pytest.raises(SchemaMismatch, match="do not belong together"):
            getattr(store, call)()
        store.close()
        assert _schema(path) == before


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
            store.setting("anything")
        settled = store.write_all(
            [lambda t: t.set_setting("a", "b"), lambda t: t.revoke_keys_except([], source="csv", now=1)]
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


class TestQueries:
    @pytest.mark.parametrize("engine", ["sqlite", "postgres"])
    def test_are_all_used_and_all_there(self, engine: str) -> None:
        folder = MIGRATIONS.parents[1]
        text = (folder / "queries.sql").read_text() + (folder / f"{engine}.sql").read_text()
        named = re.findall(r"^-- name: (\w+)", text, re.MULTILINE)
        code = "".join(path.read_text() for path in folder.glob("*.py"))
        used = re.findall(r"\b_?q\.(\w+)\(", code)
        if engine == "postgres":
            used += [f"{name}_many" for name in _TOGETHER]
        assert len(named) == len(set(named))
        assert set(named) == set(used)
