"""A million messages on each engine: notes are made of all, every list is read, and the times are printed (`make soak`)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from postroom.core.clock import MINUTE, SECOND
from postroom.core.listing import Filter
from postroom.core.status_word import StatusWord
from postroom.store.listings import MOST_LOOKED_AT, NEWEST, Listings
from postroom.store.projection import Projection
from postroom.worker.listings import ListingRunner
from tests.soak import SOAK
from tests.store.database import NOW, Database, Post, PostgresDatabase

MESSAGES = 1_000_000
WAITING = 100_000  # of the newest
STEP = SECOND  # between two messages

pytestmark = [
    pytest.mark.skipif(not SOAK, reason="a million messages are for make soak"),
    pytest.mark.timeout(3600),
]


def _numbers(database: Database) -> str:
    if isinstance(database, PostgresDatabase):
        return f"SELECT n FROM generate_series(1, {MESSAGES}) AS n"
    return f"WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {MESSAGES}) SELECT n FROM g"


def _fill(post: Post) -> None:
    """Have a million messages of ten accounts: of a hundred one has failed, and the newest wait."""
    for number in range(9):
        post.add_account(f"account{number}@example.com")
    is_postgres = isinstance(post.database, PostgresDatabase)
    hex_ = "lpad(to_hex(n), 12, '0')" if is_postgres else "printf('%012x', n)"
    sent = MESSAGES - WAITING
    numbers = f"FROM ({_numbers(post.database)}) AS numbers"
    state = f"CASE WHEN n > {sent} THEN 'queued' WHEN n % 100 = 0 THEN 'failed' ELSE 'done' END"
    at = f"{NOW} + CAST(n AS BIGINT) * {STEP}"
    ended = f"CASE WHEN n <= {sent} THEN {at} + (n % 1000) * 10000 END"
    for statement in (
        (
            "INSERT INTO message (id, request_id, account_id, reverse_path, subject, size, smtputf8, accepted_at) "
            f"SELECT n, '00000000-0000-7000-8000-' || {hex_}, 1 + n % 10, 'a@example.com', "
            f"'Invoice No. ' || n, 100, 0, {at} {numbers}"
        ),
        (
            "INSERT INTO delivery (message_id, forward_path, state, reason, finished_at) "
            "SELECT n, 'user' || (n % 100003) || '@host' || (n % 1009) || '.example', "
            f"CASE {state} WHEN 'done' THEN 'sent' WHEN 'queued' THEN 'pending' ELSE 'failed' END, "
            f"CASE {state} WHEN 'failed' THEN '550 no' END, {ended} {numbers}"
        ),
        (
            "INSERT INTO job (kind, lane, message_id, state, due_at, finished_at) "
            f"SELECT 'delivery', 1 + n % 10, n, {state}, {at}, {ended} {numbers}"
        ),
        f"INSERT INTO event (message_id, at, kind) SELECT n, {at}, 'accepted' {numbers}",
        (
            f"INSERT INTO event (message_id, at, kind) SELECT n, {ended}, "
            "CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'sent' END "
            f"{numbers} WHERE n <= {sent}"
        ),
    ):
        post.database.rows(statement)
    if is_postgres:
        for table in ("message", "delivery", "job", "event"):
            post.database.rows(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
            )
        post.database.rows("ANALYZE")


FILTERS = {
    "all": Filter(),
    "account": Filter(accounts=(3,)),
    "account without any": Filter(accounts=(999,)),
    "address": Filter(recipient="user77@host77.example"),
    "address without any": Filter(recipient="nobody@example.org"),
    "domain": Filter(recipient="@host7.example"),
    "domain without any": Filter(recipient="@example.org"),
    "a week in between": Filter(since=NOW + 300_000 * STEP, until=NOW + 300_100 * STEP),
    "before everything": Filter(until=NOW - MINUTE),
    "account, some minutes": Filter(accounts=(3,), since=NOW + 300_000 * STEP, until=NOW + 300_100 * STEP),
    "domain, some minutes": Filter(
        recipient="@host7.example", since=NOW + 300_000 * STEP, until=NOW + 303_000 * STEP
    ),
    "failed, some minutes": Filter(
        status=StatusWord.FAILED, since=NOW + 300_000 * STEP, until=NOW + 300_300 * STEP
    ),
    **{word.value: Filter(status=word) for word in StatusWord},
    **{
        f"{word.value} of an account": Filter(status=word, accounts=(3,))
        for word in StatusWord
        if word is not StatusWord.HELD
    },
}


def _pages(post: Post) -> Iterator[str]:
    for name, wanted in FILTERS.items():
        times, shown = list[float](), 0
        for _ in range(5):
            began = time.perf_counter()
            page = post.store.read(Listings.page, wanted, 20, before=NEWEST, now=NOW)
            shown = len(page.messages)
            times.append(time.perf_counter() - began)
            assert not page.is_partial, name
        yield f"{name:28} {shown:3} messages  {1000 * sorted(times)[2]:7.1f} ms"
    began = time.perf_counter()
    page = post.store.read(Listings.page, Filter(words=("nothing",)), 20, before=NEWEST, now=NOW)
    assert page.is_partial
    yield f"{f'a look at {MOST_LOOKED_AT}':28}               {1000 * (time.perf_counter() - began):7.1f} ms"


def test_a_million_messages_are_noted_and_listed(
    post: Post, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(post)
    monkeypatch.setattr("postroom.worker.listings._FORMER_PAUSE_S", 0)
    runner = ListingRunner(post.store, lambda: False)
    began = time.perf_counter()
    while post.store.read(Projection.marks) is None or runner.has_more:
        runner.run()
    noted = time.perf_counter() - began
    if isinstance(post.database, PostgresDatabase):
        post.database.rows("ANALYZE")
    with capsys.disabled():
        print(f"\n{type(post.database).__name__}: {MESSAGES} messages noted in {noted:.0f} s")
        print("\n".join(_pages(post)))
