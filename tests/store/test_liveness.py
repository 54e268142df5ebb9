"""Who is declared dead, and who is not: workers, their leases, and clocks that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from postroom.core.clock import SECOND, Instant
from postroom.core.message import InDoubtPolicy
from postroom.store.store import Store
from postroom.store.workers import Workers
from postroom.worker import liveness
from postroom.worker.liveness import LEASE, Reaper, Registration, reap
from tests.store.database import NOW, Database, Post, SQLiteDatabase


class Clocks:
    """The wall clock and the monotonic one, in step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._seconds = 0.0
        self._host = 0
        monotonic = SimpleNamespace(monotonic=lambda: 1000.0 + self._seconds)
        monkeypatch.setattr(liveness, "time", monotonic)
        monkeypatch.setattr(liveness, "host_identity", lambda: f"host {self._host}")

    def __call__(self) -> Instant:
        return NOW + round(self._seconds * SECOND)

    def go_on(self, seconds: float) -> None:
        self._seconds += seconds

    def another_host(self) -> None:
        """Whoever comes next is on a machine of its own, so that only leases tell who is alive."""
        self._host += 1


class Neighbour:
    """A worker's registration, and its search for dead neighbours."""

    def __init__(self, store: Store, folder: Path, clocks: Clocks) -> None:
        clocks.another_host()
        self.registration = Registration(store, folder, clocks)
        self._reaper = Reaper(store, clocks, InDoubtPolicy.RETRY)

    def sweep(self) -> None:
        self._reaper.sweep(self.registration.worker_id)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
def neighbours(store: Store, clocks: Clocks, tmp_path: Path) -> Iterator[list[Neighbour]]:
    both = [Neighbour(store, tmp_path / "workers", clocks) for _ in range(2)]
    yield both
    for neighbour in both:
        neighbour.registration.leave(InDoubtPolicy.RETRY)


def break_job(database: Database, job_id: int) -> None:
    """Let the database refuse that this job be queued again."""
    if isinstance(database, SQLiteDatabase):
        database.change(
            f"CREATE TRIGGER broken BEFORE UPDATE ON job WHEN NEW.id = {job_id} AND NEW.state = 'queued' "
            "BEGIN SELECT raise(ABORT, 'broken'); END"
        )
    else:
        database.change(
            f"ALTER TABLE job ADD CONSTRAINT broken CHECK (id <> {job_id} OR state <> 'queued') NOT VALID"
        )


def mend_job(database: Database) -> None:
    if isinstance(database, SQLiteDatabase):
        database.change("DROP TRIGGER broken")
    else:
        database.change("ALTER TABLE job DROP CONSTRAINT broken")


def test_a_job_that_cannot_be_given_back_keeps_no_other(
    post: Post, database: Database, clocks: Clocks
) -> None:
    ids = post.add_many(5)
    jobs = post.claim(now=NOW + SECOND)
    break_job(database, jobs[2].id)
    reaper = Reaper(post.store, clocks, InDoubtPolicy.RETRY)
    assert reap(post.store, post.worker, now=NOW, in_doubt=InDoubtPolicy.RETRY) == 4
    assert living(post.store) == 0
    assert [post.job(each)["state"] for each in ids] == ["queued"] * 2 + ["claimed"] + ["queued"] * 2
    assert [post.job(each)["crashes"] for each in ids] == [1, 1, 0, 1, 1]
    assert reaper.look_behind() == 0
    mend_job(database)
    assert reaper.look_behind() == 1
    assert post.job(ids[2])["state"] == "queued"


def test_usage_that_is_less_than_what_comes_back_is_none(post: Post, database: Database) -> None:
    post.add_many(3)
    post.claim(now=NOW + SECOND, daily_limit=10)
    database.change("UPDATE account_usage SET recipients = 1")
    assert post.reap() == 3
    assert database.value("SELECT sum(recipients) FROM account_usage") == 0


def living(store: Store) -> int:
    return len(store.read(Workers.living))


