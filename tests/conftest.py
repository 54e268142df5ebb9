"""Fixtures that every test may use. Servers start when a test asks for them, one set per xdist worker."""

from __future__ import annotations

import contextlib
import datetime
import logging
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pytest
import trustme

from postroom.telemetry.repeats import unquieten
from postroom.telemetry.service_log import ServiceLog
from tests.order import arrange
from tests.reporting import (
    pytest_configure,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_terminal_summary,
    pytest_unconfigure,
)
from tests.servers.memcached import Memcached
from tests.servers.postfix import Postfix
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis
from tests.servers.scripted import ScriptedServer
from tests.servers.sink import Sink
from tests.soak import choose_examples

__all__ = [
    "pytest_configure",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_terminal_summary",
    "pytest_unconfigure",
]  # pytest finds them here

MakeContext: TypeAlias = Callable[[str], ssl.SSLContext]


choose_examples()
_SERVERS = {"postgres", "postgres_server", "postfix_server", "redis_server", "memcached_server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, which `make quick` leaves out; and put the tests in order for those who share them."""
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        used = {*getattr(item, "fixturenames", ()), *(each for each in parameters if isinstance(each, str))}
        if used & _SERVERS:
            item.add_marker("server")
    arrange(items)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Take back what a test that starts our logging in this process leaves behind: the next one may look at the log."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [each for each in root.handlers if type(each) in (logging.StreamHandler, ServiceLog)]:
        root.removeHandler(handler)
    unquieten()  # or its timer writes into a stream that pytest has closed


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """A throwaway certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its certificate, for clients."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    """A server's TLS context with a good certificate for localhost and 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def certificates(ca: trustme.CA) -> MakeContext:
    """Return a server's TLS context with a certificate that is wrong in the way that is asked for."""

    def make(wrong: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if wrong == "expired":
            then = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
            certificate = ca.issue_cert(
                "127.0.0.1", not_before=then, not_after=then + datetime.timedelta(days=9)
            )
        elif wrong == "self-signed":
            certificate = trustme.CA().issue_cert("127.0.0.1")
        else:
            certificate = ca.issue_cert("smtp.elsewhere.example")
        certificate.configure_cert(context)
        return context

    return make


@pytest.fixture(scope="session")
def client_tls(ca: trustme.CA) -> ssl.SSLContext:
    """A client's TLS context that trusts only our CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def postfix_server(ca: trustme.CA) -> Iterator[Postfix]:
    """The Postfix of this session; tests ask for `postfix`."""
    with Postfix(ca) as server:
        yield server


@pytest.fixture
def postfix(postfix_server: Postfix) -> Postfix:
    """The session's Postfix with an empty Maildir."""
    postfix_server.clear()
    return postfix_server


@pytest.fixture
def redis_server() -> Iterator[Redis]:
    """A fresh redis-server."""
    with Redis() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL without flushes, for tests in which nothing is killed."""
    with Postgres() as server:
        yield server


@pytest.fixture
def memcached_server() -> Iterator[Memcached]:
    """A fresh memcached."""
    with Memcached() as server:
        yield server


class StartScripted(Protocol):
    def __call__(self, tls: ssl.SSLContext | bool = ..., **options: Any) -> ScriptedServer: ...


@pytest.fixture
def scripted(server_tls: ssl.SSLContext) -> Iterator[StartScripted]:
    """Start scripted SMTP servers: `server = scripted(tls=True, chunking=True)`; all stop with the test."""
    with contextlib.ExitStack() as stack:

        def start(tls: ssl.SSLContext | bool = False, **options: Any) -> ScriptedServer:
            context = server_tls if tls is True else tls or None
            return stack.enter_context(ScriptedServer(context, **options))

        yield start


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    """A sink with a ledger."""
    with Sink(tmp_path / "ledger") as server:
        yield server
