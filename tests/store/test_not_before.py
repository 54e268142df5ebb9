"""A message that is not to go before a time: nothing makes it due earlier, and its periods of retrying begin then."""

from __future__ import annotations

import pytest

from postroom.core.clock import SECOND, Instant
from postroom.core.decide import decision_of
from postroom.core.message import InDoubtPolicy, MessageState
from postroom.core.outcome import Outcome
from postroom.store.accounts import Accounts
from postroom.store.holds import Holds
from postroom.store.messages import Messages
from postroom.store.queue import Queue
from tests.store.database import DEFERRED, IN_DOUBT, NOW, SENT, UNBURNT, Post, accepting, new_message

HOUR = 3600 * SECOND
THEN = NOW + 10 * HOUR
LONGEST_WAIT = 4 * HOUR


def schedule(post: Post, not_before: Instant = THEN, *, at: Instant = NOW) -> str:
    message = new_message(post.anna, at=at, not_before=not_before)
    post.accept(message)
    return message.request_id


def repair(post: Post, now: Instant) -> int:
    return post.store.write(Queue.repair_due_times, now, LONGEST_WAIT, 100)


def due_at(post: Post) -> Instant:
    return int(post.database.value("SELECT due_at FROM job"))


class TestAScheduledMessage:
    def test_is_claimed_from_its_time_on_and_no_earlier(self, post: Post) -> None:
        request_id, at_once = schedule(post), post.add()
        assert [job.request_id for job in post.claim(now=THEN - 1)] == [at_once]
        assert post.store.read(Accounts.due, THEN - 1) == []
        assert [each.account.id for each in post.store.read(Accounts.due, THEN)] == [post.anna]
        assert [job.request_id for job in post.claim(now=THEN)] == [request_id]

    def test_takes_its_place_among_the_others_by_its_time(self, post: Post) -> None:
        late, early = schedule(post, THEN + 2), schedule(post, THEN)
        between = post.add(at=THEN + 1)
        assert [job.request_id for job in post.claim(now=THEN + 2)] == [early, between, late]

    def test_is_queued_until_then(self, post: Post) -> None:
        status = post.store.read(Messages.status, schedule(post))
        assert status is not None
        assert (status.state, status.reason, status.will_send_at) == (MessageState.QUEUED, None, None)

    def test_whose_time_is_over_goes_at_once(self, post: Post) -> None:
        schedule(post, NOW - HOUR)
        assert due_at(post) == NOW

    def test_is_accepted_among_others_in_one_batch(self, post: Post) -> None:
        messages = [new_message(post.anna, not_before=THEN + n if n % 2 else None) for n in range(4)]
        post.store.write_all([accepting(message) for message in messages])
        assert [job.request_id for job in post.claim()] == [messages[0].request_id, messages[2].request_id]
        assert [job.request_id for job in post.claim(now=THEN + 3)] == [
            messages[1].request_id,
            messages[3].request_id,
        ]

    def test_may_be_cancelled(self, post: Post) -> None:
        request_id = schedule(post)
        assert post.store.write(Holds.cancel, request_id, NOW)
        assert post.claim(now=THEN) == []


class TestClocks:
    """`repair_due_times` undoes what a clock that was ahead has left, and not what somebody has asked for."""

    def test_no_repair_brings_it_forward(self, post: Post) -> None:
        schedule(post)
        assert not post.store.read(Queue.waits_too_long, NOW, LONGEST_WAIT)
        assert repair(post, NOW) == 0
        assert due_at(post) == THEN

    def test_one_accepted_by_a_clock_that_was_ahead_is_due_at_its_time(self, post: Post) -> None:
        """The clock said a day later, when its time seemed to be over."""
        schedule(post, at=NOW + 24 * HOUR)
        assert post.store.read(Queue.waits_too_long, NOW, LONGEST_WAIT)
        assert repair(post, NOW) == 1
        assert due_at(post) == THEN
        assert repair(post, NOW) == 0

    def test_one_whose_time_has_come_by_then_is_due_at_once(self, post: Post) -> None:
        schedule(post, at=NOW + 24 * HOUR)
        assert repair(post, THEN + HOUR) == 1
        assert due_at(post) == THEN + HOUR

    def test_a_retry_for_which_a_clock_ahead_has_set_too_late_a_time_comes_back_to_no_earlier_than_its_time(
        self, post: Post
    ) -> None:
        schedule(post)
        [job] = post.claim(now=THEN + 24 * HOUR)
        post.finish(job, DEFERRED, retry_at=THEN + 25 * HOUR)
        assert repair(post, NOW) == 1
        assert due_at(post) == THEN

    @pytest.mark.parametrize("outcome", [DEFERRED, UNBURNT, IN_DOUBT])
    def test_a_retry_waits_for_its_time_where_the_clock_was_set_back(
        self, post: Post, outcome: Outcome
    ) -> None:
        schedule(post)
        [job] = post.claim(now=THEN)
        post.finish(job, outcome, retry_at=NOW + SECOND)
        assert due_at(post) == THEN

    def test_one_that_is_given_back_waits_for_its_time_too(self, post: Post) -> None:
        schedule(post)
        post.release(post.claim(now=THEN)[0], now=NOW)
        assert due_at(post) == THEN


