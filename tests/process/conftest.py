"""The database of an installation, by its settings: a file of its own, or one of the session's PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers.postgres import Postgres


@pytest.fixture
def postgres_settings(postgres_server: Postgres) -> Iterator[dict[str, str]]:
    """An empty database on PostgreSQL."""
    name = postgres_server.create_database()
    yield {"DATABASE_URL": postgres_server.url(name)}
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgres"])
def database_settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """An empty database of each engine in turn."""
    if request.param == "sqlite":
        return {}
    settings: dict[str, str] = request.getfixturevalue("postgres_settings")
    return settings


@pytest.fixture(params=["sqlite", "postgres"] if os.environ.get("POSTROOM_SOAK") == "1" else ["sqlite"])
def long_database_settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """For tests that take long: PostgreSQL has its turn in `make soak` only."""
    settings: dict[str, str] = (
        request.getfixturevalue("postgres_settings") if request.param == "postgres" else {}
    )
    return settings
