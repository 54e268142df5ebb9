"""What an attempt means (docs/design.md §5), row by row: the server's words in, the whole Decision out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.account import Account
from postroom.core.account_verdict import RESET, AccountMove, judge_connection, reason_for_all
from postroom.core.classify import classify, parse_enhanced
from postroom.core.clock import DAY, HOUR, MINUTE, SECOND, Instant
from postroom.core.decide import (
    MOST_CRASHES,
    STEP_BACK,
    Decision,
    DeliveryState,
    RetrySchedule,
    WorkerEnd,
    decide,
    decide_abandoned,
    decide_damaged,
    decide_released,
    decision_of,
)
from postroom.core.events import FIELDS, EventKind
from postroom.core.job import ClaimedJob, PendingDelivery
from postroom.core.message import InDoubtPolicy
from postroom.core.outcome import Blame, Deferred, Failed, InDoubt, Meaning, Outcome, Reply, Sent
from postroom.core.reply_rows.row import Place

NOW: Instant = 1_700_000_000 * SECOND
ACCEPTED: Instant = NOW - MINUTE
SCHEDULE = RetrySchedule([30 * SECOND, 2 * MINUTE], 4 * DAY, lambda: 0.5)
RETRY, HOLD, FAIL = InDoubtPolicy.RETRY, InDoubtPolicy.HOLD, InDoubtPolicy.FAIL

NEW = Account(1, "anna@example.com")
WORKED = replace(NEW, worked_at=NOW - DAY)

SENT = Sent(Reply(250, "queued", "2.0.0"))
DOUBT = InDoubt("no answer")
PENDING, TAKEN, REFUSED = DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.FAILED


def job(recipients: int = 1, **fields: Any) -> ClaimedJob:
    given = ClaimedJob(
        id=1, token=2, attempt=1, message_id=3, request_id="r", account_id=1, reverse_path="anna@example.com",
        deliveries=tuple(PendingDelivery(10 + each, f"bob{each}@example.org") for each in range(recipients)),
        mime=b"", smtputf8=False, accepted_at=ACCEPTED, one_recipient=recipients == 1,
    )  # fmt: skip
    return replace(given, **fields)


def said(words: str, place: Place) -> Outcome:
    """Return what the server's words mean at this place: `550 5.1.1 No such user`."""
    code, _, rest = words.partition(" ")
    enhanced = parse_enhanced(rest)
    return classify(Reply(int(code), rest.removeprefix(enhanced or "").strip(), enhanced), place)


def of(claimed: ClaimedJob, *outcomes: Outcome) -> Mapping[int, Outcome]:
    return dict(zip((delivery.id for delivery in claimed.deliveries), outcomes, strict=True))


def decided(
    *outcomes: Outcome,
    account: Account = WORKED,
    policy: InDoubtPolicy = RETRY,
    sending: bool = True,
    **fields: Any,
) -> Decision:
    claimed = job(len(outcomes), **fields)
    return decide(claimed, of(claimed, *outcomes), account, policy, SCHEDULE, NOW, sending=sending)


@dataclass(frozen=True)
class Row:
    """One row of the table, and what it does to one message and its account."""

    meaning: str
    words: str
    place: Place
    state: DeliveryState = PENDING
    wait: int | None = 0  # until the next try; None: there is none
    counts: bool = False
    move: AccountMove | None = None
    account: Account = WORKED

    def __str__(self) -> str:
        return f"{self.meaning}: {self.words} at {self.place.value}"


