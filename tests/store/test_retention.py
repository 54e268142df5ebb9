"""What is over goes in time, in small steps, and nothing else with it."""

from __future__ import annotations

import pytest

from postroom.core.clock import SECOND, Instant
from postroom.core.message import Accepted
from postroom.settings import Settings
from postroom.store.log_lines import LogLines
from postroom.store.messages import Messages
from postroom.store.store import Store
from postroom.worker.retention import Retention
from tests.store.database import DEFERRED, FAILED, LATER, NOW, SENT, Database, Post, new_message

DAY = 24 * 3600 * SECOND


def finished(post: Post, at: int, count: int = 1) -> list[str]:
    """Send mails that are over at this time, and put them into the log."""
    ids = [post.add(at=at) for _ in range(count)]
    for job in post.claim(now=at, most=count):
        post.finish(job, SENT, now=at)
    log(post.store)
    return ids


def log(store: Store) -> None:
    lines = [line.message_id for line in store.read(LogLines.unwritten, 1000)]
    batch = store.write(lambda t: t.log_lines.begin_batch(start=0, messages=lines, writer="tests"))
    store.write(lambda t: t.log_lines.end_batch(batch))


def counts(database: Database) -> dict[str, int]:
    tables = ("message", "content", "delivery", "job", "attempt", "event", "idempotency")
    return {table: database.value(f"SELECT count(*) FROM {table}") for table in tables}


class TestBodies:
    def test_go_when_they_have_been_over_for_long_enough(self, post: Post, database: Database) -> None:
        old, new = finished(post, NOW), finished(post, NOW + 2 * DAY)
        waiting = post.add(at=NOW)
        assert post.store.write(lambda t: t.pruning.prune_bodies(NOW + DAY, 100)) == 1
        left = database.rows(
            "SELECT request_id FROM message JOIN content ON message_id = message.id ORDER BY id"
        )
        assert [row[0] for row in left] == [*new, waiting]
        assert [post.status(each) for each in (*old, *new, waiting)] == ["sent", "sent", "queued"]

    def test_of_one_moment_all_go_however_small_the_batches(self, post: Post, database: Database) -> None:
        finished(post, NOW, count=25)
        steps = [post.store.write(lambda t: t.pruning.prune_bodies(NOW + DAY, 10)) for _ in range(4)]
        assert steps == [10, 10, 5, 0]
        assert counts(database)["content"] == 0

    def test_of_what_waits_stay(self, post: Post, database: Database) -> None:
        post.add()
        post.finish(post.claim_one(), DEFERRED)
        post.add()
        post.claim()
        assert post.store.write(lambda t: t.pruning.prune_bodies(NOW + 1000 * DAY, 100)) == 0
        assert counts(database)["content"] == 2


class TestHistory:
    def test_goes_whole(self, post: Post, database: Database) -> None:
        old = finished(post, NOW)
        post.add("bob@example.org", "dora@example.org", at=NOW)
        post.finish(post.claim_one(), SENT, FAILED, now=NOW)
        log(post.store)
        [new] = finished(post, NOW + 2 * DAY)
        assert post.store.write(lambda t: t.pruning.prune_history(NOW + DAY, 100)) == 2
        assert post.store.read(Messages.status, old[0]) is None
        assert post.status(new) == "sent"
        assert counts(database) == {
            "message": 1, "content": 1, "delivery": 1, "job": 1, "attempt": 1, "event": 2, "idempotency": 0,
        }  # fmt: skip

    def test_waits_for_its_line_in_the_log(self, post: Post, database: Database) -> None:
        post.add()
        post.finish(post.claim_one(), SENT)
        assert post.store.write(lambda t: t.pruning.prune_history(LATER + DAY, 100)) == 0
        log(post.store)
        assert post.store.write(lambda t: t.pruning.prune_history(LATER + DAY, 100)) == 1
        assert set(counts(database).values()) == {0}

    def test_of_keys_goes_too(self, post: Post, database: Database) -> None:
        for number in range(5):
            post.accept(new_message(post.anna, key=f"key {number}", fingerprint=b"x", at=NOW + number * DAY))
        for job in post.claim(now=NOW + 3 * DAY, most=4):
            post.finish(job, SENT)
        log(post.store)
        assert post.store.write(lambda t: t.pruning.prune_history(LATER, 100)) == 4
        assert post.store.write(lambda t: t.pruning.prune_keys(NOW + 2 * DAY, 2)) == 2
        assert post.store.write(lambda t: t.pruning.prune_keys(NOW + 2 * DAY, 2)) == 1
        assert counts(database)["idempotency"] == 2

    def test_keeps_the_key_of_a_mail_that_is_not_over(self, post: Post, database: Database) -> None:
        first = new_message(post.anna, key="a key", fingerprint=b"x", at=NOW)
        post.accept(first)
        assert post.store.write(lambda t: t.pruning.prune_keys(NOW + 1000 * DAY, 2)) == 0
        again = post.accept(new_message(post.anna, key="a key", fingerprint=b"x", at=NOW + 1000 * DAY))
        assert again == Accepted(first.request_id, replayed=True)
        assert counts(database)["message"] == 1


class TestAClockThatIsSet:
    """The mail is sent at NOW, and a worker starts a minute later."""

    @staticmethod
    def _prune(post: Post, *, set_by: Instant, later: Instant) -> Retention:
        wall, unset = LATER, 0

        def clock() -> Instant:
            return wall

        settings = Settings(keep_bodies=7 * DAY, keep_history=90 * DAY)
        retention = Retention(settings, post.store, clock, lambda: False, lambda: unset)
        wall, unset = LATER + later + set_by, later
        retention.prune()
        retention.forget_usage()
        return retention

    @staticmethod
    def _kept(database: Database) -> bool:
        counted = database.value("SELECT count(*) FROM account_usage")
        left = counts(database)
        assert left["message"] == left["content"] == left["idempotency"] == counted
        return bool(counted)

    @pytest.fixture(autouse=True)
    def _sent(self, post: Post) -> None:
        post.accept(new_message(post.anna, key="a key", fingerprint=b"x", at=NOW))
        [job] = post.claim(daily_limit=10)
        post.finish(job, SENT, now=NOW)
        log(post.store)

    def test_makes_nothing_old(self, post: Post, database: Database) -> None:
        self._prune(post, set_by=365 * DAY, later=60 * SECOND)
        assert self._kept(database)

    def test_by_a_little_changes_nothing(self, post: Post, database: Database) -> None:
        self._prune(post, set_by=DAY // 48, later=100 * DAY)
        assert not self._kept(database)

    def test_before_the_worker_started_is_none_of_its_business(self, post: Post, database: Database) -> None:
        self._prune(post, set_by=0, later=365 * DAY)
        assert not self._kept(database)
