"""What is over goes in time, in small steps, and nothing else with it."""

from __future__ import annotations

import pytest

from postroom.core.clock import SECOND, Instant
from postroom.core.decide import decision_of
from postroom.core.dialogue import AttemptRecord
from postroom.core.errors import LeaseLost, StoreUnavailable
from postroom.core.job import Claim
from postroom.core.message import Accepted, InDoubtPolicy
from postroom.settings import Settings
from postroom.store.attempts import Attempts
from postroom.store.chores import ChoreJobs
from postroom.store.holds import Holds
from postroom.store.log_lines import LogLines
from postroom.store.managed_accounts import ManagedAccounts
from postroom.store.messages import Messages
from postroom.store.queue import Queue
from postroom.store.retention import Pruning
from postroom.store.store import Store
from postroom.worker.retention import PERIOD, Retention, RetentionJob
from tests.store.database import DEFERRED, FAILED, FAR, LATER, NOW, SENT, Database, Post, new_message

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
        assert post.store.write(lambda t: t.pruning.prune_bodies(NOW + DAY, 100)).dropped == 1
        left = database.rows(
            "SELECT request_id FROM message JOIN content ON message_id = message.id ORDER BY id"
        )
        assert [row[0] for row in left] == [*new, waiting]
        assert [post.status(each) for each in (*old, *new, waiting)] == ["sent", "sent", "queued"]

    def test_of_one_moment_all_go_however_small_the_batches(self, post: Post, database: Database) -> None:
        finished(post, NOW, count=25)
        steps = [post.store.write(lambda t: t.pruning.prune_bodies(NOW + DAY, 10)).dropped for _ in range(4)]
        assert steps == [10, 10, 5, 0]
        assert counts(database)["content"] == 0

    def test_of_what_waits_stay(self, post: Post, database: Database) -> None:
        post.add()
        post.finish(post.claim_one(), DEFERRED)
        post.add()
        post.claim()
        assert post.store.write(lambda t: t.pruning.prune_bodies(NOW + 1000 * DAY, 100)).dropped == 0
        assert counts(database)["content"] == 2


class TestHistory:
    def test_goes_whole(self, post: Post, database: Database) -> None:
        old = finished(post, NOW)
        post.add("bob@example.org", "dora@example.org", at=NOW)
        post.finish(post.claim_one(), SENT, FAILED, now=NOW)
        log(post.store)
        [new] = finished(post, NOW + 2 * DAY)
        assert post.store.write(lambda t: t.pruning.prune_history(NOW + DAY, 100)).dropped == 2
        assert post.store.read(Messages.status, old[0]) is None
        assert post.status(new) == "sent"
        assert counts(database) == {
            "message": 1, "content": 1, "delivery": 1, "job": 1, "attempt": 1, "event": 2, "idempotency": 0,
        }  # fmt: skip

    def test_waits_for_its_line_in_the_log(self, post: Post, database: Database) -> None:
        post.add()
        post.finish(post.claim_one(), SENT)
        assert post.store.write(lambda t: t.pruning.prune_history(LATER + DAY, 100)).dropped == 0
        log(post.store)
        assert post.store.write(lambda t: t.pruning.prune_history(LATER + DAY, 100)).dropped == 1
        assert set(counts(database).values()) == {0}

    def test_of_keys_goes_too(self, post: Post, database: Database) -> None:
        for number in range(5):
            post.accept(new_message(post.anna, key=f"key {number}", fingerprint=b"x", at=NOW + number * DAY))
        for job in post.claim(now=NOW + 3 * DAY, most=4):
            post.finish(job, SENT)
        log(post.store)
        assert post.store.write(lambda t: t.pruning.prune_history(LATER, 100)).dropped == 4
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


