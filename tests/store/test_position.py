"""A database that has stepped back: an old primary, a restored dump, a standby that had not heard the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from postroom.core.clock import SECOND
from postroom.core.errors import ConfigError, StoreUnavailable
from postroom.store import position
from postroom.store.engine import Server
from postroom.store.events import Events
from postroom.store.holds import Holds
from postroom.store.messages import Messages
from postroom.store.postgres.connect import Connector
from postroom.store.postgres.engine import PostgresEngine
from postroom.store.settings import StoredSettings
from postroom.store.store import Store
from postroom.store.workers import Workers
from tests.store.database import FAR, LATER, NOW, SENT, Database, Post, PostgresDatabase

DAY = 86_400 * SECOND
NEWEST = "01234567-89ab-7def-8123-456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "database.json"


def check(store: Store, path: Path, *, accept: bool = False) -> int:
    return position.check(store, path, now=LATER, keep=DAY, accept=accept)


def test_nothing_is_held_as_long_as_nothing_is_missing(post: Post, path: Path) -> None:
    assert check(post.store, path) == 0
    post.add_many(3)
    assert [check(post.store, path) for _ in range(2)] == [0, 0]


def test_what_was_queued_is_held_and_flagged_when_the_newest_message_is_missing(
    post: Post, path: Path, database: Database
) -> None:
    sent, queued, claimed = post.add(at=NOW), post.add(at=NOW + 1), post.add(at=NOW + 2)
    jobs = post.claim(now=LATER)
    post.finish(jobs[0], SENT)
    post.release(jobs[1])
    gone = post.add(at=NOW + 3)
    of_the_backup = post.add_worker(lease_until=NOW)
    check(post.store, path)
    assert of_the_backup in [record.id for record in post.store.read(Workers.living)]
    for table in ("event", "content", "delivery", "job"):
        database.change(f"DELETE FROM {table} WHERE message_id = (SELECT max(id) FROM message)")
    database.change(f"DELETE FROM message WHERE request_id = '{gone}'")
    assert check(post.store, path) == 2
    assert post.status(sent) == "sent"
    assert [record.id for record in post.store.read(Workers.living)] == [post.worker]
    for request_id in (queued, claimed):
        assert post.status(request_id).startswith("deferred (held: the database was restored")
        assert post.store.read(Messages.status, request_id).possible_duplicate  # type: ignore[union-attr]
        assert post.store.read(Events.of_message, request_id)[-1].kind == "held"
        assert post.job(request_id)["held"] == 1
    assert post.claim(now=FAR) == []
    assert check(post.store, path) == 0, "it is held once"
    new = post.add(at=LATER)
    assert [job.request_id for job in post.claim(now=FAR)] == [new]
    assert post.store.write(Holds.release, queued, FAR)
    assert [job.request_id for job in post.claim(now=FAR)] == [queued]


def test_an_empty_database_where_there_was_one_is_said(
    post: Post, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    position.write(path, position.Position(None, 0, NEWEST, LATER))
    assert check(post.store, path) == 0
    assert f"the database is empty, and there was one here before: it does not know {NEWEST}" in caplog.text
    caplog.clear()
    assert check(post.store, path) == 0
    assert not caplog.text, "it is said once"


def test_a_message_that_was_forgotten_for_its_age_is_not_missed(post: Post, path: Path) -> None:
    post.add()
    position.write(path, position.Position(None, 0, NEWEST, LATER - 2 * DAY))
    assert check(post.store, path) == 0


@pytest.mark.only("postgres")
class TestAServer:
    @pytest.mark.parametrize(
        ("system", "timeline"), [("another", 0), (None, 99)], ids=["another", "a lower timeline"]
    )
    def test_that_is_not_the_one_seen_last_is_refused_until_it_is_accepted(
        self, post: Post, path: Path, system: str | None, timeline: int
    ) -> None:
        post.add()
        check(post.store, path)
        own = position.read(path)
        seen = position.Position(system or own.system, timeline or own.timeline, own.newest, own.newest_at)
        position.write(path, seen)
        with pytest.raises(ConfigError, match="must be fenced"):
            check(post.store, path)
        assert position.read(path) == seen
        assert check(post.store, path, accept=True) == 1
        assert check(post.store, path) == 0

    def test_is_noted_in_the_database_too(self, post: Post, path: Path, tmp_path: Path) -> None:
        """As a dump takes it along to another server."""
        check(post.store, path)
        post.store.write(StoredSettings.set, "server", "another 1")
        with pytest.raises(ConfigError, match="another server"):
            check(post.store, tmp_path / "a new machine.json")

    def test_that_is_behind_is_not_used_while_we_run(self, post: Post, database: Database) -> None:
        assert isinstance(database, PostgresDatabase)
        post.add()
        engine: Any = post.store._engine
        before = engine._connector.server
        engine._connector.server = Server(before.system, before.timeline + 1)
        post.add()  # the session is open already
        engine._writing.drop()
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="an older one than was seen before"):
                post.add()

    def test_that_is_behind_is_passed_over_for_the_next(self, database: Database, monkeypatch: Any) -> None:
        assert isinstance(database, PostgresDatabase)
        port = database.server.port
        url = f"postgresql://postroom@127.0.0.1:{port},localhost:{port}/{database.name}"
        connector = Connector(url, bouncer=False, lock_timeout_s=5)

        def stale(connection: psycopg.Connection[Any]) -> Server:
            return Server("s", 1 if connection.info.host == "127.0.0.1" else 2)

        monkeypatch.setattr("postroom.store.postgres.connect._server", stale)
        connector.server = Server("s", 2)
        with connector.connect() as connection:
            assert connection.info.host == "localhost"

    def test_that_has_lost_our_last_commit_has_what_was_queued_held(
        self, post: Post, database: Database
    ) -> None:
        """After a failover to an asynchronous standby, before anything else is committed there."""
        assert isinstance(database, PostgresDatabase)
        engine = PostgresEngine(database.url)
        own, post.store = post.store, Store(engine)
        queued = post.add()
        server = engine._connector.server
        assert server is not None
        assert engine._writing.last is not None
        database.change(f"DELETE FROM commit_mark WHERE mark = {engine._writing.last.mark}")
        engine._writing.last = engine._writing.last._replace(
            server=Server(server.system, server.timeline - 1)
        )
        engine._writing.drop()
        assert post.claim(now=FAR) == []
        assert post.job(queued)["held"] == 1
        assert post.store.read(Messages.status, queued).possible_duplicate  # type: ignore[union-attr]
        post.store.close()
        post.store = own

    def test_that_has_our_last_commit_goes_on(self, post: Post, database: Database) -> None:
        assert isinstance(database, PostgresDatabase)
        engine = PostgresEngine(database.url)
        own, post.store = post.store, Store(engine)
        queued = post.add()
        assert engine._writing.last is not None
        engine._writing.last = engine._writing.last._replace(server=Server("s", 0))
        engine._writing.drop()
        assert [job.request_id for job in post.claim(now=FAR)] == [queued]
        post.store.close()
        post.store = own
