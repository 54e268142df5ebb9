"""Connections and log-ins of an account, shared by all workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from postroom.core.clock import SECOND, Instant
from postroom.store.connections import ConnectionLease, Connections
from tests.store.database import NOW, Database, Post

DAY = 86_400 * SECOND


def take(
    post: Post, *, most: int = 2, logins: int | None = None, now: Instant = NOW, worker: int | None = None
) -> ConnectionLease | None:
    worker_id = post.worker if worker is None else worker
    return post.store.write(
        Connections.take, post.anna, worker_id, most=most, logins_per_minute=logins, now=now
    )


def login_at(post: Post, now: Instant = NOW, logins: int = 10) -> Instant:
    slot = take(post, most=1000, logins=logins, now=now)
    assert slot is not None
    return slot.login_at - now


def give_back(post: Post, slot: ConnectionLease) -> None:
    post.store.write(Connections.give_back, slot)


class TestConnections:
    def test_are_no_more_than_the_account_may_have(self, post: Post) -> None:
        other = post.add_worker()
        first, second = take(post), take(post, worker=other)
        assert first is not None
        assert second is not None
        assert first.id != second.id
        assert take(post) is None
        assert take(post, worker=other) is None
        give_back(post, first)
        assert take(post, worker=other) is not None
        assert take(post) is None

    def test_are_each_account_s_own(self, post: Post) -> None:
        assert take(post, most=1) is not None
        bob = post.add_account("bob@example.com")
        found = post.store.write(Connections.take, bob, post.worker, most=1, logins_per_minute=None, now=NOW)
        assert found is not None

    def test_in_use_are_shown_with_the_log_ins_that_count(self, post: Post) -> None:
        def in_use(now: Instant) -> tuple[int, int]:
            return post.store.read(Connections.in_use, post.anna, 10, now)

        assert in_use(NOW) == (0, 0)
        slots = [take(post, most=3, logins=10) for _ in range(2)]
        assert in_use(NOW) == (2, 2)
        assert slots[0] is not None
        give_back(post, slots[0])
        assert in_use(NOW + 6 * SECOND) == (1, 1)
        assert in_use(NOW + DAY) == (1, 0)

    def test_given_back_twice_count_once(self, post: Post) -> None:
        slots = [take(post, most=3) for _ in range(3)]
        assert slots[0] is not None
        for _ in range(2):
            give_back(post, slots[0])
        assert take(post, most=3) is not None
        assert take(post, most=3) is None

    def test_of_a_buried_worker_are_free(self, post: Post) -> None:
        other = post.add_worker()
        assert take(post, worker=other) is not None
        assert take(post) is not None
        post.reap(other)
        assert take(post) is not None
        assert take(post) is None

    def test_hold_for_twenty_takers_at_once(self, post: Post, database: Database) -> None:
        stores = [database.open() for _ in range(4)]

        def try_one(number: int) -> bool:
            slot = stores[number % 4].write(
                Connections.take, post.anna, post.worker, most=7, logins_per_minute=None, now=NOW
            )
            return slot is not None

        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(try_one, range(40))) == 7
        for store in stores:
            store.close()


class TestLogIns:
    def test_without_a_limit_are_at_once(self, post: Post) -> None:
        assert {slot.login_at for _ in range(50) if (slot := take(post, most=100))} == {NOW}

    def test_go_four_at_once_and_then_one_after_another(self, post: Post) -> None:
        waits = [login_at(post) // SECOND for _ in range(7)]
        assert waits == [0, 0, 0, 0, 6, 12, 18]

    def test_are_earned_anew_with_time(self, post: Post) -> None:
        for _ in range(4):
            login_at(post)
        assert login_at(post, NOW + 6 * SECOND) == 0
        assert login_at(post, NOW + 6 * SECOND) == 6 * SECOND
        assert [login_at(post, NOW + DAY) // SECOND for _ in range(5)] == [0, 0, 0, 0, 6]

    def test_never_exceed_the_rate_in_any_minute(self, post: Post) -> None:
        times = sorted(
            at + login_at(post, at) for at in (NOW + number * SECOND // 2 for number in range(400))
        )
        for number, start in enumerate(times):
            within = sum(at < start + 60 * SECOND for at in times[number:])
            assert within <= 10 + 4, "its rate, and those that may go at once"

    @pytest.mark.parametrize("days", [1, 365])
    def test_owe_nothing_to_a_clock_that_was_wrong(self, post: Post, days: int) -> None:
        for _ in range(10):
            login_at(post, NOW + days * DAY)
        assert login_at(post) == 0

    def test_refused_a_connection_cost_no_log_in(self, post: Post) -> None:
        for _ in range(4):
            assert take(post, most=4, logins=10) is not None
        for _ in range(5):
            assert take(post, most=4, logins=10) is None
        assert login_at(post) == 6 * SECOND


def test_a_daily_limit_owes_nothing_to_a_clock_that_was_wrong(post: Post) -> None:
    ids = post.add_many(3)
    post.claim(now=NOW + 365 * DAY, most=2, daily_limit=2)
    assert [job.request_id for job in post.claim(now=NOW + SECOND, daily_limit=2)] == ids[2:]
