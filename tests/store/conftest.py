"""Fixtures for every engine's store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.store import Store
from tests.store.database import Post, SQLiteDatabase


@pytest.fixture(params=["sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> SQLiteDatabase:
    """An empty database of each engine in turn."""
    engines = {"sqlite": SQLiteDatabase}
    return engines[request.param](tmp_path)


@pytest.fixture
def store(database: SQLiteDatabase) -> Iterator[Store]:
    """A store on a database that is up to date."""
    store = database.open_hasty()
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def post(store: Store, database: SQLiteDatabase) -> Post:
    """The store with Anna's account and one worker."""
    return Post(store, database)
