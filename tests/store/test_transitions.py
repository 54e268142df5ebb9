"""Every move of a message, who may make it, and what it leaves behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from postroom.core.account import AccountState
from postroom.core.clock import SECOND
from postroom.core.decide import decision_of
from postroom.core.errors import LeaseLost, StoreError, WorkerExpired
from postroom.core.job import MOST_IN_MEMORY, ClaimedJob
from postroom.core.message import Accepted, InDoubtPolicy, NewMessage
from postroom.core.outcome import Failed, InDoubt, Outcome, Reply, Sent
from postroom.store.acceptance import Acceptance, IdempotencyClash
from postroom.store.accounts import Accounts
from postroom.store.connections import Connections
from postroom.store.events import Event, Events
from postroom.store.holds import Holds
from postroom.store.messages import Messages
from postroom.store.queue import Queue, _DueJob
from postroom.store.recovery import Recovery
from postroom.store.store import Store
from postroom.store.transaction import Transaction
from postroom.store.workers import Workers
from postroom.store.writer import Work
from postroom.worker.liveness import Reaper
from tests.servers.waiting import eventually
from tests.store.database import (
    DEFERRED,
    FAILED,
    FAR,
    IN_DOUBT,
    LATER,
    NOW,
    SENT,
    UNBURNT,
    Database,
    Post,
    accepting,
    new_message,
)

RETRY, HOLD, FAIL = InDoubtPolicy.RETRY, InDoubtPolicy.HOLD, InDoubtPolicy.FAIL
NAMES: dict[Outcome, str] = {
    SENT: "sent", DEFERRED: "deferred", UNBURNT: "deferred", FAILED: "failed", IN_DOUBT: "in_doubt",
}  # fmt: skip
GRAVITY = ("sent", "deferred", "in_doubt", "failed")
PEOPLE = ("bob@example.org", "charlie@example.org", "dora@example.org")
COMBINATIONS = [each for count in (1, 2) for each in product(NAMES, repeat=count)]
COMBINATIONS += [(SENT, FAILED, DEFERRED), (SENT, SENT, IN_DOUBT), (FAILED, IN_DOUBT, DEFERRED), (SENT,) * 3]


def _named(outcomes: tuple[Outcome, ...]) -> str:
    return "+".join("unburnt" if outcome is UNBURNT else NAMES[outcome] for outcome in outcomes)


def _reason(outcome: Outcome) -> str | None:
    return None if isinstance(outcome, Sent) else outcome.reason


class TestAcceptance:
    def test_leaves_a_queued_job_a_delivery_for_each_recipient_and_an_event(self, post: Post) -> None:
        request_id = post.add(*PEOPLE)
        assert post.status(request_id) == "queued"
        assert post.store.read(Events.of_message, request_id) == [Event(NOW, "accepted", None, None)]
        job = post.job(request_id)
        assert (job["state"], job["due_at"], job["attempt"], job["held"]) == ("queued", NOW, 0, 0)
        assert post.database.rows("SELECT forward_path, state FROM delivery ORDER BY id") == [
            (person, "pending") for person in PEOPLE
        ]
        assert post.unlogged() == []

    def test_of_an_unknown_account_keeps_nothing(self, post: Post) -> None:
        before = post.database.contents()
        with pytest.raises(StoreError):
            post.accept(new_message(4711))
        assert post.database.contents() == before

    def test_cannot_happen_twice_under_one_id(self, post: Post) -> None:
        message = new_message(post.anna)
        post.accept(message)
        before = post.database.contents()
        with pytest.raises(StoreError):
            post.accept(message)
        assert post.database.contents() == before

    def test_status_names_the_account_that_may_ask_for_it(self, post: Post) -> None:
        status = post.store.read(Messages.status, post.add())
        assert status is not None
        assert status.account_id == post.anna

    def test_unknown_ids_have_neither_status_nor_events(self, store: Store) -> None:
        assert store.read(Messages.status, "nobody") is None
        assert store.read(Events.of_message, "nobody") == []


class TestIdempotency:
    def test_same_key_and_request_is_replayed(self, post: Post) -> None:
        first = new_message(post.anna, key="k", fingerprint=b"one")
        again = new_message(post.anna, key="k", fingerprint=b"one")
        assert post.accept(first) == Accepted(first.request_id)
        before = post.database.contents()
        assert post.accept(again) == Accepted(first.request_id, replayed=True)
        assert post.database.contents() == before

    def test_same_key_and_another_request_clash(self, post: Post) -> None:
        first = new_message(post.anna, key="k", fingerprint=b"one")
        post.accept(first)
        before = post.database.contents()
        clash = post.accept(new_message(post.anna, key="k", fingerprint=b"two"))
        assert clash == IdempotencyClash(first.request_id)
        assert post.database.contents() == before

    def test_keys_are_each_accounts_own(self, post: Post) -> None:
        berta = post.add_account("berta@example.com")
        theirs = new_message(berta, key="k", fingerprint=b"two")
        post.accept(new_message(post.anna, key="k", fingerprint=b"one"))
        assert post.accept(theirs) == Accepted(theirs.request_id)

    def test_both_in_one_transaction_give_one_message(self, post: Post) -> None:
        messages = [new_message(post.anna, key="k", fingerprint=b"one") for _ in range(3)]
        settled = post.store.write_all([accepting(message) for message in messages])
        assert {result.unwrap().request_id for result in settled} == {messages[0].request_id}
        assert post.database.value("SELECT count(*) FROM message") == 1

    def test_in_a_batch_of_others_costs_none_of_them(self, post: Post) -> None:
        first = new_message(post.anna, key="k", fingerprint=b"one")
        post.accept(first)
        others = [new_message(post.anna, key=f"other {number}", fingerprint=b"one") for number in range(4)]
        again, clash = (new_message(post.anna, key="k", fingerprint=asked) for asked in (b"one", b"two"))
        batch = [*others[:2], again, clash, *others[2:]]
        settled = [result.unwrap() for result in post.store.write_all([accepting(each) for each in batch])]
        assert settled[2:4] == [
            Accepted(first.request_id, replayed=True), IdempotencyClash(first.request_id)
        ]  # fmt: skip
        assert settled[:2] + settled[4:] == [Accepted(each.request_id) for each in others]
        assert post.database.value("SELECT count(*) FROM message") == 5

    def test_of_processes_that_race_gives_one_message(self, post: Post, database: Database) -> None:
        stores, together = [database.open() for _ in range(4)], threading.Barrier(4)

        def accept(store: Store) -> list[str]:
            accepted = []
            for number in range(25):
                together.wait(60)
                works = [
                    accepting(new_message(post.anna, key=f"{number}-{each}", fingerprint=b"one"))
                    for each in range(3)
                ]
                accepted += [result.unwrap().request_id for result in store.write_all(works)]
            return accepted

        with ThreadPoolExecutor(4) as pool:
            first, *others = pool.map(accept, stores)
        for store in stores:
            store.close()
        assert others == [first] * 3
        assert post.database.value("SELECT count(*) FROM message") == 75

    @pytest.mark.only("postgres")
    def test_whose_key_is_pruned_just_then_is_new(
        self, post: Post, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post.accept(new_message(post.anna, key="k", fingerprint=b"one"))
        find = Acceptance._accepted_before

        def find_too_late(acceptance: Acceptance, message: NewMessage) -> Accepted | IdempotencyClash | None:
            database.change("DELETE FROM idempotency")
            return find(acceptance, message)

        monkeypatch.setattr(Acceptance, "_accepted_before", find_too_late)
        again = new_message(post.anna, key="k", fingerprint=b"one")
        assert post.accept(again) == Accepted(again.request_id)


class TestClaim:
    def test_hands_over_all_that_sending_needs(self, post: Post) -> None:
        message = replace(new_message(post.anna, *PEOPLE), smtputf8=True, mime=b"the bytes\r\n")
        post.accept(message)
        job = post.claim_one()
        assert (job.request_id, job.account_id, job.reverse_path) == (
            message.request_id, post.anna, "anna@example.com",
        )  # fmt: skip
        assert (job.attempt, job.smtputf8, job.mime, job.accepted_at) == (1, True, b"the bytes\r\n", NOW)
        assert tuple(delivery.forward_path for delivery in job.deliveries) == PEOPLE
        assert post.status(message.request_id) == "sending"

    def test_takes_the_longest_due_first(self, post: Post) -> None:
        late, early, middle = (post.add(at=NOW + at) for at in (3, 1, 2))
        assert [job.request_id for job in post.claim(now=LATER)] == [early, middle, late]

    def test_takes_what_came_first_among_equals(self, post: Post) -> None:
        ids = [post.add() for _ in range(5)]
        assert [job.request_id for job in post.claim()] == ids

    def test_takes_no_more_than_asked_for(self, post: Post) -> None:
        ids = [post.add() for _ in range(5)]
        assert [job.request_id for job in post.claim(most=2)] == ids[:2]
        assert [job.request_id for job in post.claim(most=10)] == ids[2:]

    def test_stops_before_too_many_bytes(self, post: Post) -> None:
        ids = [post.add(size=40) for _ in range(5)]
        assert [job.request_id for job in post.claim(most_bytes=100)] == ids[:2]
        assert post.status(ids[2]) == "queued"

    def test_takes_one_only_as_large_as_it_may_be(self, post: Post) -> None:
        first, second = post.add(size=500), post.add(size=40)
        assert post.claim(most_bytes=100, first_bytes=499) == []
        assert (post.status(first), post.status(second)) == ("queued", "queued")
        assert [job.request_id for job in post.claim(most_bytes=100, first_bytes=500)] == [first]

    def test_loads_no_large_text_that_it_does_not_take(
        self, post: Post, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("postroom.store.queue._LOADED_AT_ONCE", 100)
        small, large, larger = (post.add(at=NOW + at, size=at) for at in (100, 101, 102))

        def look(transaction: Transaction) -> list[_DueJob]:
            return transaction.rows(
                _DueJob,
                "jobs_due",
                account_id=post.anna,
                worker_id=post.worker,
                suspect=3,
                due_from=0,
                now=LATER,
                count=5,
                most_loaded=100,
            )

        assert [row.mime is None for row in post.store.write(look)] == [False, True, True]
        jobs = post.claim(most_bytes=210, now=LATER)
        assert [(job.request_id, job.size) for job in jobs] == [(small, 100), (large, 101)]
        assert post.status(larger) == "queued"

    def test_counts_of_a_large_content_what_is_in_memory_at_a_time(self, post: Post) -> None:
        large = [post.add(size=3 * MOST_IN_MEMORY) for _ in range(3)]
        taken = post.claim(most_bytes=2 * MOST_IN_MEMORY)
        assert [job.request_id for job in taken] == large[:2]
        assert [job.octets_in_hand for job in taken] == [MOST_IN_MEMORY] * 2

    def test_always_takes_one_however_large(self, post: Post) -> None:
        first, second = post.add(size=500), post.add()
        assert [job.request_id for job in post.claim(most_bytes=100)] == [first]
        assert post.status(second) == "queued"

    def test_leaves_what_is_not_due(self, post: Post) -> None:
        post.add(at=LATER)
        assert post.claim(now=LATER - 1) == []
        assert len(post.claim(now=LATER)) == 1

    def test_leaves_other_accounts_alone(self, post: Post) -> None:
        berta = post.add_account("berta@example.com")
        theirs = post.add(account=berta)
        assert post.claim() == []
        assert [job.request_id for job in post.claim(account=berta)] == [theirs]

    def test_leaves_what_is_claimed_or_held(self, post: Post) -> None:
        post.add()
        job = post.claim_one()
        assert post.claim(now=FAR) == []
        post.finish(job, IN_DOUBT, policy=HOLD, retry_at=NOW)
        assert post.claim(now=FAR) == []
        assert post.store.read(Accounts.due, FAR) == []

    def test_every_claim_has_a_token_of_its_own(self, post: Post) -> None:
        for _ in range(50):
            post.add()
        assert len({job.token for job in post.claim()}) == 50

    def test_takes_only_recipients_that_still_wait(self, post: Post) -> None:
        post.add(*PEOPLE)
        post.finish(post.claim_one(), SENT, DEFERRED, FAILED)
        assert [delivery.forward_path for delivery in post.claim_one(FAR).deliveries] == [PEOPLE[1]]


class TestAccountsDue:
    @staticmethod
    def _due(post: Post, now: int) -> list[int]:
        return [stored.account.id for stored in post.store.read(Accounts.due, now)]

    def test_are_those_with_mail_due(self, post: Post) -> None:
        post.add_account("berta@example.com")
        assert self._due(post, NOW) == []
        post.add(at=LATER)
        assert self._due(post, LATER - 1) == []
        assert self._due(post, LATER) == [post.anna]
        post.claim(now=LATER)
        assert self._due(post, LATER) == []

    @pytest.mark.parametrize("state", ["parked", "paused"])
    def test_are_not_those_set_aside_until_they_resume(self, post: Post, state: str) -> None:
        post.add()
        self._set_aside(post, state)
        assert self._due(post, FAR - 1) == []
        assert self._due(post, FAR) == [post.anna]
        [stored] = post.store.read(Accounts.due, FAR)
        assert stored.account.state is AccountState(state)
        assert (stored.account.state_reason, stored.account.state_since, stored.account.resume_at) == (
            "535 no", NOW, FAR,
        )  # fmt: skip

    @pytest.mark.parametrize("worked", [True, False])
    def test_are_again_those_that_were_resumed(self, post: Post, worked: bool) -> None:
        post.add()
        self._set_aside(post, "paused")
        if worked:
            post.store.write(Accounts.note_worked, post.anna, NOW)
        else:
            post.store.write(Accounts.resume, post.anna, LATER)
        assert self._due(post, NOW) == [post.anna]
        stored = post.store.read(Accounts.get, post.anna)
        assert stored is not None
        assert stored.account.state is AccountState.ACTIVE
        assert stored.account.worked_at == (NOW if worked else None)
        assert (stored.account.state_reason, stored.account.resume_at) == (None, None)

    @staticmethod
    def _set_aside(post: Post, state: str) -> None:
        post.store.write(Accounts.suspend, post.anna, state=state, reason="535 no", resume_at=FAR, now=NOW)


def test_times_that_a_clock_ahead_has_left_are_mended_a_number_at_a_time(post: Post) -> None:
    for number in range(5):
        post.add(at=FAR + number)

    def mend(transaction: Transaction) -> int:
        return transaction.queue.repair_due_times(NOW, SECOND, 2)

    assert [post.store.write(mend) for _ in range(4)] == [2, 2, 1, 0]
    assert not post.store.read(Queue.waits_too_long, NOW, SECOND)
    assert len(post.claim(now=NOW)) == 5


def test_mail_that_was_accepted_a_moment_ago_waits_for_no_clock(post: Post) -> None:
    """It may come between the look at the clock and the look at the queue."""
    post.add(at=NOW + SECOND)
    assert not post.store.read(Queue.waits_too_long, NOW, SECOND)
    assert post.store.write(Queue.repair_due_times, NOW, SECOND, 100) == 0


class TestContent:
    def test_that_the_disk_has_altered_is_never_handed_out(self, post: Post) -> None:
        altered, other, old = (post.add(size=2000) for _ in range(3))
        change = (
            "UPDATE content SET mime = ? WHERE message_id = (SELECT id FROM message WHERE request_id = ?)"
        )
        post.database.rows(change, b"x" * 999 + b"y" + b"x" * 1000, altered)
        post.database.rows(change, b"z", old)
        post.database.rows("UPDATE content SET checksum = NULL WHERE mime = ?", b"z")
        assert [job.request_id for job in post.claim()] == [other, old], "what has no checksum is from before"
        assert post.status(altered).startswith("failed (the stored content is not what was accepted")
        assert post.unlogged() == [post.status(altered)]


class TestEnvelope:
    """What of it was altered goes to nobody; what was accepted before there was a checksum goes out."""

    def test_whose_recipient_was_altered(self, post: Post) -> None:
        altered, other, old = (
            post.add("bob@example.org"),
            post.add("bob@example.org"),
            post.add("dora@example.org"),
        )
        self._alter(post, altered, "forward_path = 'rob@example.org'")
        self._alter(post, old, "checksum = NULL")
        assert [job.request_id for job in post.claim()] == [other, old]
        assert post.status(altered).startswith("failed (the stored envelope is not what was accepted")
        assert post.unlogged() == [post.status(altered)]

    def test_whose_sender_was_altered(self, post: Post) -> None:
        altered, other = post.add(*PEOPLE), post.add(*PEOPLE)
        post.database.rows(
            "UPDATE message SET reverse_path = 'hanna@example.com' WHERE request_id = ?", altered
        )
        assert [job.request_id for job in post.claim()] == [other]
        assert post.status(altered).startswith("failed (bob@example.org: the stored envelope is not what")

    def test_of_another_message(self, post: Post) -> None:
        """Whole rows may change places: each checksum is good for its own content alone."""
        first, second = new_message(post.anna), replace(new_message(post.anna), mime=b"not for bob\r\n")
        post.accept(first)
        post.accept(second)
        post.database.rows("UPDATE delivery SET message_id = 3 - message_id")
        assert post.claim() == []

    def test_with_one_altered_recipient_goes_to_the_others(self, post: Post) -> None:
        request_id = post.add(*PEOPLE)
        self._alter(post, request_id, "forward_path = 'harley@example.org'", PEOPLE[1])
        assert post.claim() == []
        job = post.claim_one()
        assert [delivery.forward_path for delivery in job.deliveries] == [PEOPLE[0], PEOPLE[2]]
        post.finish(job, SENT, SENT)
        assert post.status(request_id).startswith("failed (harley@example.org: the stored envelope is not")

    def test_is_known_again_in_every_part(self, post: Post) -> None:
        """A limit lets a message go out in parts, and each of them has recipients of its own."""
        request_id = post.add(*PEOPLE)
        for number, person in enumerate(PEOPLE, start=1):
            [job] = post.claim(daily_limit=number)
            assert [delivery.forward_path for delivery in job.deliveries] == [person]
            post.finish(job, SENT, now=NOW)
        assert post.status(request_id) == "sent"

    @staticmethod
    def _alter(post: Post, request_id: str, change: str, path: str = "%") -> None:
        post.database.rows(
            f"UPDATE delivery SET {change} WHERE forward_path LIKE ? "
            "AND message_id = (SELECT id FROM message WHERE request_id = ?)",
            path,
            request_id,
        )


class TestFinish:
    @pytest.mark.parametrize("policy", InDoubtPolicy, ids=lambda policy: policy.value)
    @pytest.mark.parametrize("outcomes", COMBINATIONS, ids=_named)
    def test_records_every_combination_of_outcomes(
        self, post: Post, outcomes: tuple[Outcome, ...], policy: InDoubtPolicy
    ) -> None:
        people = PEOPLE[: len(outcomes)]
        request_id = post.add(*people)
        job = post.claim_one()
        post.mark_dot(job)
        post.finish(job, *outcomes, policy=policy)
        expected = _Expected(people, outcomes, policy)
        row = post.job(request_id)
        assert {name: row[name] for name in expected.job} == expected.job
        assert post.status(request_id) == expected.status
        assert post.unlogged() == expected.log
        assert post.database.rows("SELECT state, reason, possible_duplicate FROM delivery ORDER BY id") == (
            expected.deliveries
        )
        assert post.store.read(Events.of_message, request_id)[1:] == expected.events(LATER)
        assert post.attempts() == [(1, post.worker, NOW, LATER, *expected.attempt)]

    def test_keeps_the_reply_of_each_recipient(self, post: Post) -> None:
        post.add(*PEOPLE)
        post.finish(post.claim_one(), SENT, DEFERRED, FAILED)
        assert post.database.rows(
            "SELECT reply_code, reply_enhanced, reply_text FROM delivery ORDER BY id"
        ) == [(250, "2.0.0", "queued as 4711"), (451, "4.3.0", "later"), (550, "5.1.1", "nobody")]

    def test_counts_attempts_that_burn_and_no_others(self, post: Post) -> None:
        request_id = post.add()
        for outcome, attempt in ((UNBURNT, 0), (DEFERRED, 1), (UNBURNT, 1), (IN_DOUBT, 2)):
            job = post.claim_one(FAR)
            post.finish(job, outcome)
            assert post.job(request_id)["attempt"] == attempt
        assert post.claim_one(FAR).attempt == 3

    def test_of_the_last_recipient_reports_those_that_ended_before(self, post: Post) -> None:
        request_id = post.add(*PEOPLE[:2])
        post.finish(post.claim_one(), FAILED, DEFERRED)
        assert post.status(request_id) == "deferred (451 4.3.0 later)"
        assert post.unlogged() == []
        post.finish(post.claim_one(FAR), SENT)
        assert post.status(request_id) == "failed (bob@example.org: 550 5.1.1 nobody)"
        assert post.unlogged() == ["failed (bob@example.org: 550 5.1.1 nobody)"]
        assert post.job(request_id)["state"] == "failed"

    def test_a_possible_duplicate_stays_flagged_when_it_is_sent(self, post: Post) -> None:
        request_id = post.add()
        post.finish(post.claim_one(), IN_DOUBT)
        post.finish(post.claim_one(FAR), DEFERRED)
        post.finish(post.claim_one(FAR), SENT)
        status = post.store.read(Messages.status, request_id)
        assert status is not None
        assert status.possible_duplicate
        assert str(status) == "sent"

    @pytest.mark.parametrize("which", ["one missing", "one too many", "none"])
    def test_wants_an_outcome_for_each_recipient(self, post: Post, which: str) -> None:
        post.add(*PEOPLE[:2])
        job = post.claim_one()
        ids = [delivery.id for delivery in job.deliveries]
        chosen = {"one missing": ids[:1], "one too many": [*ids, 4711], "none": []}[which]
        before = post.database.contents()
        with pytest.raises(AssertionError):
            post.finish_with(job, decision_of(job, dict.fromkeys(chosen, SENT), RETRY, now=LATER, due_at=FAR))
        assert post.database.contents() == before

    def test_what_is_not_final_needs_a_time_to_try_again(self, post: Post) -> None:
        post.add()
        job = post.claim_one()
        with pytest.raises(AssertionError):
            post.finish(job, DEFERRED, retry_at=None)
        post.finish(job, SENT, retry_at=None)


class _Expected:
    """What docs/design.md §5 says of one attempt, worked out once more."""

    def __init__(self, people: tuple[str, ...], outcomes: tuple[Outcome, ...], policy: InDoubtPolicy) -> None:
        self._pairs = list(zip(people, outcomes, strict=True))
        self._outcomes = outcomes
        self._policy = policy
        self._ended = all(self._state(outcome) != "pending" for outcome in outcomes)

    def _state(self, outcome: Outcome) -> str:
        if isinstance(outcome, Sent):
            return "sent"
        gives_up = isinstance(outcome, Failed) or (isinstance(outcome, InDoubt) and self._policy is FAIL)
        return "failed" if gives_up else "pending"

    @property
    def job(self) -> dict[str, Any]:
        states = [self._state(outcome) for outcome in self._outcomes]
        if self._ended:
            state = "failed" if "failed" in states else "done"
            row = {"state": state, "due_at": NOW, "attempt": 1, "held": 0, "finished_at": LATER}
        else:
            held = int(self._policy is HOLD and IN_DOUBT in self._outcomes)
            attempt = int(any(outcome is not UNBURNT for outcome in self._outcomes))
            row = {"state": "queued", "due_at": FAR, "attempt": attempt, "held": held, "finished_at": None}
        return row | {"claim_token": None, "dot_at": None, "crashes": 0}

    @property
    def status(self) -> str:
        wanted = "failed" if self._ended else "pending"
        shown = [pair for pair in self._pairs if self._state(pair[1]) == wanted]
        if not shown:
            return "sent"
        among = self._pairs if self._ended else shown
        texts = [f"{path}: {_reason(o)}" if len(among) > 1 else str(_reason(o)) for path, o in shown]
        return f"{'failed' if self._ended else 'deferred'} ({'; '.join(texts)})"

    @property
    def log(self) -> list[str]:
        return [self.status] if self._ended else []

    @property
    def deliveries(self) -> list[tuple[str, str | None, int]]:
        return [
            (state, _reason(outcome), int(isinstance(outcome, InDoubt) and state == "pending"))
            for outcome in self._outcomes
            for state in [self._state(outcome)]
        ]

    def events(self, at: int) -> list[Event]:
        events = []
        for path, outcome in self._pairs:
            detail = str(outcome.reply) if isinstance(outcome, Sent) else outcome.reason
            events.append(Event(at, NAMES[outcome], path, detail))
            if isinstance(outcome, InDoubt) and self._policy is RETRY:
                events.append(Event(at, "possible_duplicate", path, "it is sent again, and may arrive twice"))
        return events

    @property
    def attempt(self) -> tuple[Any, ...]:
        worst = max(self._outcomes, key=lambda outcome: GRAVITY.index(NAMES[outcome]))
        reply: Reply | None = None if isinstance(worst, InDoubt) else worst.reply
        if reply is None:
            return (NAMES[worst], None, None, None)
        return (NAMES[worst], reply.code, reply.enhanced, reply.text)


class TestWhatAPersonDecides:
    def hold(self, post: Post) -> str:
        request_id = post.add(*PEOPLE[:2])
        post.finish(post.claim_one(), SENT, IN_DOUBT, policy=HOLD)
        assert post.claim(now=FAR) == []
        return request_id

    def release(self, post: Post, request_id: str) -> bool:
        return post.store.write(Holds.release, request_id, FAR)

    def cancel(self, post: Post, request_id: str) -> bool:
        return post.store.write(Holds.cancel, request_id, FAR)

    def test_a_held_message_goes_on(self, post: Post) -> None:
        request_id = self.hold(post)
        assert self.release(post, request_id)
        job = post.claim_one(FAR)
        assert [delivery.forward_path for delivery in job.deliveries] == [PEOPLE[1]]
        post.finish(job, SENT)
        assert post.status(request_id) == "sent"
        kinds = [event.kind for event in post.store.read(Events.of_message, request_id)]
        assert kinds[-3:] == ["released", "possible_duplicate", "sent"]

    def test_a_held_or_queued_message_is_given_up(self, post: Post) -> None:
        held, queued = self.hold(post), post.add()
        for request_id in (held, queued):
            assert self.cancel(post, request_id)
            assert post.status(request_id) == "cancelled"
            assert post.store.read(Events.of_message, request_id)[-1].kind == "cancelled"
            assert not self.cancel(post, request_id)
            assert not self.release(post, request_id)
        assert post.unlogged() == ["cancelled", "cancelled"]
        assert post.claim(now=FAR) == []

    def test_what_is_being_sent_or_over_or_unknown_is_left_alone(self, post: Post) -> None:
        request_id = post.add()
        job = post.claim_one()
        before = post.database.contents()
        assert not self.cancel(post, request_id)
        assert not self.release(post, request_id)
        assert not self.cancel(post, "no-such-id")
        assert post.database.contents() == before
        post.finish(job, SENT)
        assert not self.cancel(post, request_id)
        assert post.status(request_id) == "sent"

    def test_a_queued_message_needs_no_release(self, post: Post) -> None:
        assert not self.release(post, post.add())


class TestRelease:
    @pytest.mark.parametrize("dotted", [False, True])
    def test_gives_the_job_back_and_the_attempt_too(self, post: Post, dotted: bool) -> None:
        request_id = post.add()
        job = post.claim_one()
        if dotted:
            post.mark_dot(job)
        post.release(job, LATER)
        row = post.job(request_id)
        assert (row["state"], row["due_at"], row["attempt"], row["dot_at"]) == ("queued", LATER, 0, None)
        assert post.status(request_id) == "queued"
        assert post.attempts() == []
        assert [event.kind for event in post.store.read(Events.of_message, request_id)] == ["accepted"]
        assert post.claim_one(LATER).attempt == 1


class TestTheMark:
    def test_that_was_taken_back_leaves_no_doubt(self, post: Post) -> None:
        request_id = post.add()
        job = post.claim_one()
        post.mark_dot(job)
        post.unmark_dot(job)
        assert post.job(request_id)["dot_at"] is None
        assert post.reap() == 1
        assert post.status(request_id) == "queued"

    def test_can_be_made_again(self, post: Post) -> None:
        request_id = post.add()
        job = post.claim_one()
        post.mark_dot(job)
        post.unmark_dot(job)
        post.mark_dot(job, LATER)
        assert post.job(request_id)["dot_at"] == LATER


class TestBurial:
    def test_without_a_dot_is_a_plain_retry(self, post: Post) -> None:
        request_id = post.add()
        post.claim()
        assert post.reap() == 1
        row = post.job(request_id)
        assert (row["state"], row["due_at"], row["crashes"], row["attempt"]) == ("queued", LATER, 1, 1)
        assert post.status(request_id) == "queued"
        assert [event.kind for event in post.store.read(Events.of_message, request_id)] == [
            "accepted",
            "crashed",
        ]
        status = post.store.read(Messages.status, request_id)
        assert status is not None
        assert not status.possible_duplicate

    @pytest.mark.parametrize(
        ("policy", "state", "held", "status", "duplicate"),
        [
            (RETRY, "queued", 0, "deferred", True),
            (HOLD, "queued", 1, "deferred", True),
            (FAIL, "failed", 0, "failed", False),
        ],
    )
    def test_after_the_dot_is_in_doubt(
        self, post: Post, policy: InDoubtPolicy, state: str, held: int, status: str, duplicate: bool
    ) -> None:
        request_id = post.add(*PEOPLE[:2])
        post.mark_dot(post.claim_one())
        assert post.reap(policy=policy) == 1
        row = post.job(request_id)
        assert (row["state"], row["held"], row["due_at"]) == (state, held, NOW if policy is FAIL else LATER)
        found = post.store.read(Messages.status, request_id)
        assert found is not None
        assert (found.state.value, found.possible_duplicate) == (status, duplicate)
        assert "after the final dot" in str(found.reason)
        assert len(post.unlogged()) == (policy is FAIL)
        again = ["in_doubt", "possible_duplicate"] if policy is RETRY else ["in_doubt"]
        assert [event.kind for event in post.store.read(Events.of_message, request_id)] == [
            "accepted",
            *again,
            *again,
        ]
        assert [row[:5] for row in post.attempts()] == [(1, post.worker, NOW, LATER, "in_doubt")]
        assert len(post.claim(now=FAR, worker=post.add_worker())) == (policy is RETRY)

    @pytest.mark.parametrize("own", InDoubtPolicy, ids=lambda policy: policy.value)
    @pytest.mark.parametrize("policy", InDoubtPolicy, ids=lambda policy: policy.value)
    def test_in_doubt_goes_by_the_message_s_own_policy(
        self, post: Post, own: InDoubtPolicy, policy: InDoubtPolicy
    ) -> None:
        message = replace(new_message(post.anna), in_doubt=own)
        post.accept(message)
        job = post.claim_one()
        assert job.in_doubt is own
        post.mark_dot(job)
        assert post.reap(policy=policy) == 1
        row = post.job(message.request_id)
        expected = {RETRY: ("queued", 0), HOLD: ("queued", 1), FAIL: ("failed", 0)}[own]
        assert (row["state"], row["held"]) == expected

    def test_takes_each_job_by_its_own_mark(self, post: Post) -> None:
        plain, dotted = post.add(), post.add()
        post.mark_dot(post.claim()[1])
        assert post.reap() == 2
        assert (post.status(plain), post.status(dotted).split()[0]) == ("queued", "deferred")

    def test_for_a_lease_that_ran_out_needs_it_not_to_be_renewed_meanwhile(self, post: Post) -> None:
        post.add()
        post.claim()
        assert post.store.write(Workers.renew_lease, post.worker, FAR)
        before = post.database.contents()
        assert post.reap(lease=LATER, now=FAR) == 0
        assert post.database.contents() == before
        assert post.reap(lease=FAR, now=LATER) == 1

    def test_of_one_that_signs_off_counts_as_no_crash(self, post: Post) -> None:
        plain, dotted = post.add(), post.add()
        post.mark_dot(post.claim()[1])
        assert post.reap(crashed=False) == 2
        assert [post.job(each)["crashes"] for each in (plain, dotted)] == [0, 0]
        assert [post.job(each)["attempt"] for each in (plain, dotted)] == [0, 1]
        kinds = [
            [event.kind for event in post.store.read(Events.of_message, each)] for each in (plain, dotted)
        ]
        assert kinds == [["accepted"], ["accepted", "in_doubt", "possible_duplicate"]]

    def test_happens_once(self, post: Post) -> None:
        post.add()
        post.claim()
        post.reap()
        before = post.database.contents()
        assert post.reap() == 0
        assert post.database.contents() == before

    def test_leaves_other_workers_alone(self, post: Post) -> None:
        other = post.add_worker()
        post.add()
        job = post.claim_one(worker=other)
        assert post.reap() == 0
        post.mark_dot(job)
        assert [record.id for record in post.store.read(Workers.living)] == [other]

    def test_ends_the_lease(self, post: Post) -> None:
        assert post.store.write(Workers.renew_lease, post.worker, FAR)
        assert [record.lease_until for record in post.store.read(Workers.living)] == [FAR]
        post.reap()
        assert not post.store.write(Workers.renew_lease, post.worker, FAR)
        assert post.store.read(Workers.living) == []


class TestABuriedWorker:
    def test_can_claim_nothing(self, post: Post) -> None:
        post.add()
        post.reap()
        before = post.database.contents()
        with pytest.raises(WorkerExpired):
            post.claim()
        assert post.database.contents() == before

    def test_can_take_no_connection(self, post: Post) -> None:
        post.reap()
        with pytest.raises(WorkerExpired):
            post.store.write(Connections.take, post.anna, post.worker, most=2, logins_per_minute=10, now=NOW)
        assert post.store.read(Connections.count) == 0

    def test_spoils_no_claim_of_its_neighbours_in_the_batch(self, post: Post) -> None:
        request_id, other = post.add(), post.add_worker()
        post.reap()
        settled = post.store.write_all([_claiming(post, post.worker), _claiming(post, other)])
        assert isinstance(settled[0].error, WorkerExpired)
        assert [job.request_id for job in settled[1].unwrap()] == [request_id]

    def test_that_owns_something_all_the_same_is_found(self, post: Post) -> None:
        request_id = post.add()
        post.claim()
        assert post.store.read(Recovery.gone_with_hands_full) == []
        post.database.change("UPDATE worker SET gone_at = 1")
        assert post.store.read(Recovery.gone_with_hands_full) == [post.worker]
        assert post.reap() == 0
        recovered = post.store.write(Recovery.recover_all, post.worker, now=LATER, in_doubt=RETRY)
        assert recovered == 1
        assert post.job(request_id)["state"] == "queued"
        assert post.store.read(Recovery.gone_with_hands_full) == []

    def test_gives_back_a_connection_that_was_overlooked(self, post: Post) -> None:
        post.store.write(Connections.take, post.anna, post.worker, most=2, logins_per_minute=None, now=NOW)
        post.database.change("UPDATE worker SET gone_at = 1")
        assert post.store.read(Recovery.gone_with_hands_full) == [post.worker]
        assert Reaper(post.store, lambda: LATER, RETRY).look_behind() == 0
        assert post.store.read(Connections.count) == 0

    def test_leaves_nothing_behind_when_it_claims_all_the_while(self, post: Post, database: Database) -> None:
        """A claim is committed before the burial, which then finds it, or not at all."""
        post.add_many(60)
        store = database.open_hasty()

        def claim_until_buried() -> int:
            claimed = 0
            with contextlib.suppress(WorkerExpired):
                while jobs := store.write(_claiming(post, post.worker, most=1)):
                    claimed += len(jobs)
            return claimed

        with ThreadPoolExecutor(1) as thread:
            claiming = thread.submit(claim_until_buried)
            eventually(lambda: post.database.value("SELECT count(*) FROM job WHERE state = 'claimed'") >= 3)
            assert post.reap() == claiming.result()
        store.close()
        assert post.store.read(Recovery.gone_with_hands_full) == []


Move = Callable[[Post, ClaimedJob], None]
MOVES: dict[str, Move] = {
    "mark_dot": lambda post, job: post.mark_dot(job, LATER),
    "unmark_dot": lambda post, job: post.unmark_dot(job),
    "release": lambda post, job: post.release(job, LATER),
    "finish sent": lambda post, job: post.finish(job, SENT),
    "finish deferred": lambda post, job: post.finish(job, DEFERRED),
    "finish failed": lambda post, job: post.finish(job, FAILED),
    "finish in doubt": lambda post, job: post.finish(job, IN_DOUBT),
}
STATES: dict[str, Move] = {
    "queued": lambda post, job: post.release(job),
    "deferred": lambda post, job: post.finish(job, DEFERRED),
    "recovered": lambda post, job: _replace_worker(post),
    "held": lambda post, job: post.finish(job, IN_DOUBT, policy=HOLD),
    "claimed": lambda post, job: None,
    "dotted": lambda post, job: post.mark_dot(job),
    "done": lambda post, job: post.finish(job, SENT),
    "failed": lambda post, job: post.finish(job, FAILED),
    "cancelled": lambda post, job: _cancel(post, job),
}
OWNED = ("claimed", "dotted")
CLAIMABLE = ("queued", "deferred", "recovered")


def _replace_worker(post: Post) -> None:
    post.reap()
    post.worker = post.add_worker()


def _claiming(post: Post, worker: int, most: int = 100) -> Work[list[ClaimedJob]]:
    return lambda transaction: transaction.queue.claim(
        account_id=post.anna, worker_id=worker, most=most, most_bytes=10**6, now=LATER
    )


def _marking(job: ClaimedJob) -> Work[None]:
    return lambda transaction: transaction.queue.mark_dot(job, NOW)


def _cancel(post: Post, job: ClaimedJob) -> None:
    post.release(job)
    post.database.rows("UPDATE job SET state = 'cancelled', finished_at = ? WHERE id = ?", NOW, job.id)


class TestMatrix:
    @pytest.mark.parametrize("move", MOVES)
    @pytest.mark.parametrize("state", STATES)
    def test_only_the_owner_moves_a_job(self, post: Post, state: str, move: str) -> None:
        post.add()
        job = post.claim_one()
        STATES[state](post, job)
        before = post.database.contents()
        if state in OWNED:
            MOVES[move](post, job)
            changes = (state, move) != ("claimed", "unmark_dot")
            assert (post.database.contents() != before) == changes
        else:
            with pytest.raises(LeaseLost):
                MOVES[move](post, job)
            assert post.database.contents() == before

    @pytest.mark.parametrize("state", STATES)
    def test_only_what_waits_is_claimed(self, post: Post, state: str) -> None:
        post.add()
        STATES[state](post, post.claim_one())
        assert len(post.claim(now=FAR)) == (state in CLAIMABLE)

    @pytest.mark.parametrize("move", MOVES)
    @pytest.mark.parametrize("dotted", [False, True])
    def test_a_stale_owner_is_refused_and_writes_nothing(self, post: Post, move: str, dotted: bool) -> None:
        request_id = post.add()
        stale = post.claim_one()
        post.reap()
        post.worker = post.add_worker()
        owned = post.claim_one(FAR)
        if dotted:
            post.mark_dot(owned)
        before = post.database.contents()
        with pytest.raises(LeaseLost):
            MOVES[move](post, stale)
        assert post.database.contents() == before
        post.finish(owned, SENT)
        assert post.status(request_id) == "sent"

    def test_a_stale_owner_does_not_spoil_its_neighbours_in_the_batch(self, post: Post) -> None:
        ids = [post.add() for _ in range(3)]
        jobs = post.claim()
        stale = replace(jobs[1], token=jobs[1].token + 1)
        settled = post.store.write_all([_marking(job) for job in (jobs[0], stale, jobs[2])])
        assert [type(result.error) for result in settled] == [type(None), LeaseLost, type(None)]
        assert [post.job(request_id)["dot_at"] for request_id in ids] == [NOW, None, NOW]


IMPOSSIBLE = {
    "a claim without a token": "UPDATE job SET claim_token = NULL WHERE state = 'claimed'",
    "a claim without an owner": "UPDATE job SET claimed_by = NULL WHERE state = 'claimed'",
    "a claim without a time": "UPDATE job SET claimed_at = NULL WHERE state = 'claimed'",
    "a queued job with a token": "UPDATE job SET claim_token = 1 WHERE state = 'queued'",
    "a queued job with an owner": "UPDATE job SET claimed_by = 1 WHERE state = 'queued'",
    "a dot without a claim": "UPDATE job SET dot_at = 1 WHERE state = 'queued'",
    "an end without a time": "UPDATE job SET state = 'done' WHERE state = 'queued'",
    "a time without an end": "UPDATE job SET finished_at = 1 WHERE state = 'queued'",
    "a held job that is claimed": "UPDATE job SET held = 1 WHERE state = 'claimed'",
    "half held": "UPDATE job SET held = 2 WHERE state = 'queued'",
    "a state that is none": "UPDATE job SET state = 'deferred' WHERE state = 'queued'",
    "a delivery job without a message": "UPDATE job SET message_id = NULL",
    "a delivery job without an account": "UPDATE job SET lane = NULL",
    "two jobs of a message": "INSERT INTO job (kind, lane, message_id, due_at) VALUES ('delivery', 1, 1, 0)",
    "a result without a time": "UPDATE delivery SET state = 'sent'",
    "a time without a result": "UPDATE delivery SET finished_at = 1",
    "a failure without a reason": "UPDATE delivery SET state = 'failed', finished_at = 1",
    "a delivery of no message": "UPDATE delivery SET message_id = 4711",
    "an account parked for ever": "UPDATE account SET state = 'parked', state_since = 1",
    "an active account set aside": "UPDATE account SET state_since = 1",
    "a paused account without a time": "UPDATE account SET state = 'paused'",
    "an account removed with its mail": "DELETE FROM account",
    "a message removed with its deliveries": "DELETE FROM message",
    "two messages of one id": "INSERT INTO message (request_id, account_id, reverse_path, subject, size, smtputf8, "
    "accepted_at) SELECT request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at FROM message LIMIT 1",
}


class TestConstraints:
    @pytest.mark.parametrize("name", IMPOSSIBLE)
    def test_refuse(self, post: Post, name: str) -> None:
        post.add()
        post.claim()
        post.add()
        before = post.database.contents()
        with pytest.raises(post.database.violation):
            post.database.rows(IMPOSSIBLE[name])
        assert post.database.contents() == before

    @pytest.mark.only("sqlite")
    def test_refuse_a_claim_by_nobody_known(self, post: Post) -> None:
        post.add()
        post.claim()
        with pytest.raises(post.database.violation):
            post.database.rows("UPDATE job SET claimed_by = 4711 WHERE state = 'claimed'")

    def test_are_what_a_piece_of_work_is_told_as_a_store_error(self, post: Post, database: Database) -> None:
        with pytest.raises(StoreError, match=r"(?i)check constraint"):
            post.store.write(Accounts.suspend, post.anna, state="active", reason="", resume_at=FAR, now=NOW)
        assert database.value("SELECT state FROM account") == "active"
