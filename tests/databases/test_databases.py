"""PostgreSQL as others run it: each version, an operator's commands in mid-flood, failovers. Ids are counted throughout."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import psycopg
import pytest
from psycopg import sql

from postroom.core.clock import system_clock
from postroom.core.errors import CommitUnknown, StoreError
from postroom.store.store import Store, open_store
from tests.databases import NPM, VERSIONS_OF_SOAK, VERSIONS_OF_TEST
from tests.servers.peers import fetch
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres, Standby
from tests.servers.waiting import eventually
from tests.soak import SOAK
from tests.store.database import Post, PostgresDatabase, accepting, new_message

VERSIONS = VERSIONS_OF_SOAK if SOAK else VERSIONS_OF_TEST
KINDS = ("synchronous", "asynchronous") if SOAK else ("synchronous",)
pytestmark = [pytest.mark.timeout(600), pytest.mark.server]


class Flood:
    """Accepts messages from several threads, and notes the ids that were promised."""

    def __init__(self, store: Store, account: int, threads: int = 4) -> None:
        self.store = store
        self.accepted: list[str] = []
        self.unknown: list[str] = []
        self.refused = 0
        self._account = account
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._over.is_set():
            message = new_message(self._account, at=system_clock())
            try:
                self.store.write(accepting(message))
            except CommitUnknown:
                self.unknown.append(message.request_id)
            except StoreError:
                self.refused += 1
                self._over.wait(0.05)
            else:
                self.accepted.append(message.request_id)

    def go_on(self, more: int = 50) -> None:
        """Wait until so many more were accepted."""
        wanted = len(self.accepted) + more
        eventually(lambda: len(self.accepted) >= wanted, 120, "messages to be accepted")

    def compare(self, found: set[str], *, may_lose: bool = False) -> None:
        """See that what was promised is there, and that nothing is that was refused."""
        promised = set(self.accepted)
        assert len(promised) == len(self.accepted), "an id was given twice"
        assert may_lose or promised <= found, f"{len(promised - found)} of {len(promised)} are lost"
        assert found - promised <= set(self.unknown), "kept, and refused"

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(300)
            assert not thread.is_alive(), "a write has no end"


def stored(server: Postgres, name: str) -> set[str]:
    with closing(PostgresDatabase(server, name)) as database:
        return {row[0] for row in database.rows("SELECT request_id FROM message")}


@contextmanager
def migrated(url: str, *, bouncer: bool = False) -> Iterator[Store]:
    with closing(open_store(url, bouncer=bouncer)) as store:
        store.migrate()
        yield store


@contextmanager
def flooded(store: Store, database: PostgresDatabase) -> Iterator[Flood]:
    with Flood(store, Post(store, database).anna) as flood:
        flood.go_on()
        yield flood


def test_the_versions_are_those_that_we_promise() -> None:
    lock = (NPM / "package-lock.json").read_text(encoding="utf-8")
    packages = json.loads(lock)["packages"]
    assert {f"node_modules/postgres-{version}" for version in range(13, 19)} <= packages.keys()
    assert all("integrity" in package for name, package in packages.items() if name)
    assert "http" not in lock, "no registry is named"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_takes_an_operators_commands_and_a_crash(version: int) -> None:
    """synchronous_commit is off, a column changes, tables are locked, all sessions end, the server crashes."""
    with ExitStack() as stack:
        programs = fetch.postgres(version)
        server = stack.enter_context(Postgres(durable=True, programs=programs, wal_writer_delay="10s"))
        database = stack.enter_context(closing(PostgresDatabase(server, server.create_database())))
        store = stack.enter_context(migrated(database.url))
        with flooded(store, database) as flood:
            server.administer(sql.SQL("ALTER SYSTEM SET synchronous_commit = off"))
            server.administer(sql.SQL("SELECT pg_reload_conf()"))
            flood.go_on()
            with database.writes_held():
                refused = flood.refused
                eventually(lambda: flood.refused > refused, 120, "the lock to be felt")
            flood.go_on()
            database.change("ALTER TABLE message ALTER COLUMN subject TYPE varchar(400)")
            flood.go_on()
            assert server.terminate_backends(database.name) >= 1
            flood.go_on()
            server.stop(signal.SIGQUIT)
            server.start()
            flood.go_on()
            server.stop(signal.SIGQUIT)
        server.start()
        flood.compare(stored(server, database.name))


def test_a_bouncer_that_is_killed_in_mid_flood(postgres_server: Postgres) -> None:
    """In transaction mode, and killed for real: what had no answer is looked for by its mark."""
    with ExitStack() as stack:
        bouncer = stack.enter_context(PgBouncer(postgres_server))
        database = stack.enter_context(
            closing(PostgresDatabase(postgres_server, postgres_server.create_database()))
        )
        store = stack.enter_context(migrated(bouncer.url(database.name), bouncer=True))
        with flooded(store, database) as flood:
            for _ in range(2):
                bouncer.stop()
                bouncer.start()
                flood.go_on()
        flood.compare(stored(postgres_server, database.name))


@pytest.mark.parametrize("kind", KINDS)
def test_a_failover_and_the_old_primarys_return(kind: str) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(Postgres(durable=True))
        name = old.create_database()
        new = stack.enter_context(Standby(old))
        if kind == "synchronous":
            old.administer(sql.SQL("ALTER SYSTEM SET synchronous_standby_names = '*'"))
            old.administer(sql.SQL("SELECT pg_reload_conf()"))
            eventually(partial(_is_synchronous, old), 120, "the standby to be synchronous")
        url = f"postgresql://postroom@127.0.0.1:{old.port},127.0.0.1:{new.port}/{name}"
        store = stack.enter_context(migrated(url))
        database = stack.enter_context(closing(PostgresDatabase(old, name)))
        with flooded(store, database) as flood:
            old.stop(signal.SIGQUIT)
            new.promote()
            flood.go_on()
            old.start()  # writable, and first in the URL
            before = stored(old, name)
            for _ in range(3):
                new.terminate_backends(name)
                flood.go_on(20)
        assert stored(old, name) == before, "nothing goes to the old primary"
        flood.compare(stored(new, name), may_lose=kind == "asynchronous")


def _is_synchronous(server: Postgres) -> bool:
    with psycopg.connect(server.url("postgres")) as connection:
        rows = connection.execute("SELECT sync_state FROM pg_stat_replication").fetchall()
    return ("sync",) in rows
