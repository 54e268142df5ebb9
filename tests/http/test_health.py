"""What whoever watches over the service is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from postroom.accounts.vault import Vault
from postroom.core.clock import SECOND, system_clock
from postroom.core.errors import StoreUnavailable
from postroom.settings import Settings
from postroom.store.settings import StoredSettings
from postroom.store.store import Store, open_store
from postroom.store.workers import Workers
from postroom.web.app import create_app


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(f"sqlite:///{tmp_path / 'postroom.db'}")
    store.migrate()
    return store


def client(store: Store, folder: Path, **settings: int) -> FlaskClient:
    chosen = Settings().model_copy(update=settings)
    return create_app(chosen, store, Vault.open(chosen, folder)).test_client()


def add_worker(store: Store, lease: int) -> None:
    now = system_clock()
    store.write(
        lambda t: t.workers.register(host="h", pid=1, lock_file="l", now=now, lease_until=now + lease)
    )


def test_livez_asks_nobody(store: Store, tmp_path: Path) -> None:
    web = client(store, tmp_path)
    store.close()
    answer = web.get("/livez")
    assert (answer.status_code, answer.json) == (200, {"status": "alive"})


def test_readyz_while_it_is_being_stopped(store: Store, tmp_path: Path) -> None:
    add_worker(store, 60 * SECOND)
    chosen = Settings()
    answer = (
        create_app(chosen, store, Vault.open(chosen, tmp_path), is_stopping=lambda: True)
        .test_client()
        .get("/readyz")
    )
    assert (answer.status_code, answer.json) == (503, {"status": "stopping"})


def test_readyz_of_the_web_part_alone(store: Store, tmp_path: Path) -> None:
    """A balancer must not take all web processes out because the workers are away: they accept durably."""
    web = client(store, tmp_path)
    answer = web.get("/readyz?part=web")
    assert answer.status_code == 200
    assert answer.json == {"status": "ready", "checks": {"database": "ok", "schema": "ok", "disk": "ok"}}
    assert web.get("/readyz").status_code == 503
    assert web.get("/readyz?part=everything").status_code == 422
    store._engine.run_script("DELETE FROM schema_migration WHERE version > 1")
    assert client(store, tmp_path).get("/readyz?part=web").status_code == 503


def test_readyz_with_a_worker(store: Store, tmp_path: Path) -> None:
    add_worker(store, 60 * SECOND)
    answer = client(store, tmp_path).get("/readyz")
    assert answer.status_code == 200
    assert answer.json == {
        "status": "ready",
        "checks": {"database": "ok", "schema": "ok", "workers": "ok", "disk": "ok"},
        "workers": 1,
        "connections": 0,
    }


def test_readyz_without_a_living_worker(store: Store, tmp_path: Path) -> None:
    add_worker(store, -SECOND)
    answer = client(store, tmp_path).get("/readyz")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["checks"]["workers"].startswith("no worker is running")


class Ahead:
    """A monotonic clock that can be moved on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self.seconds)


def test_readyz_believes_what_workers_do_and_no_clock(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from a machine whose clock is minutes ahead every lease is over, and yet it is renewed."""
    add_worker(store, -300 * SECOND)
    web, ahead = client(store, tmp_path), Ahead(monkeypatch)
    lease = system_clock() - 300 * SECOND
    assert web.get("/readyz").status_code == 503, "nothing is known of it yet"
    for _ in range(3):
        ahead.seconds += 10
        lease += 10 * SECOND
        store.write(Workers.renew_lease, worker_id=1, lease_until=lease)
        assert web.get("/readyz").status_code == 200
    ahead.seconds += 14
    assert web.get("/readyz").status_code == 200
    ahead.seconds += 2
    assert web.get("/readyz").status_code == 503, "it has missed a renewal"


def test_readyz_does_not_believe_a_lease_for_ever(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from a machine whose clock is an hour behind no lease is ever over."""
    add_worker(store, 3600 * SECOND)
    web, ahead = client(store, tmp_path), Ahead(monkeypatch)
    assert web.get("/readyz").status_code == 200
    ahead.seconds = 59
    assert web.get("/readyz").status_code == 200
    ahead.seconds = 61
    assert web.get("/readyz").status_code == 503


def test_readyz_with_a_disk_that_is_nearly_full(store: Store, tmp_path: Path) -> None:
    add_worker(store, 60 * SECOND)
    answer = client(store, tmp_path, disk_reserve=1 << 60).get("/readyz")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["checks"]["disk"].startswith("nearly full")


def test_readyz_on_a_schema_of_another_version(store: Store, tmp_path: Path) -> None:
    add_worker(store, 60 * SECOND)
    store._engine.run_script("DELETE FROM schema_migration WHERE version > 1")
    answer = client(store, tmp_path).get("/readyz")
    assert answer.status_code == 503
    assert answer.json is not None
    assert "not prepared for this version" in answer.json["checks"]["schema"]


def test_readyz_looks_once_a_second(store: Store, tmp_path: Path) -> None:
    add_worker(store, 60 * SECOND)
    web = client(store, tmp_path)
    assert web.get("/readyz").status_code == 200
    store.close()
    assert web.get("/readyz").status_code == 200, "what was found is still fresh"


def test_readyz_with_a_database_file_that_was_moved_away(store: Store, tmp_path: Path) -> None:
    add_worker(store, 60 * SECOND)
    path = tmp_path / "postroom.db"
    path.rename(tmp_path / "elsewhere.db")
    answer = client(store, tmp_path).get("/readyz")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["checks"]["database"].startswith("cannot be written")
    (tmp_path / "elsewhere.db").rename(path)
    assert client(store, tmp_path).get("/readyz").status_code == 200


def test_readyz_counts_the_newest_commit(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one that failed nobody is sent here before another one has succeeded."""
    add_worker(store, 3600 * SECOND)
    web, ahead = client(store, tmp_path), Ahead(monkeypatch)
    engine, full = store._engine, StoreUnavailable("the disk is full")

    def fail(*_: object) -> Any:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(engine, "commit_batch", fail)
        assert web.get("/readyz").status_code == 200
        with pytest.raises(StoreUnavailable):
            store.write(StoredSettings.set, "x", "y")
        for _ in range(3):
            ahead.seconds += 6
            assert web.get("/readyz").status_code == 503
    ahead.seconds += 12
    assert web.get("/readyz").status_code == 200


def test_readyz_tries_to_write_where_nothing_was_written_of_late(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_worker(store, 3600 * SECOND)
    web, ahead = client(store, tmp_path), Ahead(monkeypatch)
    ahead.seconds += 20
    engine: Any = store._engine
    engine._writer.pragma("query_only", True)
    assert web.get("/readyz").status_code == 503
    engine._writer.pragma("query_only", False)
    ahead.seconds += 20
    assert web.get("/readyz").status_code == 200
    assert store.read(StoredSettings.get, "tried") is None, "it is undone"
