"""An account's pace, which all workers share; and what becomes of an account that is set aside again and again."""

from __future__ import annotations

import pytest

from postroom.core.account import AccountState
from postroom.core.clock import SECOND, Instant
from postroom.core.decide import decision_of
from postroom.core.message import InDoubtPolicy
from postroom.core.pace import Pace, first
from postroom.store.accounts import Accounts, StoredAccount
from postroom.store.pace import AccountPace
from postroom.store.queue import Queue
from postroom.store.store import Store
from tests.store.database import NOW, UNBURNT, Database, Post

HOUR = 3600 * SECOND
GAP = 3 * SECOND  # twenty a minute


def slow(post: Post, *, tried_at: Instant = NOW, now: Instant = NOW, taken: int = 20) -> None:
    """An account that has sent a message every 1.5 seconds is too fast."""
    started = first(taken, now - taken * GAP // 2, now)
    post.store.write(AccountPace.slow, post.anna, started, reason="451 too fast", tried_at=tried_at, now=now)


def quicken(post: Post, now: Instant, began_at: Instant | None = None) -> None:
    began = now if began_at is None else began_at
    post.store.write(AccountPace.quicken, post.anna, began_at=began, now=now)


def passed(post: Post, now: Instant) -> None:
    post.store.write(Accounts.note_passed, post.anna, now)


def pause(post: Post, *, tried_at: Instant, now: Instant) -> None:
    post.store.write(Accounts.pause, post.anna, reason="550 blocked", tried_at=tried_at, now=now)


def anna(store: Store, post: Post) -> StoredAccount:
    stored = store.read(Accounts.get, post.anna)
    assert stored is not None
    return stored


def gap(post: Post) -> int | None:
    return anna(post.store, post).account.gap


def is_due(post: Post, now: Instant) -> bool:
    return post.anna in [stored.account.id for stored in post.store.read(Accounts.due, now)]


class TestPace:
    def test_is_halved_by_a_refusal_and_the_account_rests(self, post: Post) -> None:
        post.add_many(2)
        slow(post)
        account = anna(post.store, post).account
        assert (account.state, account.state_reason) == (AccountState.PARKED, "451 too fast")
        assert account.gap == GAP
        assert account.resume_at == account.paid_until == NOW + GAP
        assert not is_due(post, NOW + GAP - 1)
        assert is_due(post, NOW + GAP)

    def test_is_halved_once_by_what_was_tried_together(self, post: Post) -> None:
        for _ in range(20):
            slow(post, tried_at=NOW - SECOND)
        assert gap(post) == GAP
        slow(post, tried_at=NOW + GAP, now=NOW + GAP + SECOND)
        assert gap(post) == 2 * GAP

    def test_lets_one_message_go_in_each_gap_over_all_workers(self, post: Post, database: Database) -> None:
        post.add_many(50)
        slow(post)
        passed(post, NOW + GAP)
        other, store = post.add_worker(), database.open_hasty()
        second = Post.__new__(Post)
        second.store, second.database, second.anna, second.worker = store, database, post.anna, other
        times = [NOW + GAP + number * SECOND // 10 for number in range(300)]
        claimed = [len(each.claim(now=at, paced=True)) for at in times for each in (post, second)]
        assert sum(claimed) == 10, "thirty seconds of one each three"
        assert max(claimed) == 1
        store.close()

    def test_does_not_depend_on_who_has_seen_it(self, post: Post, database: Database) -> None:
        """A worker that is started anew goes on at the same pace."""
        slow(post)
        again = database.open()
        assert anna(again, post).account.gap == GAP
        again.close()

    def test_rises_step_by_step_and_goes(self, post: Post) -> None:
        slow(post)
        gaps, now = [GAP], NOW + GAP
        while (left := gap(post)) is not None:
            now += left
            quicken(post, now)
            gaps.append(left)
            assert len(gaps) < 1000
        assert gaps == sorted(gaps, reverse=True)
        assert len(gaps) > 50, "not at once"

    def test_does_not_rise_by_what_was_under_way_when_it_was_halved(self, post: Post) -> None:
        slow(post)
        quicken(post, NOW + SECOND, began_at=NOW - SECOND)
        assert gap(post) == GAP

    def test_of_an_account_that_has_none_does_not_rise(self, post: Post) -> None:
        quicken(post, NOW)
        assert gap(post) is None

    @pytest.mark.parametrize("days", [1, 400])
    def test_owes_nothing_to_a_clock_that_was_wrong(self, post: Post, days: int) -> None:
        post.add_many(3)
        far = NOW + days * 24 * HOUR
        slow(post, tried_at=far, now=far)
        passed(post, NOW)
        assert is_due(post, NOW + SECOND)
        assert len(post.claim(now=NOW + SECOND, paced=True)) == 1

    def test_is_each_accounts_own(self, post: Post) -> None:
        bob = post.add_account("bob@example.com")
        slow(post)
        stored = post.store.read(Accounts.get, bob)
        assert stored is not None
        assert (stored.account.gap, stored.account.state) == (None, AccountState.ACTIVE)


class TestAPausedAccount:
    def test_is_tried_less_and_less_often(self, post: Post) -> None:
        now, waits = NOW, []
        for _ in range(9):
            pause(post, tried_at=now, now=now)
            resume_at = anna(post.store, post).account.resume_at
            assert resume_at is not None
            waits.append((resume_at - now) // (60 * SECOND))
            now = resume_at
        assert waits == [5, 10, 20, 40, 80, 160, 320, 360, 360]
        passed(post, now)
        pause(post, tried_at=now + 1, now=now + 1)
        assert anna(post.store, post).account.resume_at == now + 1 + 300 * SECOND

    def test_is_paused_once_by_what_was_tried_together(self, post: Post) -> None:
        for number in range(20):
            pause(post, tried_at=NOW - SECOND, now=NOW + number)
        assert anna(post.store, post).account.resume_at == NOW + 300 * SECOND

    def test_is_tried_by_one_worker(self, post: Post) -> None:
        post.add_many(3)
        pause(post, tried_at=NOW, now=NOW)
        at = NOW + 300 * SECOND
        assert len(post.claim(most=1, now=at, probing=True)) == 1
        assert post.claim(most=1, now=at, probing=True, worker=post.add_worker()) == []
        assert not is_due(post, at)
        assert is_due(post, at + 60 * SECOND), "should that worker never say what came of it"


class TestTheMessageThatDrewARefusal:
    def draw(self, post: Post, now: Instant) -> str:
        """Claim one message, which draws a refusal of its account; return its id."""
        [job] = post.claim(most=1, now=now, probing=True) if now > NOW else post.claim(most=1)
        pause(post, tried_at=now, now=now)
        outcomes = {delivery.id: UNBURNT for delivery in job.deliveries}
        post.finish_with(
            job, decision_of(job, outcomes, InDoubtPolicy.RETRY, now=now, due_at=now, is_behind=True), now
        )
        return job.request_id

    def test_is_not_the_next_to_be_tried(self, post: Post) -> None:
        first, second = post.add_many(2)
        assert self.draw(post, NOW) == first
        at = NOW + 300 * SECOND
        assert self.draw(post, at) == second
        assert self.draw(post, at + 600 * SECOND) == first, "when both have drawn one they take turns"

    def test_is_tried_when_there_is_no_other(self, post: Post) -> None:
        only = post.add()
        assert self.draw(post, NOW) == only
        assert post.job(only)["attempt"] == 0
        assert self.draw(post, NOW + 300 * SECOND) == only

    def test_counts_those_between_which_others_have_passed(self, post: Post) -> None:
        post.add()
        now = NOW
        for _ in range(3):
            self.draw(post, now)
            now += 6 * HOUR
        [job] = post.claim(most=1, now=now, probing=True)
        assert job.drawn == 1
        post.release(job, now)
        for drawn in (2, 3):
            passed(post, now + SECOND)
            pause(post, tried_at=now + 2 * SECOND, now=now + 2 * SECOND)
            now += 7 * HOUR
            self.draw(post, now)
            now += 7 * HOUR
            [job] = post.claim(most=1, now=now, probing=True)
            assert job.drawn == drawn
            post.release(job, now)

    def test_is_due_when_a_person_lets_the_account_go_on(self, post: Post) -> None:
        only = self.draw_one(post)
        post.store.write(Accounts.resume, post.anna, NOW + SECOND)
        assert post.job(only)["due_at"] == NOW + SECOND

    def test_is_not_called_earlier_by_the_care_for_clocks(self, post: Post) -> None:
        only = self.draw_one(post)
        due_at = post.job(only)["due_at"]
        assert due_at == NOW + 300 * SECOND
        assert not post.store.read(Queue.waits_too_long, NOW, 30 * SECOND)
        post.store.write(Queue.repair_due_times, NOW, 30 * SECOND, 10)
        assert post.job(only)["due_at"] == due_at

    def draw_one(self, post: Post) -> str:
        post.add()
        return self.draw(post, NOW)


def test_the_pace_per_minute() -> None:
    assert Pace(GAP, GAP, NOW).per_minute == 20
