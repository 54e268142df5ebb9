"""The choice of a pool's account: weights, state, room in the daily limit, load and threads."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.accounts.pool_choice import Member, catch_up, choose, give
from postroom.core.account import Account, AccountState
from postroom.core.clock import SECOND, Instant
from postroom.core.errors import NotPermitted

NOW: Instant = 1_700_000_000 * SECOND
HOUR = 3600 * SECOND
ACTIVE, PARKED, PAUSED = AccountState.ACTIVE, AccountState.PARKED, AccountState.PAUSED


def member(
    id_: int,
    weight: int = 1,
    *,
    state: AccountState = ACTIVE,
    resume_at: Instant | None = None,
    closing_at: Instant | None = None,
    limit: int | None = None,
    used: int = 0,
    room_at: Instant = NOW + HOUR,
    waiting: int = 0,
) -> Member:
    account = Account(id_, f"{id_}@example.com", state=state, resume_at=resume_at, closing_at=closing_at)
    return Member(account, weight, limit, used, room_at, waiting)


def take(members: list[Member], recipients: int = 1, thread: int | None = None, now: Instant = NOW) -> int:
    catch_up(members, recipients=recipients, now=now)
    chosen = choose(members, recipients=recipients, now=now, thread=thread)
    give(chosen, recipients)
    return chosen.account.id


def test_weights_are_respected_over_a_thousand_choices() -> None:
    members = [member(1, 5), member(2, 3), member(3, 2)]
    assert Counter(take(members) for _ in range(1000)) == {1: 500, 2: 300, 3: 200}


@given(st.lists(st.integers(1, 100), min_size=1, max_size=10))
def test_any_weights_are_respected_to_one_message(weights: list[int]) -> None:
    members = [member(id_, weight) for id_, weight in enumerate(weights)]
    found = Counter(take(members) for _ in range(sum(weights)))
    assert all(abs(found[id_] - weight) <= len(weights) for id_, weight in enumerate(weights))


def test_equals_are_chosen_in_the_order_of_their_rows() -> None:
    members = [member(2), member(1)]
    assert [take(members) for _ in range(4)] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "unable",
    [
        member(1, 100, state=PAUSED),
        member(1, 100, state=PAUSED, resume_at=NOW + 1),
        member(1, 100, state=PARKED, resume_at=NOW + HOUR),
        member(1, 100, closing_at=NOW),
        member(1, 100, limit=10, used=10),
        member(1, 100, limit=10, used=4, waiting=6),
    ],
)
def test_one_that_cannot_send_now_is_passed_over(unable: Member) -> None:
    members = [unable, member(2)]
    assert {take(members) for _ in range(10)} == {2}


def test_one_whose_rest_is_over_is_tried() -> None:
    assert take([member(1, state=PAUSED, resume_at=NOW), member(2, state=PAUSED)]) == 1


def test_what_was_given_since_the_last_look_counts_towards_the_limit() -> None:
    members = [member(1, limit=3), member(2, limit=100)]
    assert Counter(take(members) for _ in range(20)) == {1: 3, 2: 17}
    assert take([member(1, limit=5, used=3), member(2)], recipients=3) == 2


def test_waiting_messages_move_the_choice_to_others() -> None:
    members = [member(1, waiting=100), member(2)]
    assert Counter(take(members) for _ in range(100)) == {2: 100}
    assert Counter(take(members) for _ in range(100)) == {1: 50, 2: 50}


def test_one_that_comes_back_does_not_make_up_for_what_it_missed() -> None:
    away, other = member(1, state=PAUSED), member(2)
    for _ in range(100):
        assert take([away, other]) == 2
    back = member(1)
    assert Counter(take([back, other]) for _ in range(100)) == {1: 50, 2: 50}


@pytest.mark.parametrize("state", [ACTIVE, PARKED, PAUSED])
def test_a_thread_stays_on_its_mailbox(state: AccountState) -> None:
    members = [member(1), member(2, state=state)]
    assert {take(members, thread=2) for _ in range(5)} == {2}


def test_a_thread_of_no_member_or_of_one_that_is_being_deleted_goes_anywhere() -> None:
    assert take([member(1), member(2, closing_at=NOW)], thread=2) == 1
    assert take([member(1)], thread=7) == 1


def test_where_nobody_can_it_waits_for_the_first_that_will() -> None:
    paused = member(1, state=PAUSED)
    parked = member(2, state=PARKED, resume_at=NOW + HOUR)
    spent = member(3, limit=1, used=1, room_at=NOW + HOUR - 1)
    assert take([paused, parked, spent]) == 3
    assert take([paused, parked]) == 2
    assert take([paused]) == 1


def test_a_pool_without_an_account_is_refused() -> None:
    for members in ([], [member(1, closing_at=NOW)]):
        with pytest.raises(NotPermitted):
            take(members)
