"""Fixtures for every engine's store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.store import Store, open_store
from tests.servers.postgres import Postgres
from tests.store.database import Database, Post, PostgresDatabase, SQLiteDatabase

ENGINES = ("sqlite", "postgres")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what needs a database on every engine, or on the one that it is marked for: `@pytest.mark.only("sqlite")`."""
    if "engine" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("only")
        metafunc.parametrize("engine", mark.args if mark else ENGINES, scope="function")


@pytest.fixture(scope="session")
def template(postgres_server: Postgres) -> str:
    """A database that is up to date, to copy."""
    name = postgres_server.create_database()
    store = open_store(postgres_server.url(name))
    store.migrate()
    store.close()
    return name


@pytest.fixture
def database(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database of the engine; PostgreSQL's is up to date already, which is quicker."""
    if engine == "sqlite":
        yield SQLiteDatabase(tmp_path)
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = server.create_database(request.getfixturevalue("template"))
    yield PostgresDatabase(server, name)
    server.drop_database(name)


@pytest.fixture
def sqlite(database: Database) -> SQLiteDatabase:
    """The database of a test that is marked for SQLite."""
    assert isinstance(database, SQLiteDatabase)
    return database


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """A store on a database that is up to date."""
    store = database.open_hasty()
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def post(store: Store, database: Database) -> Post:
    """The store with Anna's account and one worker."""
    return Post(store, database)
