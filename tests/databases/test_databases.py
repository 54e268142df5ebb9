"""PostgreSQL as others run it: each version, an operator's commands in mid-flood, failovers. Ids are counted throughout."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg
import pytest
from psycopg import sql

from postroom.errors import CommitUnknown, StoreError
from postroom.model import system_clock
from postroom.store import Store, open_store
from tests.databases import NPM
from tests.servers.peers import fetch
from tests.servers.postgres import Postgres, Standby
from tests.servers.waiting import eventually
from tests.store.database import Post, PostgresDatabase, accepting, new_message

SOAK = os.environ.get("POSTROOM_SOAK") == "1"
VERSIONS = (13, 14, 15, 16, 17, 18)
KINDS = ("synchronous", "asynchronous")
# A server that dies while the test itself looks at it leaves the driver's connection to the garbage collector.
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
of_make_databases = pytest.mark.skipif(not SOAK, reason="`make databases` runs it")


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

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)


def stored(server: Postgres, name: str) -> set[str]:
    return {row[0] for row in PostgresDatabase(server, name).rows("SELECT request_id FROM message")}


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


@of_make_databases
@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_takes_an_operators_commands_and_a_crash(version: int) -> None:
    """synchronous_commit is off, a column changes, tables are locked, all sessions end, the server crashes."""
    with Postgres(durable=True, programs=fetch.postgres(version), wal_writer_delay="10s") as server:
        database = PostgresDatabase(server, server.create_database())
        store = open_store(database.url)
        store.migrate()
        with flooded(store, database) as flood:
            server.administer(sql.SQL("ALTER SYSTEM SET synchronous_commit = off"))
            server.administer(sql.SQL("SELECT pg_reload_conf()"))
            flood.go_on()
            with database.writes_held():
                refused = flood.refused
                eventually(lambda: flood.refused > refused, 60, "the lock to be felt")
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
        found = stored(server, database.name)
        assert set(flood.accepted) - found == set(), "lost"
        assert found - set(flood.accepted) <= set(flood.unknown), "kept, and refused"
        store.close()


@of_make_databases
@pytest.mark.parametrize("kind", KINDS)
def test_a_failover_and_the_old_primarys_return(kind: str) -> None:
    with Postgres(durable=True) as old:
        name = old.create_database()
        with Standby(old) as new:
            if kind == "synchronous":
                old.administer(sql.SQL("ALTER SYSTEM SET synchronous_standby_names = '*'"))
                old.administer(sql.SQL("SELECT pg_reload_conf()"))
                eventually(partial(_is_synchronous, old), 60, "the standby to be synchronous")
            url = f"postgresql://postroom@127.0.0.1:{old.port},127.0.0.1:{new.port}/{name}"
            store = open_store(url)
            store.migrate()
            database = PostgresDatabase(old, name)
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
            lost = set(flood.accepted) - stored(new, name)
            assert kind == "asynchronous" or lost == set()
            store.close()


def _is_synchronous(server: Postgres) -> bool:
    with psycopg.connect(server.url("postgres")) as connection:
        rows = connection.execute("SELECT sync_state FROM pg_stat_replication").fetchall()
    return ("sync",) in rows
