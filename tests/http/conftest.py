"""The HTTP doorway without a socket: Flask's test client on a real store with two tenants, through both runners.

Tests of the two doorways take `client`, which is a client of each runner: there the runners differ. Tests of a plain
Flask view take `served`: the server that granian calls hands these to the same view, so that they show both.
"""

from __future__ import annotations

import gc
import itertools
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import apsw
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from postroom.accounts.csv_sync import AccountsFile
from postroom.accounts.vault import Vault
from postroom.runtime.installation import Service
from postroom.settings import Settings, variables
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.store import Store, open_store
from postroom.web.app import create_app
from tests.http.admin import prepare
from tests.http.rsgi_client import through_rsgi

ALICE, BOB = "alice-key-0123456789", "bob-key-9876543210"
ROWS = f"""\
key,email,app_password,host
{ALICE},alice@example.com,,inbox
{BOB},bob@example.org,,inbox
"""
MOST_BYTES = 1_000_000


@pytest.fixture(scope="session", autouse=True)
def _routes_compiled_once() -> Iterator[None]:
    """Compile the builder of each route's URL once, not for each application: that was half of what one costs."""
    compiled: dict[tuple[Any, ...], Any] = {}

    def compile_builder(rule: Rule, append_unknown: bool = True) -> Any:
        key = rule.rule, tuple(rule._trace), repr(rule.defaults), append_unknown
        if key not in compiled:
            compiled[key] = original(rule, append_unknown)
        return compiled[key]

    original = Rule._compile_builder
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Rule, "_compile_builder", compile_builder)
        yield


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a secret key and a database that alice and bob are in, to copy."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "data.csv").write_text(ROWS, encoding="utf-8")
    store = open_store(f"sqlite:///{folder}/var/postroom.db")
    store.migrate()
    AccountsFile(store, Vault.open(Settings(), folder / "var"), folder / "data.csv").sync()
    store.close()
    return folder


@pytest.fixture
def service(tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """An installation in `tmp_path` without rate limits, whose data.csv names alice and bob."""
    for setting in Settings.model_fields:
        for name in variables(setting):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(installed, tmp_path, dirs_exist_ok=True)
    settings = Settings(rate_limit="", max_message_bytes=MOST_BYTES)
    engine = SQLiteEngine(tmp_path / "var/postroom.db")
    engine._writer.pragma("synchronous", "off")  # no power fails here
    store = Store(engine)
    yield Service(settings, store, Vault.open(settings, tmp_path / "var"))
    store.close()


@pytest.fixture
def admin_token(service: Service) -> None:
    """The admin token in force, for the applications that are made afterwards (`usefixtures`)."""
    prepare(service)


@pytest.fixture
def make_app(service: Service) -> Iterator[Callable[..., Flask]]:
    """Build an application on the service's store, as one more process would: `make_app(rate_limit="3/minute")`."""

    apps: list[Flask] = []
    has_clients = False

    def make(**settings: Any) -> Flask:
        nonlocal has_clients
        has_clients |= "ratelimit_storage_uri" in settings
        given = {"rate_limit": "", "max_message_bytes": MOST_BYTES, **settings}
        apps.append(create_app(Settings(**given), service.store, service.vault))
        return apps[-1]

    yield make
    apps.clear()
    if has_clients:  # of Redis: they leave closing to this, which takes as long as ten tests
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


class Travelling(FlaskClient):
    """A client that calls from another address each time, so that the limit on guesses never speaks."""

    addresses = itertools.count(1 << 24)

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        address = ".".join(str(octet) for octet in next(self.addresses).to_bytes(4, "big"))
        self.environ_base["REMOTE_ADDR"] = address
        return super().open(*args, **kwargs)


each_runner = pytest.mark.parametrize("runner", ["flask", "rsgi"])


@pytest.fixture
def runner() -> str:
    """The runner of `served`; a test with the mark `each_runner` has both in turn."""
    return "rsgi"


@pytest.fixture
def served(app: Flask, runner: str) -> Iterator[FlaskClient]:
    """A client of one runner: a view of Flask, or the server that granian calls."""
    app.test_client_class = Travelling
    with through_rsgi(app) if runner == "rsgi" else nullcontext():
        yield app.test_client()


@pytest.fixture(params=["flask", "rsgi"])
def client(app: Flask, request: pytest.FixtureRequest) -> Iterator[FlaskClient]:
    """A client of each runner in turn."""
    app.test_client_class = Travelling
    with through_rsgi(app) if request.param == "rsgi" else nullcontext():
        yield app.test_client()


@pytest.fixture
def alice() -> str:
    """Alice's key."""
    return ALICE


@pytest.fixture
def bob() -> str:
    """Bob's key."""
    return BOB


@pytest.fixture
def database(service: Service, tmp_path: Path) -> Iterator[apsw.Connection]:
    """Another process's connection to the service's database."""
    connection = apsw.Connection(str(tmp_path / "var/postroom.db"))
    yield connection
    connection.close()


@pytest.fixture
def kept(database: apsw.Connection) -> Callable[[], int]:
    """Count everything that an accepted mail leaves in the database."""
    tables = ("message", "content", "delivery", "job", "event", "idempotency")
    sql = " + ".join(f"(SELECT count(*) FROM {table})" for table in tables)

    def count() -> int:
        rows: int = next(iter(database.execute(f"SELECT {sql}")))[0]
        return rows

    return count
