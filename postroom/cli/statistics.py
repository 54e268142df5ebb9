"""`postroom stats`: messages per account and day as a table with a bar for each, or as JSON."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from postroom.cli.aligned import aligned, bar
from postroom.cli.listing import known_accounts, only_of_account
from postroom.cli.values import PastTime, faults_name
from postroom.core import daily
from postroom.core.clock import DAY, MINUTE, SECOND, system_clock
from postroom.core.listing import check_span
from postroom.core.text import printable
from postroom.store.statistics import DayOfAccount, Statistics

if TYPE_CHECKING:
    from postroom.core.clock import Instant
    from postroom.store.statistics import AccountName
    from postroom.store.transaction import Transaction

_PAGE: Final = 100
_BAR: Final = 24  # characters
_HEAD: Final = ("day", "account", "accepted", "sent", "deferred", "failed", "cancelled", "median", "p95")
_TEXTS: Final = frozenset({0, 1, len(_HEAD)})  # the columns that are texts; the others are numbers


@click.command()
@only_of_account
@click.option(
    "--since",
    type=PastTime(),
    metavar="TIME",
    help="From that day on: a duration such as 7d, a day, or a time. By default 30 days.",
)
@click.option("--until", type=PastTime(), metavar="TIME", help="The days before that day.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print each day of an account as GET /v1/stats answers it.",
)
def stats(account: str | None, since: Instant | None, until: Instant | None, as_json: bool) -> None:
    """Count messages per account and day, in UTC: accepted, sent, deferred, failed, cancelled, and the time to sent.

    A message counts on the day on which it was accepted, or ended; one that is deferred twice counts twice there.
    """
    from postroom.runtime import installation
    from postroom.web.admin.stats import document_of

    now = system_clock()
    with faults_name({"until": "--until"}):
        check_span(since, until)
    if since is None:
        since = (now if until is None else until) - daily.DAYS * DAY
    first = daily.day_of(since)
    last = daily.day_of(now if until is None else until - 1)
    service = installation.open_service()
    try:
        accounts = None if account is None else known_accounts(service.store, account)
        days, names = service.store.read(_read, accounts, max(0, first), last)
    finally:
        service.store.close()
    if as_json:
        for day in days:
            click.echo(json.dumps(document_of(day, names[day.account_id]).model_dump(mode="json")))
    elif days:
        click.echo("\n".join(_table(days, names)))
    else:
        click.echo("nothing was accepted or sent in that time", err=True)


def _read(
    transaction: Transaction, accounts: Sequence[int] | None, first: int, last: int
) -> tuple[list[DayOfAccount], dict[int, AccountName]]:
    """Return the days, the oldest first."""
    found: list[DayOfAccount] = []
    before = last + 1, 0
    while True:
        some = Statistics(transaction).days(_PAGE, before=before, first_day=first, accounts=accounts)
        found += some
        if len(some) < _PAGE:
            break
        before = some[-1].day, some[-1].account_id
    return found[::-1], Statistics(transaction).names([each.account_id for each in found])


def _table(days: Sequence[DayOfAccount], names: dict[int, AccountName]) -> list[str]:
    most = max(1, *(day.accepted for day in days))
    cells = [_cells(day, names[day.account_id]) for day in days]
    room = _room_for_bars(max(map(len, aligned([_HEAD, *cells], _TEXTS))))
    rows = [(*each, bar(day.accepted, most, room)) for each, day in zip(cells, days, strict=True)]
    return aligned([(*_HEAD, ""), *rows], _TEXTS)


def _room_for_bars(width: int) -> int:
    """Return how many characters a bar may have: in a terminal what the other columns leave."""
    if not sys.stdout.isatty():
        return _BAR
    return max(0, min(_BAR, shutil.get_terminal_size().columns - width - 2))


def _cells(day: DayOfAccount, name: AccountName) -> tuple[str, ...]:
    counts = (day.accepted, day.sent, day.deferred, day.failed, day.cancelled)
    times = (day.median, day.p95)
    return (
        daily.date_of(day.day),
        printable(name.email),
        *map(str, counts),
        *("-" if time is None else duration(time) for time in times),
    )


def duration(time: int) -> str:
    """Return a time as people read it: 850 ms, 2.1 s, 14 min, 3.2 h."""
    if time < SECOND:
        return f"{time // 1000} ms"
    if time < 2 * MINUTE:
        return f"{time / SECOND:.1f} s"
    if time < 120 * MINUTE:
        return f"{time / MINUTE:.0f} min"
    return f"{time / MINUTE / 60:.1f} h"
