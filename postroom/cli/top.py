"""`postroom top`: queues, rates, accounts and workers, live in a terminal, or once."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import click

from postroom.cli.accounts_named import shown_state
from postroom.cli.aligned import aligned
from postroom.core.clock import MINUTE, SECOND, Instant, rfc3339, system_clock
from postroom.core.events import EventKind
from postroom.core.text import counted, printable
from postroom.store.accounts import Accounts
from postroom.store.event_log import EventLog
from postroom.store.keys import Keys
from postroom.store.messages import NO_JOBS, JobCounts, Messages
from postroom.store.workers import WorkerRecord, Workers

if TYPE_CHECKING:
    from postroom.store.accounts import StoredAccount
    from postroom.store.store import Store
    from postroom.store.transaction import Transaction

_MOST_EVENTS: Final = 5_000  # that rates are made of
_KINDS: Final = (EventKind.ACCEPTED, EventKind.SENT, EventKind.DEFERRED, EventKind.FAILED)
_HEAD: Final = ("account", "state", "waiting", "held", *(kind.value for kind in _KINDS))
_TEXTS: Final = frozenset({0, 1, len(_HEAD)})
_LEAST_OF_A_MAILBOX: Final = 12  # columns of a narrow terminal
_INDENT: Final = " " * 4
_OTHER_LINES: Final = 7  # of the screen, beside those of accounts
_SLOWEST_S: Final = 3600.0
_MOST_KEYS: Final = 100


@dataclass(frozen=True, slots=True)
class _AccountNow:
    """An account with its queue and, by kind of event, how many there were a minute."""

    stored: StoredAccount
    jobs: JobCounts
    rates: dict[str, float]
    state: str = ""
    reason: str | None = None

    @property
    def is_idle(self) -> bool:
        return not (self.jobs.waiting or self.jobs.held or any(self.rates.values()))


@dataclass(frozen=True, slots=True)
class _Now:
    at: Instant
    workers: list[WorkerRecord]
    accounts: list[_AccountNow]

    @property
    def total(self) -> tuple[int, int]:
        """How many messages wait, and how many are held."""
        return sum(each.jobs.waiting for each in self.accounts), sum(each.jobs.held for each in self.accounts)


@click.command()
@click.option(
    "--every",
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.1, _SLOWEST_S),
    help="How often to look again.",
)
@click.option("--once", is_flag=True, help="Look once; so it does where standard output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and end.")
def top(every: float, once: bool, as_json: bool) -> None:
    """Show what the service does: waiting and held messages, rates of the last minute, accounts and workers.

    In a terminal it looks again each second; q or Ctrl-C ends it.
    """
    from postroom.runtime import installation

    service = installation.open_service()
    try:
        if as_json:
            click.echo(json.dumps(_document(service.store.read(_look, system_clock()))))
        elif once or not sys.stdout.isatty():
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            click.echo("\n".join(_lines(service.store.read(_look, system_clock()), None, width)))
        else:
            _watch(service.store, every)
    finally:
        service.store.close()


def _look(transaction: Transaction, now: Instant, shown: int | None = None) -> _Now:
    """Read everything at one moment; the states of the first `shown` accounts, of all for None."""
    events = EventLog(transaction).recent(now - MINUTE, _MOST_EVENTS)
    # Where there were more, they were those of a shorter time.
    took = max(SECOND, now - events[-1].at) if len(events) == _MOST_EVENTS else MINUTE
    happened = Counter((event.account_id, event.kind) for event in events)
    counts = Messages(transaction).counts()
    accounts = [
        _AccountNow(
            stored,
            counts.get(stored.account.id, NO_JOBS),
            {kind.value: happened[stored.account.id, kind.value] * MINUTE / took for kind in _KINDS},
        )
        for stored in Accounts(transaction).all()
    ]
    accounts.sort(key=lambda each: (each.is_idle, -each.jobs.waiting, each.stored.account.email))
    in_file, last_reason = set(Keys(transaction).active().values()), Accounts(transaction).last_reason
    for number, each in enumerate(accounts[:shown]):
        state, reason = shown_state(each.stored.account, in_file, last_reason)
        accounts[number] = replace(each, state=state, reason=reason)
    return _Now(now, Workers(transaction).living(), accounts)


def _document(now: _Now) -> dict[str, object]:
    waiting, held = now.total
    return {
        "at": rfc3339(now.at),
        "waiting": waiting,
        "held": held,
        "per_minute": {
            kind.value: round(sum(each.rates[kind] for each in now.accounts), 1) for kind in _KINDS
        },
        "workers": [
            {"id": each.id, "host": each.host, "pid": each.pid, "lease_until": rfc3339(each.lease_until)}
            for each in now.workers
        ],
        "accounts": [
            {
                "account": each.stored.account.email,
                "state": each.state,
                "reason": each.reason,
                "waiting": each.jobs.waiting,
                "held": each.jobs.held,
                "sent": each.jobs.sent,
                "failed": each.jobs.failed,
                "cancelled": each.jobs.cancelled,
                "per_minute": {kind: round(rate, 1) for kind, rate in each.rates.items()},
            }
            for each in now.accounts
        ],
    }


def _lines(now: _Now, height: int | None, width: int | None = None) -> list[str]:
    """Return the screen, of this height and width at most."""
    waiting, held = now.total
    rates = [f"{sum(each.rates[kind] for each in now.accounts):.0f} {kind}" for kind in _KINDS]
    lines = [
        f"{rfc3339(now.at)[:19].replace('T', ' ')} UTC   {counted(waiting, 'message')} waiting, {held} held",
        f"last minute: {', '.join(rates)}",
        f"workers: {', '.join(f'{each.host} {each.pid}' for each in now.workers) or 'none is alive: nothing is sent'}",
        "",
    ]
    if not now.accounts:
        lines.append("there are no accounts; add one: postroom accounts add EMAIL, or a row of data.csv")
        return lines
    room = None if height is None else max(1, height - _OTHER_LINES)
    head, blocks = _table(now.accounts[:room], width)
    lines.append(head)
    shown = 0
    for block in blocks:
        if room is not None and shown and room < len(block):
            break
        room = None if room is None else room - len(block)
        lines += block
        shown += 1
    if shown < len(now.accounts):
        lines.append(f"and {counted(len(now.accounts) - shown, 'other account')}")
    return [printable(line) for line in lines]


def _cells(each: _AccountNow) -> tuple[str, ...]:
    account = each.stored.account
    return (
        account.email,
        each.state,
        str(each.jobs.waiting),
        str(each.jobs.held),
        *(f"{each.rates[kind]:.0f}" for kind in _KINDS),
    )


def _table(shown: Sequence[_AccountNow], width: int | None) -> tuple[str, list[list[str]]]:
    """Return the head and the lines of each account.

    Where the columns do not fit, the reason stands below its account, and long mailboxes are cut.
    """
    rows = [_HEAD, *map(_cells, shown)]
    head, *lines = aligned(
        [(*row, each) for row, each in zip(rows, ("why", *map(_why, shown)), strict=True)], _TEXTS
    )
    if width is None or max(map(len, (head, *lines))) <= width:
        return head, [[line] for line in lines]
    longest = max(len(row[0]) for row in rows)
    room = max(_LEAST_OF_A_MAILBOX, longest - max(0, max(map(len, aligned(rows, _TEXTS))) - width))
    head, *lines = aligned([(_cut(row[0], room), *row[1:]) for row in rows], _TEXTS)
    reasons = [[f"{_INDENT}{_why(each)}"] if each.reason else [] for each in shown]
    return head, [[line, *reason] for line, reason in zip(lines, reasons, strict=True)]


def _why(each: _AccountNow) -> str:
    return printable(each.reason or "")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _watch(store: Store, every: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with _single_keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            size = shutil.get_terminal_size()
            lines = _lines(store.read(_look, system_clock(), size.lines), size.lines, size.columns)
            text = "\n".join(line[: size.columns] for line in [*lines, "q ends it"])
            live.update(Text(text, no_wrap=True), refresh=True)
            if _is_asked_to_end(every):
                return


@contextmanager
def _single_keys() -> Iterator[None]:
    """Have keys read without Enter, where standard input is a terminal; as before afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_asked_to_end(seconds: float) -> bool:
    """Wait so long; return whether q was typed meanwhile, or the terminal is gone."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not sys.stdin.isatty():
            time.sleep(left)
        elif select.select([sys.stdin], [], [], left)[0]:
            typed = os.read(sys.stdin.fileno(), _MOST_KEYS)
            if not typed or b"q" in typed.lower():
                return True
    return False
