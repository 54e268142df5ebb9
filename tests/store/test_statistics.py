"""Counts per account and day: what is counted, pages of them, and percentiles from a scale."""

from __future__ import annotations

import pytest

from postroom.core import daily
from postroom.core.clock import DAY, SECOND
from postroom.store.statistics import DayOfAccount, Statistics
from tests.store.database import FAILED, LATER, NOW, SENT, Post
from tests.store.test_listings import note

TODAY = daily.day_of(NOW)


def days(post: Post, most: int = 100, first: int = 0, *accounts: int) -> list[DayOfAccount]:
    return post.store.read(
        Statistics.days, most, before=(TODAY + 9, 0), first_day=first, accounts=accounts or None
    )


def test_messages_are_counted_on_the_day_of_their_acceptance_and_of_their_end(post: Post) -> None:
    post.add()
    post.add()
    post.finish(post.claim(most=1)[0], SENT, now=LATER)
    post.finish(post.claim(most=1)[0], FAILED, now=NOW + DAY)
    note(post.store)
    [second, first] = days(post)
    assert (first.day, first.accepted, first.sent, first.failed) == (TODAY, 2, 1, 0)
    assert (second.day, second.accepted, second.sent, second.failed) == (TODAY + 1, 0, 0, 1)
    assert first.median == first.p95 == pytest.approx(LATER - NOW, rel=0.03)
    assert (second.median, second.p95) == (None, None)


def test_pages_and_accounts(post: Post) -> None:
    berta = post.add_account("berta@example.com")
    for day in range(0, 300, 60):
        for account in (post.anna, berta):
            post.add(account=account, at=NOW - day * DAY)
    note(post.store)
    everything = days(post)
    assert [(each.day, each.account_id) for each in everything] == [
        (TODAY - day, account) for day in range(0, 300, 60) for account in (berta, post.anna)
    ]
    for most in (1, 3):
        found: list[DayOfAccount] = []
        before = (TODAY + 1, 0)
        while True:
            some = post.store.read(Statistics.days, most, before=before, first_day=0, accounts=None)
            if not some:
                break
            found += some
            before = some[-1].day, some[-1].account_id
        assert found == everything
    of_berta = [each for each in everything if each.account_id == berta]
    assert days(post, 100, 0, berta) == of_berta
    assert days(post, 2, 0, berta) == of_berta[:2]
    assert days(post, 100, TODAY - 60, berta) == of_berta[:2]
    assert days(post, 100, TODAY - 60) == everything[:4]


def test_old_counts_are_forgotten_with_the_history(post: Post) -> None:
    for day in range(4):
        post.add(at=NOW - day * DAY)
    note(post.store)
    assert post.store.write(Statistics.prune, TODAY - 1, 100) == 2
    assert [each.day for each in days(post)] == [TODAY, TODAY - 1]


def test_percentiles_are_right_to_a_few_percent() -> None:
    times = [number * SECOND // 100 for number in range(1, 1001)]
    steps: dict[int, int] = {}
    for time in times:
        steps[daily.step_of(time)] = steps.get(daily.step_of(time), 0) + 1
    assert daily.percentile(steps, 0.5) == pytest.approx(5 * SECOND, rel=0.05)
    assert daily.percentile(steps, 0.95) == pytest.approx(9.5 * SECOND, rel=0.05)
    assert daily.percentile({}, 0.5) is None
    assert daily.percentile({daily.step_of(-5): 1}, 0.5) == 1000


@pytest.mark.parametrize(
    ("text", "at"), [("1970-01-02", DAY), ("1970-01-01T01:00:00+01:00", 0), ("1970-01-01T00:00:01Z", SECOND)]
)
def test_a_day_is_its_beginning_in_utc(text: str, at: int) -> None:
    assert daily.parse_time_or_day(text) == at
    assert daily.date_of(daily.day_of(at)) == text[:8] + ("02" if at == DAY else "01")


@pytest.mark.parametrize("text", ["2027-02-30", "2027-1-1", "tomorrow", "2027-01-31T12:00:00", ""])
def test_what_is_no_day_is_refused_with_the_way_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="2027-01-31T12:00:00Z"):
        daily.parse_time_or_day(text)
