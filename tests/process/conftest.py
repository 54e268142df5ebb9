"""The database of an installation, by its settings; and an installation whose server takes access tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.servers.installation import KEY, Installation
from tests.servers.postfix import Postfix
from tests.servers.postgres import Postgres
from tests.servers.token_server import CLIENT_ID, CLIENT_SECRET, TokenServer

ALICE = "alice@postroom.example"


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


@pytest.fixture
def token_server() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server


@pytest.fixture
def submission(ca: trustme.CA, token_server: TokenServer) -> Iterator[Postfix]:
    with Postfix(ca, tokens=token_server.url) as server:
        yield server


@pytest.fixture
def service(tmp_path: Path, submission: Postfix, token_server: TokenServer) -> Installation:
    rows = [
        "key,email,app_password,host,port,security",
        f"{KEY},{ALICE},,localhost,{submission.port},starttls",
    ]
    return Installation(
        tmp_path,
        rows,
        POSTROOM_SMTP_CA_FILE=str(submission.ca_file),
        POSTROOM_RETRY_SCHEDULE="200ms",
        POSTROOM_OAUTH_CLIENT_ID=CLIENT_ID,
        POSTROOM_OAUTH_CLIENT_SECRET=CLIENT_SECRET,
        POSTROOM_OAUTH_AUTHORIZE_URL=f"{token_server.url}/authorize",
        POSTROOM_OAUTH_TOKEN_URL=f"{token_server.url}/token",
        POSTROOM_OAUTH_DEVICE_URL=f"{token_server.url}/device",
        POSTROOM_OAUTH_USERINFO_URL=f"{token_server.url}/userinfo",
        POSTROOM_OAUTH_SCOPE="mail",
    )
