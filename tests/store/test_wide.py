"""What a look costs in a database of many accounts: by what has changed or waits, not by how many accounts there are."""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from postroom.core.clock import SECOND
from postroom.store.accounts import Accounts
from postroom.store.sqlite.connections import load_queries
from tests.store.database import LATER, NOW, Post, SQLiteDatabase

SEED = 21
LOOK = "accounts_due"


def _steps(database: SQLiteDatabase) -> int:
    """Return how many steps of SQLite's machine the look for accounts with jobs takes."""
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    values = {"now": NOW, "soon": NOW + 60 * SECOND, "due_from": 0}
    with closing(database.connect()) as connection:
        cursor = connection.execute(getattr(load_queries(), LOOK).sql, values)
        connection.set_progress_handler(count, 1)
        cursor.fetchall()
        connection.set_progress_handler(None)
    return steps


def _add_accounts(post: Post, count: int) -> list[int]:
    names = [f"account{number}@example.com" for number in range(count)]
    return [post.add_account(name) for name in names]


@pytest.mark.only("sqlite")
def test_accounts_without_jobs_cost_a_look_nothing(post: Post, sqlite: SQLiteDatabase) -> None:
    post.add()
    alone = _steps(sqlite)
    _add_accounts(post, 300)
    assert alone > 10, "the steps are counted"
    assert _steps(sqlite) == alone


def test_a_look_finds_those_that_a_look_at_each_finds(post: Post) -> None:
    chance = random.Random(SEED)
    accounts = [post.anna, *_add_accounts(post, 12)]
    for _ in range(40):
        post.add(account=chance.choice(accounts[::2]), at=chance.choice([NOW, NOW + 5, LATER]))
    post.store.write(Accounts.pause_by_person, accounts[2], "for a while", NOW)
    post.store.write(Accounts.suspend, accounts[4], state="parked", reason="451", resume_at=NOW + 5, now=NOW)
    for account in accounts[6:9]:
        post.claim(account=account, now=NOW)
    for now in (NOW - 1, NOW, NOW + 5, LATER, LATER + SECOND):
        jobs = post.database.rows(
            f"SELECT DISTINCT lane FROM job WHERE state = 'queued' AND held = 0 AND due_at <= {now}"
        )
        expected = {lane for (lane,) in jobs} - {accounts[2]}
        if now < NOW + 5:
            expected.discard(accounts[4])
        found = [stored.account.id for stored in post.store.read(Accounts.due, now)]
        assert (set(found), len(found)) == (expected, len(expected))
