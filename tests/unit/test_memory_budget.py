"""What a worker takes in is bounded, whatever the sizes of messages and the number of accounts."""

from __future__ import annotations

import pytest

from postroom.worker.memory import MOST_IN_HAND, MemoryBudget

MIB = 1024 * 1024
LARGEST = 25 * MIB
MOST_EVER = 80 * MIB


@pytest.mark.parametrize("accounts", [1, 2, 3, 50, 1000])
@pytest.mark.parametrize("in_hand", [1, MIB, 40 * MIB, MOST_IN_HAND - 1, MOST_IN_HAND, 70 * MIB, MOST_EVER])
def test_all_claims_together_fit(accounts: int, in_hand: int) -> None:
    budget = MemoryBudget(LARGEST)
    for _ in range(3):
        shares = budget.shares(range(accounts), in_hand)
        taken = sum(max(share.most_bytes, share.first_bytes) for share in shares)
        assert in_hand + taken <= max(MOST_EVER, in_hand)
        for account in range(accounts):
            budget.note(account, got_some=False)


def test_every_account_has_its_turn_for_a_large_message() -> None:
    budget, served = MemoryBudget(LARGEST), []
    for _ in range(20):
        waiting = [account for account in range(20) if account not in served]
        for account, share in zip(waiting, budget.shares(waiting, MIB), strict=True):
            is_served = share.first_bytes >= LARGEST
            budget.note(account, got_some=is_served)
            served += [account] if is_served else []
    assert sorted(served) == list(range(20))


def test_what_brought_nothing_in_gives_its_permit_to_the_next() -> None:
    """An account may be due and have nothing that it may take: its pace, its limit."""
    budget, accounts = MemoryBudget(LARGEST), [1, 2, 3]
    permitted = []
    for _ in accounts:
        shares = budget.shares(accounts, MIB)
        permitted += [
            account for account, share in zip(accounts, shares, strict=True) if share.first_bytes >= LARGEST
        ]
        for account in accounts:
            budget.note(account, got_some=False)
    assert sorted(permitted) == accounts


def test_large_messages_that_hang_keep_no_small_one_waiting() -> None:
    shares = MemoryBudget(LARGEST).shares([1, 2], MOST_IN_HAND)
    assert [share.first_bytes for share in shares] == [MIB, MIB]


def test_nothing_is_so_large_that_it_is_never_sent() -> None:
    assert MemoryBudget(MIB).shares([1], 0)[0].first_bytes > 1 << 40
