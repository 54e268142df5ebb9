"""The screen of `postroom top`: it fits its terminal, and no column is lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from postroom.cli.top import _AccountNow, _lines, _Now
from postroom.core.account import Account
from postroom.core.clock import SECOND
from postroom.store.accounts import StoredAccount
from postroom.store.messages import NO_JOBS

RATES = {"accepted": 12.0, "sent": 3.0, "deferred": 2.0, "failed": 1.0}
WHY = "cannot connect to 127.0.0.1:2999: Connection refused"
LONG = f"{'b' * 50}@subsidiary.example.com"


def now(*mailboxes: str) -> _Now:
    accounts = []
    for mailbox in mailboxes:
        stored = StoredAccount(cast("Account", SimpleNamespace(email=mailbox)), None)
        accounts.append(_AccountNow(stored, NO_JOBS, RATES, "failing", WHY))
    return _Now(1_800_000_000 * SECOND, [], accounts)


@pytest.mark.parametrize("width", [80, 100])
def test_a_long_mailbox_is_cut_and_the_reason_stands_below(width: int) -> None:
    lines = _lines(now("ann@example.com", LONG), 24, width)[4:]
    assert [line.split()[-1] for line in lines[1::2]] == ["1", "1"]
    assert lines[2::2] == [f"    {WHY}"] * 2
    assert all(len(line) <= width for line in lines)
    assert lines[0].split() == ["account", "state", "waiting", "held", *RATES]
    assert lines[3].startswith("bbb")
    assert "…" in lines[3]


def test_what_is_no_terminal_gets_a_line_for_each_account() -> None:
    lines = _lines(now("ann@example.com", LONG), None)[4:]
    assert [line.endswith(WHY) for line in lines] == [False, True, True]
    assert LONG in lines[2]


def test_the_screen_has_its_height() -> None:
    lines = _lines(now(*(f"{number}{LONG}" for number in range(30))), 24, 80)
    assert len(lines) < 24
    assert lines[-1] == "and 22 other accounts"
