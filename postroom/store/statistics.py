"""Counts of messages per account and day, as a worker has noted them, with the median and p95 of the time to sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from postroom.core import daily
from postroom.store.noun import Noun

MOST_DAYS: Final = 100  # of a page
_MOST_ROWS: Final = 10_000  # a day of an account has some 400 at most
LAST_DAY: Final = (1 << 31) - 1


class _Row(NamedTuple):
    day: int
    account_id: int
    measure: str
    step: int
    messages: int


class _Old(NamedTuple):
    day: int
    account_id: int
    measure: str
    step: int


class AccountName(NamedTuple):
    """An account as statistics name it."""

    id: int
    uid: str
    email: str


@dataclass(frozen=True, slots=True)
class DayOfAccount:
    """What an account did on a day; times are in microseconds."""

    day: int
    account_id: int
    accepted: int
    sent: int
    deferred: int
    failed: int
    cancelled: int
    median: int | None
    p95: int | None


class Statistics(Noun):
    def days(
        self, most: int, *, before: tuple[int, int], first_day: int, accounts: Sequence[int] | None
    ) -> list[DayOfAccount]:
        """Return up to `most` days of accounts, the newest first, before this day and account and from `first_day` on."""
        if accounts is None:
            return self._of_all(most, before, first_day)
        found: list[DayOfAccount] = []
        last = before[0]
        while len(found) < most and last >= first_day:
            days = range(max(first_day, last - MOST_DAYS), min(last, LAST_DAY) + 1)
            rows = [row for account_id in accounts for row in self._of_account(days, account_id)]
            found += [each for each in _counted(rows) if (each.day, each.account_id) < before]
            last = days.start - 1
        return found[:most]

    def _of_account(self, days: range, account_id: int) -> list[_Row]:
        return self._tx.rows(_Row, "daily_of", days=json.dumps(list(days)), account_id=account_id)

    def _of_all(self, most: int, before: tuple[int, int], first_day: int) -> list[DayOfAccount]:
        found: list[DayOfAccount] = []
        while len(found) < most:
            day, account_id = before
            rows = self._tx.rows(
                _Row,
                "daily_before",
                day=day,
                account_id=account_id,
                first_day=first_day,
                most=_MOST_ROWS,
            )
            some = _counted(rows)
            if len(rows) < _MOST_ROWS:
                return (found + some)[:most]
            found += some[:-1]  # the last one may lack some of its rows
            before = some[-2].day, some[-2].account_id
        return found[:most]

    def names(self, account_ids: Sequence[int]) -> dict[int, AccountName]:
        """Return the ids in the API and the mailboxes of accounts."""
        rows = self._tx.rows(AccountName, "names_of_accounts", accounts=json.dumps(sorted(set(account_ids))))
        return {row.id: row for row in rows}

    def prune(self, day: int, most: int) -> int:
        """Forget up to `most` counts of before a day; return how many."""
        rows = self._tx.rows(_Old, "daily_old", day=day, count=most)
        for row in rows:
            self._tx.change(
                "forget_daily", day=row.day, account_id=row.account_id, measure=row.measure, step=row.step
            )
        return len(rows)


def _counted(rows: list[_Row]) -> list[DayOfAccount]:
    """Return the days of accounts, the newest first."""
    ordered = sorted(rows, key=lambda row: (row.day, row.account_id), reverse=True)
    return [
        _day(day, account_id, list(of_one))
        for (day, account_id), of_one in groupby(ordered, key=lambda row: (row.day, row.account_id))
    ]


def _day(day: int, account_id: int, rows: list[_Row]) -> DayOfAccount:
    counts = {row.measure: row.messages for row in rows if row.measure != daily.AFTER}
    steps = {row.step: row.messages for row in rows if row.measure == daily.AFTER}
    return DayOfAccount(
        day=day,
        account_id=account_id,
        accepted=counts.get(daily.ACCEPTED, 0),
        sent=counts.get(daily.SENT, 0),
        deferred=counts.get(daily.DEFERRED, 0),
        failed=counts.get(daily.FAILED, 0),
        cancelled=counts.get(daily.CANCELLED, 0),
        median=daily.percentile(steps, 0.5),
        p95=daily.percentile(steps, 0.95),
    )
