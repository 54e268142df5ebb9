"""`postroom list`: the newest messages with their statuses, and `--follow`."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from postroom.cli.completion import mailboxes
from postroom.cli.values import GivenText
from postroom.core.clock import rfc3339, system_clock
from postroom.core.errors import NotFound
from postroom.core.text import printable
from postroom.store.listings import Listings
from postroom.store.messages import Messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postroom.core.clock import Instant
    from postroom.core.status_word import StatusWord
    from postroom.store.messages import Listed
    from postroom.store.store import Store

_LOOK_S = 0.5
only_of_account = click.option(
    "--account",
    metavar="EMAIL|ID",
    type=GivenText(),
    shell_complete=mailboxes,
    help="Only those of this account.",
)


@click.command("list")
@click.option(
    "-n", "--number", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many."
)
@only_of_account
@click.option("--held", is_flag=True, help="Only those that wait for a person.")
@click.option(
    "--follow",
    is_flag=True,
    help="Look at the newest again twice a second, and print what is new or has changed, until Ctrl-C.",
)
@click.option(
    "--json", "print_json", is_flag=True, help="Print a JSON object for each, as GET /v1/emails lists it."
)
def list_messages(number: int, account: str | None, held: bool, follow: bool, print_json: bool) -> None:
    """List the newest messages, the newest last: id, status, when it was accepted, account and recipient."""
    from postroom.runtime import installation

    service = installation.open_service()
    accounts = None if account is None else known_accounts(service.store, account)
    shown: dict[str, StatusWord] = {}
    try:
        with suppress(KeyboardInterrupt):
            while True:
                now = system_clock()
                messages = _newest(service.store, number, accounts, held=held)
                words = {each.status.request_id: each.status.word(now) for each in messages}
                for each in messages:
                    word = words[each.status.request_id]
                    if shown.get(each.status.request_id) is not word:
                        click.echo(as_json(each, now) if print_json else _line(each, word))
                if not follow:
                    return
                shown = words
                time.sleep(_LOOK_S)
    finally:
        service.store.close()


def known_accounts(store: Store, given: str) -> list[int]:
    """Return the accounts with this id or mailbox, those that were deleted too. Raises NotFound."""
    found = store.read(Listings.accounts, given.lower())
    if not found:
        raise NotFound(f"there is no account {given!r}")
    return found


def as_json(listed: Listed, now: Instant) -> str:
    """Return a message as GET /v1/emails lists it."""
    from postroom.web.admin.email_lists import document_of

    return json.dumps(document_of(listed, now).model_dump(mode="json", by_alias=True))


def _newest(store: Store, number: int, accounts: Sequence[int] | None, *, held: bool) -> list[Listed]:
    """Return the newest messages, the newest last."""
    return list(reversed(store.read(Messages.newest, number, accounts, held_only=held)))


def _line(listed: Listed, word: StatusWord) -> str:
    accepted_at = rfc3339(listed.accepted_at)[:19].replace("T", " ") + "Z"
    mark = "  test" if listed.status.is_test else ""
    return f"{listed.status.request_id}  {word.value:9} {accepted_at}{mark}\n" + printable(
        f"    {listed.account} -> {listed.recipient}"
    )