LATER, AT_ONCE, NEVER = 30 * SECOND, 0, None
ROWS = [
    Row("sent", "250 2.0.0 queued", Place.DOT, TAKEN, NEVER, move=AccountMove.RESET),
    Row("limit", "550 5.4.5 Daily user sending limit exceeded.", Place.MAIL, move=AccountMove.PARK),
    Row("rate", "450 4.2.1 sending too fast, slow down", Place.MAIL, move=AccountMove.SLOW),
    Row("rate", "451 4.3.0 any other refusal of MAIL", Place.MAIL, move=AccountMove.SLOW),
    Row("account", "535 5.7.8 bad password", Place.AUTH, move=AccountMove.PAUSE),
    Row("account", "535 5.7.8 bad password", Place.AUTH, REFUSED, NEVER, move=AccountMove.REFUSE, account=NEW),
    Row("recipient", "550 5.1.1 No such user", Place.RCPT, REFUSED, NEVER),
    Row("recipient", "450 4.2.0 greylisted", Place.RCPT, wait=LATER, counts=True),
    Row("recipient", "552 5.2.2 mailbox full", Place.RCPT, wait=LATER, counts=True),
    Row("message", "554 5.6.0 not like this", Place.DOT, REFUSED, NEVER),
    Row("message", "451 4.3.0 try again", Place.DOT, wait=LATER, counts=True),
    Row("later", "421 4.3.2 closing", Place.RCPT, wait=LATER, counts=True),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_row_of_the_table(row: Row) -> None:
    decision = decided(said(row.words, row.place), account=row.account)
    [result] = decision.deliveries
    assert result.state is row.state
    assert (decision.account.move if decision.account else None) is row.move
    if row.wait is None:
        assert decision.next_try is None
        return
    assert decision.next_try is not None
    assert decision.next_try.due_at == NOW + row.wait
    assert decision.next_try.counts is row.counts
    assert not decision.next_try.is_held
    assert decision.next_try.is_behind is (row.move is not None), (
        "what drew a refusal of the account goes last"
    )


@pytest.mark.parametrize(
    ("words", "place", "others", "move"),
    [
        ("421 Too many concurrent SMTP connections; please try again later.", Place.GREETING, 0, AccountMove.NO_PLACE),
        ("421 Too many concurrent SMTP connections; please try again later.", Place.GREETING, 1, AccountMove.MAKE_DO),
        ("454 4.7.0 Too many login attempts, please try again later.", Place.AUTH, 0, AccountMove.PARK),
        ("454 4.7.0 Too many login attempts, please try again later.", Place.AUTH, 1, AccountMove.MAKE_DO),
        ("535 5.7.8 bad password", Place.AUTH, 0, AccountMove.PAUSE),
        ("535 5.7.8 bad password", Place.AUTH, 1, AccountMove.PAUSE),
        ("451 4.3.0 not now", Place.EHLO, 0, AccountMove.BACK_OFF),
    ],
)  # fmt: skip
def test_a_connection_that_cannot_be_opened(words: str, place: Place, others: int, move: AccountMove) -> None:
    assert judge_connection(said(words, place), WORKED, others).move is move


def test_an_account_that_never_worked_has_its_messages_fail_with_the_reason() -> None:
    refusal = said("535 5.7.8 bad password", Place.AUTH)
    assert judge_connection(refusal, NEW, 0).move is AccountMove.REFUSE
    decision = decided(refusal, account=NEW, sending=False)
    assert decision.is_over
    assert decision.events[0].detail == decision.deliveries[0].reason
    assert "bad password" in (decision.deliveries[0].reason or "")


@pytest.mark.parametrize(("waited", "counts"), [(MINUTE, False), (4 * DAY + HOUR, True)])
def test_a_server_without_a_place_costs_no_try_until_it_is_late(waited: int, *, counts: bool) -> None:
    full = said("421 Too many concurrent SMTP connections; please try again later.", Place.GREETING)
    assert isinstance(full, Deferred)
    decision = decided(full, sending=False, accepted_at=NOW - waited)
    assert decision.next_try is not None
    assert decision.next_try.counts is counts
    again = decided(full, sending=False, accepted_at=NOW - waited, attempt=50)
    assert (again.deliveries[0].state is REFUSED) is counts, "it ends some day"


@pytest.mark.parametrize(
    ("words", "most"),
    [("550 5.4.5 Daily user sending limit exceeded.", 3), ("450 4.2.1 sending too fast, slow down", 6)],
)
def test_a_refusal_that_one_message_alone_draws_is_its_own(words: str, most: int) -> None:
    account = replace(WORKED, passed_at=NOW - MINUTE)
    refusal = said(words, Place.MAIL)
    before = decided(refusal, account=account, drawn=most - 2, drawn_at=NOW - HOUR)
    assert before.account is not None
    drawn = decided(refusal, account=account, drawn=most - 1, drawn_at=NOW - HOUR)
    assert drawn.account is None
    assert drawn.deliveries[0].state is (REFUSED if words.startswith("5") else PENDING)
    none_passed = decided(refusal, account=WORKED, drawn=most - 1, drawn_at=NOW - HOUR)
    assert none_passed.account is not None, "nothing else has passed in between"


def test_a_limit_rests_for_the_period_in_its_words_an_hour_at_most() -> None:
    for period, rest in ((None, HOUR), (10 * MINUTE, 10 * MINUTE), (DAY, HOUR)):
        limit = Deferred("limit", Blame.ACCOUNT, None, False, Meaning.LIMIT, period)
        verdict = decided(limit).account
        assert verdict is not None
        assert verdict.rest == rest


@pytest.mark.parametrize(
    ("policy", "state", "held", "kinds"),
    [
        (RETRY, PENDING, False, [EventKind.IN_DOUBT, EventKind.POSSIBLE_DUPLICATE]),
        (HOLD, PENDING, True, [EventKind.IN_DOUBT]),
        (FAIL, REFUSED, None, [EventKind.IN_DOUBT]),
    ],
)
@pytest.mark.parametrize("own", [False, True], ids=["the installation's policy", "the message's own"])
def test_a_doubt_is_treated_by_policy(
    policy: InDoubtPolicy, state: DeliveryState, held: bool | None, kinds: list[EventKind], *, own: bool
) -> None:
    other = next(each for each in InDoubtPolicy if each is not policy)
    decision = decided(DOUBT, policy=other, in_doubt=policy) if own else decided(DOUBT, policy=policy)
    [result] = decision.deliveries
    assert result.state is state
    assert (decision.next_try.is_held if decision.next_try else None) is held
    assert [event.kind for event in decision.events] == kinds
    assert decision.unused == 0, "it may have been sent: it stays counted towards the daily limit"


def test_what_was_tried_for_too_long_is_given_up() -> None:
    late: dict[str, Any] = {"accepted_at": NOW - 5 * DAY, "attempt": 9}
    deferred = decided(Deferred("busy", Blame.MESSAGE), **late)
    assert deferred.deliveries[0].reason == "given up after too many tries: busy"
    doubted = decided(DOUBT, **late)
    assert doubted.deliveries[0].reason == "given up; it may have been sent: no answer"
    held = decided(DOUBT, policy=HOLD, **late)
    assert held.next_try is not None
    assert held.next_try.is_held
    of_the_account = decided(said("550 5.4.5 Daily user sending limit exceeded.", Place.MAIL), **late)
    assert of_the_account.deliveries[0].state is PENDING


def test_recipients_beyond_the_servers_number_have_a_transaction_of_their_own_at_once() -> None:
    too_many = Deferred("452 too many", Blame.RECIPIENT, Reply(452, "too many recipients", "4.5.3"))
    decision = decided(SENT, too_many)
    assert decision.next_try is not None
    assert decision.next_try.due_at == NOW
    alone = decided(too_many)
    assert alone.next_try is not None
    assert alone.next_try.due_at > NOW


def test_the_short_way_of_a_message_to_one_recipient_leads_to_the_same() -> None:
    claimed = job()
    long_way = decision_of(claimed, of(claimed, SENT), RETRY, now=NOW, account=RESET)
    assert decided(SENT) == long_way


def test_a_message_beyond_the_limit_goes_on_for_its_other_recipients() -> None:
    decision = decided(SENT, partial=True)
    assert decision.next_try is not None
    assert (decision.next_try.due_at, decision.next_try.counts) == (NOW, False)


# -- a worker that is gone


def ended(
    *, crashed: bool = True, suspect: bool = True, dot: bool = False, crashes: int = 0, recipients: int = 1,
    policy: InDoubtPolicy = RETRY,
) -> Decision:  # fmt: skip
    end = WorkerEnd(has_crashed=crashed, is_suspect=suspect, dot_has_left=dot, crashes=crashes)
    return decide_abandoned(job(recipients), end, policy, NOW)


def test_a_worker_that_dies_before_the_dot_leaves_a_plain_retry() -> None:
    decision = ended()
    assert [event.kind for event in decision.events] == [EventKind.CRASHED]
    assert decision.next_try is not None
    assert (decision.next_try.due_at, decision.next_try.counts) == (NOW, True)
    assert (decision.deliveries, decision.outcome, decision.unused) == ((), None, 1)


def test_a_worker_that_signs_off_leaves_no_trace() -> None:
    assert ended(crashed=False) == decide_released(job(), NOW)


@pytest.mark.parametrize("policy", InDoubtPolicy)
def test_a_worker_that_dies_after_the_dot_leaves_a_doubt(policy: InDoubtPolicy) -> None:
    decision = ended(dot=True, policy=policy, suspect=False, recipients=2)
    assert {event.kind for event in decision.events} >= {EventKind.IN_DOUBT}
    assert decision.unused == 0
    assert (decision.next_try is None) is (policy is FAIL)
    if decision.next_try is not None:
        assert decision.next_try.is_held is (policy is HOLD)
        assert all(result.possible_duplicate for result in decision.deliveries)


@pytest.mark.parametrize("dot", [False, True])
def test_a_message_that_workers_die_with_waits_for_a_person(*, dot: bool) -> None:
    seen = [ended(crashes=crashes, dot=dot) for crashes in range(MOST_CRASHES)]
    assert all(decision.is_crash for decision in seen)
    tries = [decision.next_try for decision in seen if decision.next_try is not None]
    assert [each.due_at - NOW for each in tries] == [0, STEP_BACK, STEP_BACK]
    assert [each.is_held for each in tries] == [False, False, True]
    last = seen[-1]
    assert last.events[-1].kind is EventKind.HELD
    assert last.deliveries[0].reason == last.events[-1].detail
    assert last.deliveries[0].possible_duplicate is dot, "a person must know that it may have been sent"
    innocent = ended(crashes=MOST_CRASHES, suspect=False)
    assert innocent.next_try is not None
    assert not innocent.next_try.is_held


def test_an_altered_envelope_is_not_sent_and_its_neighbours_are() -> None:
    claimed = job(2)
    decision = decide_damaged(claimed, {10: Failed("altered", Blame.MESSAGE)}, RETRY, NOW)
    assert [result.state for result in decision.deliveries] == [REFUSED, PENDING]
    assert decision.next_try is not None
    assert decision.next_try.due_at == NOW


# -- properties

replies = st.builds(
    Reply, st.sampled_from([421, 450, 452, 550, 552, 554]), st.just("no"), st.sampled_from([None, "4.5.3", "5.1.1"])
)  # fmt: skip
deferrals = st.builds(
    Deferred, st.just("not now"), st.sampled_from(Blame), st.none() | replies, st.booleans(),
    st.none() | st.sampled_from(Meaning), st.none() | st.integers(1, DAY),
)  # fmt: skip
failures = st.builds(
    Failed, st.just("never"), st.sampled_from(Blame), st.none() | replies, st.none() | st.sampled_from(Meaning)
)  # fmt: skip
any_outcomes = st.lists(st.one_of(st.just(SENT), deferrals, failures, st.just(DOUBT)), min_size=1, max_size=4)
any_jobs = st.fixed_dictionaries({
    "attempt": st.integers(1, 20), "accepted_at": st.integers(NOW - 10 * DAY, NOW), "partial": st.booleans(),
    "in_doubt": st.none() | st.sampled_from(InDoubtPolicy), "drawn": st.integers(0, 9),
    "drawn_at": st.none() | st.just(NOW - HOUR),
})  # fmt: skip
accounts = st.sampled_from([NEW, WORKED, replace(WORKED, passed_at=NOW - MINUTE)])
policies = st.sampled_from(InDoubtPolicy)


@given(any_outcomes, any_jobs, accounts, policies)
def test_of_every_attempt(
    outcomes: list[Outcome], fields: dict[str, Any], account: Account, policy: InDoubtPolicy
) -> None:
    decision = decided(*outcomes, account=account, policy=policy, **fields)
    policy = fields["in_doubt"] or policy
    assert [result.id for result in decision.deliveries] == [10 + each for each in range(len(outcomes))]
    for outcome, result in zip(outcomes, decision.deliveries, strict=True):
        if isinstance(outcome, Sent):
            assert result.state is TAKEN, "who has it gets it no second time"
        else:
            assert result.state is not TAKEN
        if isinstance(outcome, Failed) and outcome.blame is not Blame.ACCOUNT:
            assert result.state is REFUSED, "what is final is never tried again"
        if isinstance(outcome, InDoubt) and policy is FAIL:
            assert result.state is REFUSED
    is_held = decision.next_try is not None and decision.next_try.is_held
    assert is_held is (DOUBT in outcomes and policy is HOLD), (
        "what is held is not sent, and nothing else is held"
    )
    waits = any(result.state is PENDING for result in decision.deliveries)
    assert (decision.next_try is not None) is (waits or fields["partial"])
    if decision.next_try is not None:
        assert decision.next_try.due_at >= NOW
        assert decision.next_try.counts or decision.next_try.due_at == NOW, (
            "uncounted tries wait for the account"
        )


@given(any_outcomes, any_jobs, accounts, policies)
def test_events_have_the_fields_of_their_kind_and_say_what_the_recipients_rows_say(
    outcomes: list[Outcome], fields: dict[str, Any], account: Account, policy: InDoubtPolicy
) -> None:
    decision = decided(*outcomes, account=account, policy=policy, **fields)
    for event in (*decision.events, *ended(crashes=2, dot=True).events, *ended().events):
        assert FIELDS[event.kind].of_recipient is (event.delivery_id is not None)
        assert (FIELDS[event.kind].detail is not None) is (event.detail is not None)
    for result in decision.deliveries:
        first, *more = [event for event in decision.events if event.delivery_id == result.id]
        assert first.detail == (result.reason if result.state is not TAKEN else str(result.reply))
        assert [event.kind for event in more] == [
            EventKind.POSSIBLE_DUPLICATE
        ] * result.possible_duplicate * (decision.next_try is not None and not decision.next_try.is_held)
    assert sum(result.state is TAKEN for result in decision.deliveries) == outcomes.count(SENT)


@given(any_outcomes, any_jobs, policies)
def test_an_account_that_has_worked_fails_no_message(
    outcomes: list[Outcome], fields: dict[str, Any], policy: InDoubtPolicy
) -> None:
    decision = decided(*outcomes, policy=policy, **fields)
    if decision.account is not None and decision.account.move is not AccountMove.RESET:
        for outcome, result in zip(outcomes, decision.deliveries, strict=True):
            if isinstance(outcome, Failed) and outcome.blame is Blame.ACCOUNT:
                assert result.state is PENDING


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("550 5.4.5 limit, <bob.x@b.example> no", "550 5.4.5 limit, <…> no"),
        ("535 bad ANN@example.com.", "535 bad ANN@example.com."),
        ("to=bob@b.example: no ('cy@b.example')", "to=…: no ('…')"),
        ('"a b"@b.example, a@ b', "…, a@ b"),
    ],
)
def test_why_an_account_rests_names_no_other_mailbox(said: str, told: str) -> None:
    assert reason_for_all(said, ("ann@example.com", "")) == told