class TestWhatBringsJobsForward:
    def test_recovery(self, post: Post) -> None:
        schedule(post)
        post.claim(now=THEN)
        assert post.reap(now=NOW) == 1
        assert due_at(post) == THEN

    def test_a_held_one_that_is_released(self, post: Post) -> None:
        """After a restore all that was accepted before is held: what is scheduled may have been sent since, too."""
        request_id = schedule(post)
        assert post.store.write(lambda t: t.holds.hold_queued(NOW, until=NOW, claimed=False)) == 1
        assert post.claim(now=THEN) == []
        assert post.store.write(lambda t: t.holds.release(request_id, NOW))
        assert due_at(post) == THEN
        post.finish(post.claim(now=THEN)[0], SENT)

    def test_an_account_that_goes_on(self, post: Post) -> None:
        schedule(post)
        [job] = post.claim(now=THEN)
        self._park(post, resume_at=NOW + HOUR)
        outcomes = {job.deliveries[0].id: UNBURNT}
        decision = decision_of(job, outcomes, InDoubtPolicy.RETRY, now=NOW, due_at=NOW, is_behind=True)
        post.finish_with(job, decision, NOW)
        assert due_at(post) == THEN, "not when the account resumes"
        self._park(post, resume_at=THEN + HOUR)
        post.store.write(lambda t: t.accounts.resume(post.anna, NOW))
        assert due_at(post) == THEN

    @staticmethod
    def _park(post: Post, resume_at: Instant) -> None:
        post.store.write(
            lambda t: t.accounts.suspend(
                post.anna, state="parked", reason="full", resume_at=resume_at, now=NOW
            )
        )

    def test_no_statement_that_forgets_it(self, post: Post) -> None:
        schedule(post)
        with pytest.raises(post.database.violation):
            post.database.rows("UPDATE job SET due_at = 1")


class TestThePeriodsOfRetrying:
    def test_begin_at_its_time(self, post: Post) -> None:
        schedule(post)
        post.add()
        then, at_once = post.claim(now=THEN)[::-1]
        assert (then.accepted_at, at_once.accepted_at) == (THEN, NOW)

    def test_begin_at_acceptance_where_that_is_later(self, post: Post) -> None:
        schedule(post, NOW - HOUR)
        assert post.claim_one().accepted_at == NOW


class TestADailyLimit:
    def test_is_not_used_by_what_waits(self, post: Post) -> None:
        scheduled = [schedule(post) for _ in range(3)]
        now = post.add_many(2)
        assert [job.request_id for job in post.claim(now=NOW + 2, daily_limit=2)] == now
        day_after = THEN + 15 * HOUR
        claimed = post.claim(now=day_after, daily_limit=2)
        assert [job.request_id for job in claimed] == scheduled[:2]


def test_the_reason_of_a_failing_account_is_found_behind_what_waits(post: Post) -> None:
    request_id = post.add()
    post.finish(post.claim_one(), DEFERRED, retry_at=NOW + HOUR)
    for number in range(12):
        schedule(post, THEN + number)
    assert post.store.read(Accounts.last_reason, post.anna) is not None
    assert post.status(request_id).startswith("deferred")
