"""`postroom log`: messages, or each of their events, by account, recipient, status and time; and `--follow`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from postroom.cli.listing import as_json, known_accounts, only_of_account
from postroom.cli.values import GivenText, PastTime, faults_name
from postroom.core.clock import Instant, rfc3339, system_clock
from postroom.core.listing import Filter, check_span, recipient_of, words_of
from postroom.core.status_word import StatusWord
from postroom.core.text import printable
from postroom.store.event_log import EventLog, LoggedEvent
from postroom.store.events import Events
from postroom.store.listings import NEWEST, Listings
from postroom.store.transaction import Transaction

if TYPE_CHECKING:
    from postroom.store.messages import Listed
    from postroom.store.store import Store

_LOOK_S: Final = 0.5
_PAGE: Final = 100
_MOST_BEHIND: Final = 5_000  # events in one look
_LATE: Final = 1_000  # events that may be committed behind one with a greater number (PostgreSQL)


@click.command()
@click.option(
    "-n", "--number", default=20, show_default=True, type=click.IntRange(0, 10_000), help="How many messages."
)
@only_of_account
@click.option("--to", type=GivenText(), metavar="ADDRESS", help="Only those to this address, or to @domain.")
@click.option(
    "--subject",
    type=GivenText(),
    metavar="WORDS",
    help="Only those in whose subject each of these words begins a word.",
)
@click.option(
    "--status", type=click.Choice([word.value for word in StatusWord]), help="Only those with this status."
)
@click.option(
    "--since", type=PastTime(), metavar="TIME", help="Accepted then or later: 2h (ago), a day, or a time."
)
@click.option("--until", type=PastTime(), metavar="TIME", help="Accepted before.")
@click.option("--events", is_flag=True, help="A line for each event of a message.")
@click.option("--follow", is_flag=True, help="Print what happens from now on too, until Ctrl-C.")
@click.option(
    "--json", "print_json", is_flag=True, help="Print a JSON object a line, as GET /v1/emails lists it."
)
def log(
    number: int,
    account: str | None,
    to: str | None,
    subject: str | None,
    status: str | None,
    since: Instant | None,
    until: Instant | None,
    events: bool,
    follow: bool,
    print_json: bool,
) -> None:
    """Show messages, the newest last: time, status, id, account, recipients, and the reason.

    With --follow a message is shown again when its status changes.
    """
    from postroom.runtime import installation

    wanted = _Wanted(to, subject, status, since, until)
    service = installation.open_service()
    try:
        with suppress(KeyboardInterrupt):
            reader = _Reader(service.store, wanted.filter(service.store, account), events, print_json)
            for line in reader.newest(number):
                click.echo(line)
            while follow:
                for line in reader.what_came():
                    click.echo(line)
                time.sleep(_LOOK_S)
    finally:
        service.store.close()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The options that choose messages."""

    to: str | None
    subject: str | None
    status: str | None
    since: Instant | None
    until: Instant | None

    def filter(self, store: Store, account: str | None) -> Filter:
        """Return them as a filter. Raises NotFound, and UsageError."""
        with faults_name({"to": "--to", "until": "--until", "subject": "--subject"}):
            check_span(self.since, self.until)
            recipient = None if self.to is None else recipient_of(self.to)
            words = () if self.subject is None else words_of(self.subject)
        accounts = None if account is None else tuple(known_accounts(store, account))
        return Filter(
            status=None if self.status is None else StatusWord(self.status),
            accounts=accounts,
            recipient=recipient,
            words=words,
            since=self.since,
            until=self.until,
        )


class _Reader:
    """Reads lines of the log: those of the newest messages, and what came since the last look."""

    def __init__(self, store: Store, wanted: Filter, with_events: bool, print_json: bool) -> None:
        self._store = store
        self._wanted = wanted
        self._with_events = with_events
        self._as_json = print_json
        self._mark = store.read(EventLog.newest_id)
        self._seen = {event.id for event in store.read(EventLog.behind, self._mark - _LATE, _LATE)}
        self._shown: dict[str, StatusWord] = {}

    def newest(self, number: int) -> Iterator[str]:
        """Yield the lines of the newest messages, the newest last."""
        for listed in reversed(self._newest(number)):
            if self._with_events:
                for event in self._store.read(Events.of_message, listed.status.request_id):
                    words = (event.at, event.kind, event.forward_path, event.detail)
                    yield self._event_line(listed.status.request_id, *words)
            else:
                yield self._message_line(listed)

    def _newest(self, number: int) -> list[Listed]:
        found: list[Listed] = []
        before: int | None = NEWEST
        while before is not None and len(found) < number:
            page = self._store.read(
                Listings.page,
                self._wanted,
                min(_PAGE, number - len(found)),
                before=before,
                now=system_clock(),
            )
            found += page.messages
            before = page.reached
        return found

    def what_came(self) -> Iterator[str]:
        """Yield the lines of events that came since the last look."""
        found = self._store.read(EventLog.behind, self._mark - _LATE, _MOST_BEHIND)
        new = [event for event in found if event.id not in self._seen]
        if not new:
            return
        self._mark = max(self._mark, new[-1].id)
        self._seen = {event.id for event in found if event.id > self._mark - _LATE}
        matching = self._store.read(_matching, {event.message_id for event in new}, self._wanted)
        if self._with_events:
            ids = {listed.message_id for listed in matching}
            yield from (self._line_of(event) for event in new if event.message_id in ids)
            return
        now = system_clock()
        for listed in reversed(matching):
            if self._shown.get(listed.status.request_id) is not listed.status.word(now):
                yield self._message_line(listed)

    def _line_of(self, event: LoggedEvent) -> str:
        return self._event_line(event.request_id, event.at, event.kind, event.forward_path, event.detail)

    def _message_line(self, listed: Listed) -> str:
        word = listed.status.word(system_clock())
        if word in (StatusWord.SENT, StatusWord.FAILED, StatusWord.CANCELLED):
            self._shown.pop(listed.status.request_id, None)  # nothing comes behind its end
        else:
            self._shown[listed.status.request_id] = word
        return as_json(listed, system_clock()) if self._as_json else _line(listed, word)

    def _event_line(
        self, request_id: str, at: Instant, kind: str, recipient: str | None, detail: str | None
    ) -> str:
        if self._as_json:
            return json.dumps(
                {"at": rfc3339(at), "event": kind, "id": request_id, "recipient": recipient, "detail": detail}
            )
        return _joined((rfc3339(at), f"{kind:9}", request_id, recipient, detail))


def _matching(transaction: Transaction, ids: set[int], wanted: Filter) -> list[Listed]:
    return Listings(transaction).matching(ids, wanted, system_clock())


def _line(listed: Listed, word: StatusWord) -> str:
    status = listed.status
    at = listed.accepted_at if listed.finished_at is None else listed.finished_at
    first, *others = listed.recipients
    recipients = f"{first} and {len(others)} more" if others else first
    marks = (
        "(test)" if status.is_test else None,
        "(may arrive twice)" if status.possible_duplicate else None,
    )
    route = f"{listed.account} -> {recipients}"
    return _joined((rfc3339(at), f"{word.value:9}", status.request_id, route, *marks, status.reason))


def _joined(words: Iterable[str | None]) -> str:
    return "  ".join(printable(word) for word in words if word)