class TestTheJob:
    """One for the installation, in the queue like any other."""

    @staticmethod
    def _job(
        post: Post, worker: int, now: Instant, prunes: list[int], *, starts: bool = False
    ) -> RetentionJob:
        class Noted(Retention):
            def prune(self) -> None:
                prunes.append(worker)

        post.store.write(lambda t: t.change("add_chore", kind="retention", lane=0, now=now))
        retention = Noted(Settings(), post.store, lambda: now, lambda: False)
        job = RetentionJob(post.store, retention, worker, lambda: now)
        job._has_started = not starts
        return job

    @staticmethod
    def _row(database: Database) -> tuple[object, ...]:
        [row] = database.rows(
            "SELECT state, due_at, attempt, crashes, held FROM job WHERE kind = 'retention'"
        )
        return row

    def test_is_run_by_one_worker_and_due_again_a_minute_later(self, post: Post, database: Database) -> None:
        other, prunes = post.add_worker(), list[int]()
        assert [self._job(post, each, NOW, prunes).run_if_due() for each in (post.worker, other)] == [
            True,
            False,
        ]
        assert self._row(database) == ("queued", NOW + PERIOD, 0, 0, 0)
        assert not self._job(post, other, NOW + PERIOD - 1, prunes).run_if_due()
        assert self._job(post, other, NOW + PERIOD, prunes).run_if_due()
        assert prunes == [post.worker, other]

    def test_is_due_at_once_for_a_worker_that_starts(self, post: Post, database: Database) -> None:
        prunes: list[int] = []
        assert self._job(post, post.worker, NOW, prunes).run_if_due()
        assert self._job(post, post.worker, NOW + 1, prunes, starts=True).run_if_due()
        self._take(post, post.worker, NOW + 2)
        post.reap()
        before = self._row(database)
        self._job(post, post.add_worker(), NOW + 3, prunes, starts=True).run_if_due()
        assert self._row(database) == before, "not what workers die of"

    def test_is_no_other_workers_while_one_has_it(self, post: Post, database: Database) -> None:
        prunes: list[int] = []
        assert self._take(post, post.worker) is not None
        assert not self._job(post, post.add_worker(), NOW + PERIOD // 2, prunes).run_if_due()
        assert (self._row(database)[0], prunes) == ("claimed", [])

    @staticmethod
    def _take(post: Post, worker: int, now: Instant = NOW) -> Claim | None:
        post.store.write(ChoreJobs.call, "retention", now)
        return post.store.write(ChoreJobs.claim, "retention", worker, now, now + PERIOD)

    def test_of_a_worker_that_died_goes_to_the_next(self, post: Post, database: Database) -> None:
        self._take(post, post.worker)
        assert post.reap() == 1
        assert self._row(database) == ("queued", LATER, 1, 1, 0)
        prunes: list[int] = []
        assert self._job(post, post.add_worker(), LATER, prunes).run_if_due()
        assert self._row(database) == ("queued", LATER + PERIOD, 0, 0, 0), (
            "what goes well clears it of suspicion"
        )

    def test_of_a_worker_that_ends_is_given_back_without_suspicion(
        self, post: Post, database: Database
    ) -> None:
        self._take(post, post.worker)
        assert post.reap(crashed=False) == 1
        assert self._row(database) == ("queued", LATER, 0, 0, 0)

    def test_that_workers_die_with_is_held_for_a_person(self, post: Post, database: Database) -> None:
        for number in range(3):
            worker, now = post.add_worker(), LATER + number * PERIOD
            assert self._take(post, worker, now) is not None
            post.reap(worker, now=now)
        assert self._row(database)[3:] == (3, 1)
        assert self._take(post, post.worker, FAR) is None
        assert post.store.read(Holds.held_messages) == []
        assert post.store.write(ChoreJobs.release, FAR) == 1
        assert self._take(post, post.worker, FAR) is not None

    def test_that_another_worker_has_by_now_is_not_put_back(self, post: Post, database: Database) -> None:
        claim = self._take(post, post.worker)
        assert claim is not None
        post.reap()
        assert self._take(post, post.add_worker(), LATER) is not None
        before = self._row(database)
        with pytest.raises(LeaseLost):
            post.store.write(ChoreJobs.put_back, claim, NOW)
        assert self._row(database) == before

    def test_goes_on_with_the_same_claim_when_the_database_was_away(
        self, post: Post, database: Database
    ) -> None:
        class Away(Retention):
            def prune(self) -> None:
                if not job.in_hand & tries:
                    tries.update(job.in_hand)
                    raise StoreUnavailable

        tries: set[int] = set()
        job = RetentionJob(
            post.store, Away(Settings(), post.store, lambda: NOW, lambda: False), post.worker, lambda: NOW
        )
        with pytest.raises(StoreUnavailable):
            job.run_if_due()
        assert self._row(database)[0] == "claimed"
        assert job.in_hand == tries
        assert job.run_if_due()
        assert (job.in_hand, self._row(database)[0]) == (set(), "queued")

    def test_does_not_wait_for_a_time_that_a_clock_ahead_has_set(self, post: Post) -> None:
        prunes: list[int] = []
        assert self._job(post, post.worker, NOW + DAY, prunes).run_if_due()
        assert self._job(post, post.worker, NOW, prunes).run_if_due()

    def test_is_no_delivery(self, post: Post) -> None:
        """Nothing that asks for messages finds it."""
        self._take(post, post.worker)
        post.reap()
        assert post.claim(now=FAR, worker=post.add_worker()) == []
        assert post.store.write(lambda t: t.holds.hold_queued(FAR, until=FAR, claimed=True)) == 0
        assert post.store.write(Queue.repair_due_times, NOW, SECOND, 100) == 0
        assert post.store.write(lambda t: t.pruning.prune_history(FAR + 1000 * DAY, 100)).dropped == 0


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


def recorded(post: Post, at: Instant) -> None:
    """Have an attempt with a dialogue recorded."""
    post.add(at=at)
    [job] = post.claim(now=at)
    decision = decision_of(job, {job.deliveries[0].id: SENT}, InDoubtPolicy.RETRY, now=at)
    record = AttemptRecord("DATA end", "0 C: MAIL FROM:<anna@example.com>")
    post.store.write(
        Attempts.finish, job, decision, worker_id=post.worker, started_at=at, now=at, record=record
    )


def dialogues(database: Database) -> list[bool]:
    return [kept for (kept,) in database.rows("SELECT dialogue IS NOT NULL FROM attempt ORDER BY id")]


class TestDialogues:
    def test_go_before_the_history_in_small_steps(self, post: Post, database: Database) -> None:
        for number in range(5):
            recorded(post, NOW + number * DAY)
        until = NOW + 2 * DAY
        steps = [post.store.write(Pruning.prune_dialogues, until, 2) for _ in range(3)]
        assert steps == [(2, 2), (1, 1), (0, 0)]
        assert dialogues(database) == [False, False, False, True, True]
        assert database.value("SELECT count(*) FROM attempt WHERE phase = 'DATA end'") == 5

    def test_of_an_account_on_hold_stay_until_it_is_lifted(self, post: Post, database: Database) -> None:
        recorded(post, NOW)
        hold(post, True)
        assert post.store.write(Pruning.prune_dialogues, FAR, 100) == (0, 1)
        assert dialogues(database) == [True]
        hold(post, False)
        assert post.store.write(Pruning.prune_dialogues, FAR, 100) == (1, 1)
        assert dialogues(database) == [False]

    def test_are_kept_for_as_long_as_the_setting_says(self, post: Post, database: Database) -> None:
        recorded(post, NOW)
        recorded(post, NOW + 2 * DAY)
        settings = Settings(keep_dialogues=DAY, keep_bodies=None, keep_history=None)
        now = NOW + 2 * DAY + SECOND
        Retention(settings, post.store, lambda: now, lambda: False, lambda: now).prune()
        assert dialogues(database) == [False, True]


class TestHolds:
    def test_nothing_of_an_account_on_hold_is_deleted(self, post: Post) -> None:
        finished(post, NOW)
        hold(post, True)
        bodies = post.store.write(Pruning.prune_bodies, FAR, 100)
        history = post.store.write(Pruning.prune_history, FAR, 100)
        assert (bodies, history) == ((0, 1), (0, 1))

    def test_what_was_held_goes_once_the_hold_is_lifted(self, post: Post) -> None:
        finished(post, NOW, 2)
        hold(post, True)
        for _ in range(2):
            post.store.write(Pruning.prune_bodies, FAR, 1)
            post.store.write(Pruning.prune_history, FAR, 1)
        assert (
            post.store.write(Pruning.prune_history, FAR, 1).passed == 0
        )  # what is kept is not looked at again
        hold(post, False)
        assert post.store.write(Pruning.prune_bodies, FAR, 100).dropped == 2
        assert post.store.write(Pruning.prune_history, FAR, 100).dropped == 2

    def test_a_message_that_is_not_logged_yet_is_not_passed_over(self, post: Post) -> None:
        finished(post, NOW)
        finished(post, LATER)
        hold(post, True)
        carla = post.add_account("carla@example.com")
        waits = post.add(account=carla, at=NOW)
        [job] = post.claim(account=carla)
        post.finish(job, SENT, now=NOW + SECOND)
        for _ in range(3):
            post.store.write(Pruning.prune_history, FAR, 1)
        log(post.store)
        post.store.write(Pruning.prune_history, FAR, 1)
        assert post.store.read(Messages.status, waits) is None


def hold(post: Post, is_held: bool) -> None:
    post.store.write(ManagedAccounts.set_hold, post.anna, hold=is_held)
