"""An account's daily limit: reserved at claim, given back when nothing was sent, never exceeded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from postroom.core.clock import SECOND, Instant
from postroom.core.job import ClaimedJob
from postroom.store.accounts import Accounts
from postroom.store.messages import Messages
from postroom.store.queue import Queue
from postroom.store.store import Store
from postroom.store.usage import Usage
from tests.store.database import DEFERRED, FAILED, IN_DOUBT, NOW, SENT, UNBURNT, Database, Post

HOUR = 3600 * SECOND
DAY = 24 * HOUR
SLOT = 600 * SECOND


def used(post: Post) -> int:
    return int(post.database.value("SELECT coalesce(sum(recipients), 0) FROM account_usage"))


def account(post: Post) -> tuple[str, Instant | None]:
    [found] = post.store.read(Accounts.all)
    return found.account.state.value, found.account.resume_at


class TestALimit:
    def test_stops_the_claim_where_it_is_reached(self, post: Post) -> None:
        ids = post.add_many(5)
        assert [job.request_id for job in post.claim(now=NOW + HOUR, daily_limit=3)] == ids[:3]
        assert account(post) == ("active", None)

    def test_parks_the_account_until_its_oldest_use_is_a_day_old(self, post: Post) -> None:
        ids = post.add_many(5)
        now = NOW + HOUR
        post.claim(now=now, daily_limit=3)
        assert post.claim(now=now + 1, daily_limit=3) == []
        state, resume_at = account(post)
        assert state == "parked"
        assert resume_at is not None
        assert now + DAY < resume_at <= now + DAY + SLOT
        assert post.store.read(Accounts.due, resume_at - 1) == []
        assert len(post.store.read(Accounts.due, resume_at)) == 1
        assert [job.request_id for job in post.claim(now=resume_at, daily_limit=3)] == ids[3:]

    def test_tells_in_the_status_when_a_waiting_message_can_go(self, post: Post) -> None:
        *_, last = post.add_many(2)
        post.claim(now=NOW + HOUR, daily_limit=1)
        post.claim(now=NOW + HOUR, daily_limit=1)
        status = post.store.read(Messages.status, last)
        assert status is not None
        assert (str(status), status.will_send_at) == ("queued", account(post)[1])

    def test_counts_recipients_and_sends_a_message_in_parts(self, post: Post) -> None:
        paths = [f"r{number}@example.org" for number in range(5)]
        request_id = post.add(*paths)
        [first] = post.claim(daily_limit=3)
        assert [delivery.forward_path for delivery in first.deliveries] == paths[:3]
        post.finish(first, SENT, SENT, SENT, now=NOW)
        assert post.status(request_id) == "queued"
        assert post.claim(daily_limit=3, now=NOW + HOUR) == []
        [second] = post.claim(daily_limit=3, now=NOW + DAY + SLOT)
        assert [delivery.forward_path for delivery in second.deliveries] == paths[3:]
        post.finish(second, SENT, FAILED)
        assert post.status(request_id).startswith("failed (r4@example.org: 550")
        assert len(post.unlogged()) == 1

    def test_remembers_a_recipient_that_failed_in_an_earlier_part(self, post: Post) -> None:
        request_id = post.add("nobody@example.org", "bob@example.org")
        [first] = post.claim(daily_limit=1)
        post.finish(first, FAILED, now=NOW)
        [second] = post.claim(daily_limit=1)  # what failed was given back
        post.finish(second, SENT)
        assert post.job(request_id)["state"] == "failed"

    @pytest.mark.parametrize(
        ("outcome", "counted"),
        [(SENT, 1), (IN_DOUBT, 1), (FAILED, 0), (DEFERRED, 0), (UNBURNT, 0)],
        ids=lambda value: type(value).__name__,
    )
    def test_keeps_only_what_was_or_may_have_been_sent(
        self, post: Post, outcome: object, counted: int
    ) -> None:
        post.add()
        [job] = post.claim(daily_limit=10)
        assert used(post) == 1
        post.finish(job, outcome)  # type: ignore[arg-type]
        assert used(post) == counted

    def test_gets_back_what_is_released(self, post: Post) -> None:
        post.add_many(2)
        jobs = post.claim(now=NOW + HOUR, daily_limit=1)
        assert post.claim(now=NOW + HOUR, daily_limit=1) == []
        post.release(jobs[0])
        assert used(post) == 0
        assert account(post) == ("active", None)

    def test_does_not_resume_an_account_that_is_parked_for_something_else(self, post: Post) -> None:
        post.add()
        [job] = post.claim(daily_limit=1)
        post.store.write(
            Accounts.suspend,
            post.anna,
            state="parked",
            reason="454 4.7.0 later",
            resume_at=NOW + DAY,
            now=NOW,
        )
        post.release(job)
        assert account(post)[0] == "parked"

    def test_gets_back_what_a_dead_worker_had_not_sent(self, post: Post) -> None:
        post.add("a@example.org", "b@example.org", "c@example.org")
        post.add()
        first, second = post.claim(daily_limit=10)
        post.mark_dot(first)
        assert used(post) == 4
        post.reap()
        assert used(post) == 3  # the marked one may have been sent
        assert second.reserved_bucket is not None

    def test_forgets_what_is_older_than_a_day_only(self, post: Post) -> None:
        post.add_many(2)
        post.claim(now=NOW + HOUR, most=1, daily_limit=10)
        post.store.write(Usage.forget, NOW + HOUR + DAY)
        assert used(post) == 1
        post.store.write(Usage.forget, NOW + HOUR + DAY + 2 * SLOT)
        assert used(post) == 0

    def test_holds_against_racing_workers(self, post: Post, database: Database) -> None:
        post.add_many(120)
        stores: list[Store] = [database.open_hasty() for _ in range(4)]
        workers = [post.add_worker() for _ in range(16)]

        def race(number: int) -> list[ClaimedJob]:
            taken: list[ClaimedJob] = []
            for _ in range(200):  # where another one reserves just now, a claim may come back with nothing
                if used(post) == 100:
                    break
                taken += stores[number % 4].write(
                    Queue.claim,
                    account_id=post.anna,
                    worker_id=workers[number],
                    most=3,
                    most_bytes=10**6,
                    now=NOW + HOUR,
                    daily_limit=100,
                )
            return taken

        with ThreadPoolExecutor(16) as threads:
            jobs = [job for taken in threads.map(race, range(16)) for job in taken]
        for store in stores:
            store.close()
        assert len(jobs) == len({job.id for job in jobs}) == 100
        assert used(post) == 100