def live(neighbours: list[Neighbour], clocks: Clocks, seconds: int, renewing: list[Neighbour]) -> None:
    for second in range(seconds):
        for neighbour in renewing if second % 10 == 0 else []:
            neighbour.registration.renew()
        for neighbour in neighbours:
            neighbour.sweep()
        clocks.go_on(1)


@pytest.mark.parametrize("away_s", [5, 61, 3600])
def test_an_outage_of_the_database_makes_nobody_dead(
    store: Store, neighbours: list[Neighbour], clocks: Clocks, away_s: float
) -> None:
    live(neighbours, clocks, 25, neighbours)
    clocks.go_on(away_s)
    for neighbour in neighbours:  # before any of them could renew its lease
        neighbour.sweep()
    clocks.go_on(10)
    for neighbour in neighbours:
        assert neighbour.registration.renew()
    live(neighbours, clocks, 25, neighbours)
    assert living(store) == 2


def test_who_does_not_come_back_after_it_is_dead_soon(
    store: Store, neighbours: list[Neighbour], clocks: Clocks
) -> None:
    live(neighbours, clocks, 25, neighbours)
    clocks.go_on(3600)
    live(neighbours[:1], clocks, 20, neighbours[:1])
    assert living(store) == 1


def test_who_does_not_renew_is_dead_when_its_lease_is_over(
    store: Store, neighbours: list[Neighbour], clocks: Clocks
) -> None:
    live(neighbours, clocks, 1, neighbours)
    live(neighbours[:1], clocks, LEASE // SECOND - 2, neighbours[:1])
    assert living(store) == 2
    live(neighbours[:1], clocks, 4, neighbours[:1])
    assert living(store) == 1


class TestWhoRuns:
    """What a command goes by that is to run beside no worker."""

    @pytest.fixture
    def killed(self, store: Store, clocks: Clocks, tmp_path: Path) -> Registration:
        """Return the registration of a worker whose process is gone: its row and its lock file are there yet."""
        registration = Registration(store, tmp_path / "workers", clocks)
        registration._file.close()
        return registration

    @pytest.mark.parametrize("renewed", [True, False])
    def test_on_this_host_the_lock_tells_whatever_the_lease(
        self, store: Store, neighbours: list[Neighbour], clocks: Clocks, renewed: bool
    ) -> None:
        if not renewed:
            clocks.go_on(LEASE / SECOND + 1)
        own = neighbours[1].registration  # the other one is of another host
        assert own.worker_id in [record.id for record in liveness.running(store, clocks)]

    def test_a_worker_that_was_killed_here_is_dead_at_once(
        self, store: Store, killed: Registration, clocks: Clocks
    ) -> None:
        assert killed.worker_id in [record.id for record in store.read(Workers.living)]
        assert liveness.running(store, clocks, pause=clocks.go_on) == []

    def test_one_of_another_host_when_its_lease_is_over(
        self, store: Store, killed: Registration, clocks: Clocks
    ) -> None:
        clocks.another_host()
        assert [record.id for record in liveness.running(store, clocks)] == [killed.worker_id]
        clocks.go_on(LEASE / SECOND + 1)
        assert liveness.running(store, clocks, pause=clocks.go_on) == []

    def test_a_clock_that_is_ahead_makes_none_of_them_dead(
        self, store: Store, killed: Registration, clocks: Clocks
    ) -> None:
        clocks.another_host()
        far = NOW + 3600 * SECOND

        def renews(seconds: float) -> None:
            clocks.go_on(seconds)
            killed.renew()

        assert [record.id for record in liveness.running(store, lambda: far, pause=renews)] == [
            killed.worker_id
        ]

    def test_one_without_its_lock_file_as_long_as_its_lease(
        self, store: Store, killed: Registration, clocks: Clocks
    ) -> None:
        """It may be in another container of this host."""
        killed._path.unlink()
        assert [record.id for record in liveness.running(store, clocks)] == [killed.worker_id]
        clocks.go_on(LEASE / SECOND + 1)
        assert liveness.running(store, clocks, pause=clocks.go_on) == []
