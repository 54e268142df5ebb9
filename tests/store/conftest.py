"""Fixtures for every engine's store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from postroom.store.postgres import readers
from postroom.store.store import Store
from tests.servers.postgres import Postgres
from tests.store.database import Database, Post, PostgresPool, SQLiteDatabase

ENGINES = ("sqlite", "postgres")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what needs a database on every engine, or on the one that it is marked for: `@pytest.mark.only("sqlite")`."""
    if "engine" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("only")
        metafunc.parametrize("engine", mark.args if mark else ENGINES, scope="function")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file that is up to date, to copy."""
    database = SQLiteDatabase(tmp_path_factory.mktemp("template"))
    store = database.open_hasty()
    store.migrate()
    store.close()
    return database.path


@pytest.fixture(scope="session")
def postgres_pool(postgres_server: Postgres) -> Iterator[PostgresPool]:
    """Databases on the session's server that are up to date and empty."""
    with closing(PostgresPool(postgres_server)) as pool:
        yield pool


@pytest.fixture(autouse=True)
def borrow_within_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a reader wait for its session: two seconds are short where every core of the machine is wanted by many.

    A test that is about this limit undoes it: `monkeypatch.undo()`.
    """
    monkeypatch.setattr(readers, "_BORROW_WITHIN_S", 20.0)


@pytest.fixture
def database(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database of the engine that is up to date and empty."""
    if engine == "sqlite":
        yield SQLiteDatabase(tmp_path, request.getfixturevalue("sqlite_template"))
        return
    pool: PostgresPool = request.getfixturevalue("postgres_pool")
    with pool.lend() as database:
        yield database


@pytest.fixture
def sqlite(database: Database) -> SQLiteDatabase:
    """The database of a test that is marked for SQLite."""
    assert isinstance(database, SQLiteDatabase)
    return database


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """A store on the database."""
    store = database.open_hasty()
    yield store
    store.close()


@pytest.fixture
def post(store: Store, database: Database) -> Post:
    """The store with Anna's account and one worker."""
    return Post(store, database)
