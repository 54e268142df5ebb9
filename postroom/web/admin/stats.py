"""The call that counts messages per account and day: accepted, sent, deferred, failed, cancelled, and the time to sent."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from postroom.core import daily
from postroom.core.clock import DAY, SECOND, Instant
from postroom.store.statistics import MOST_DAYS, AccountName, DayOfAccount
from postroom.store.transaction import Transaction
from postroom.web.admin.call import AdminRequest, AnswerModel, Reply, admin_call
from postroom.web.admin.cursors import SealedCursor, opened_cursor, sealed_cursor
from postroom.web.admin.email_lists import accounts_for
from postroom.web.admin.filters import AccountFilter, Span
from postroom.web.admin.values import PageSize

_STATS: Final = "stats"


class StatsQuery(Span):
    """Which days are wanted, in UTC: whole days, those of both times among them. Without `since` 30 days."""

    account: AccountFilter | None = None
    after: SealedCursor | None = None
    limit: PageSize = MOST_DAYS

    def last_day(self, now: Instant) -> int:
        until = self.times[1]
        return daily.day_of(now if until is None else until - 1)

    def first_day(self, now: Instant) -> int:
        since, until = self.times
        if since is None:
            since = (now if until is None else until) - daily.DAYS * DAY
        return max(0, daily.day_of(since))

    def position(self, asked: AdminRequest, now: Instant) -> tuple[int, int]:
        """Return the day and the account before which the page begins. Raises MalformedSubmission."""
        last = self.last_day(now) + 1, 0
        if self.after is None:
            return last
        day, account_id = opened_cursor(asked, _STATS, self.after, 2)
        return min(last, (day, account_id))


class DayAnswer(AnswerModel):
    """What an account did on a day in UTC."""

    day: str
    account: str = Field(description="The id of the account")
    mailbox: str
    accepted: int = Field(description="Messages that were accepted on that day")
    sent: int = Field(
        description="Messages that were sent to all of their recipients; their end is on that day"
    )
    deferred: int = Field(description="Deferrals: a message that is put off twice counts twice")
    failed: int
    cancelled: int
    median_seconds: float | None = Field(description="From acceptance, or the chosen time, to sent")
    p95_seconds: float | None


class StatsAnswer(AnswerModel):
    """A page of days, the newest first."""

    data: list[DayAnswer]
    has_more: bool
    next: str | None = Field(description="What `after` takes for the next page")


def _stats(asked: AdminRequest, query: StatsQuery) -> Reply:
    now = asked.shared.clock()
    accounts = accounts_for(asked, query.account)

    before, first_day = query.position(asked, now), query.first_day(now)

    def read(transaction: Transaction) -> tuple[list[DayOfAccount], dict[int, AccountName]]:
        days = transaction.statistics.days(
            query.limit + 1, before=before, first_day=first_day, accounts=accounts
        )
        return days, transaction.statistics.names([each.account_id for each in days])

    days, names = asked.store.read(read)
    shown, has_more = days[: query.limit], len(days) > query.limit
    last = sealed_cursor(asked, _STATS, shown[-1].day, shown[-1].account_id) if has_more else None
    return Reply(
        200,
        StatsAnswer(
            data=[document_of(each, names[each.account_id]) for each in shown], has_more=has_more, next=last
        ),
    )


def document_of(day: DayOfAccount, name: AccountName) -> DayAnswer:
    """Return the counts of a day; `postroom stats --json` prints the same."""
    return DayAnswer(
        day=daily.date_of(day.day),
        account=name.uid,
        mailbox=name.email,
        accepted=day.accepted,
        sent=day.sent,
        deferred=day.deferred,
        failed=day.failed,
        cancelled=day.cancelled,
        median_seconds=_seconds(day.median),
        p95_seconds=_seconds(day.p95),
    )


def _seconds(time: int | None) -> float | None:
    return None if time is None else round(time / SECOND, 3)


STATS_CALLS: Final = (
    admin_call(
        "GET /v1/stats",
        "listStats",
        "Count messages per account and day",
        StatsQuery,
        _stats,
        {200: StatsAnswer},
        (404,),
    ),
)
