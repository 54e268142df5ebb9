"""`postroom list`: the newest messages with their states, and `--follow`."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from postroom.cli.completion import mailboxes
from postroom.core.clock import rfc3339
from postroom.core.errors import NotFound
from postroom.core.text import printable
from postroom.store.accounts import Accounts
from postroom.store.messages import Messages

if TYPE_CHECKING:
    from postroom.store.store import Store

_LOOK_S = 0.5


@click.command("list")
@click.option(
    "-n", "--number", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many."
)
@click.option("--account", metavar="MAILBOX", shell_complete=mailboxes, help="Only those of this account.")
@click.option("--held", is_flag=True, help="Only those that wait for a person.")
@click.option(
    "--follow",
    is_flag=True,
    help="Look at the newest again twice a second, and print what is new or has changed, until Ctrl-C.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each.")
def list_messages(number: int, account: str | None, held: bool, follow: bool, as_json: bool) -> None:
    """List the newest messages, the newest last: id, state, since when it was accepted, account and recipient."""
    from postroom.runtime import installation

    service = installation.open_service()
    mailbox = None if account is None else known_mailbox(service.store, account)
    shown: dict[str, str] = {}
    try:
        with suppress(KeyboardInterrupt):
            while True:
                rows = _rows(service.store, number, mailbox, held)
                for row in rows:
                    if shown.get(row["request_id"]) != row["status"]:
                        click.echo(json.dumps(_document(row)) if as_json else _line(row))
                if not follow:
                    return
                shown = {row["request_id"]: row["status"] for row in rows}
                time.sleep(_LOOK_S)
    finally:
        service.store.close()


def known_mailbox(store: Store, given: str) -> str:
    """Return the mailbox of an account as it is written in the database. Raises NotFound."""
    mailbox = given.lower()
    if not any(stored.account.email == mailbox for stored in store.read(Accounts.all)):
        raise NotFound(f"there is no account {given!r}")
    return mailbox


def _rows(store: Store, number: int, account: str | None, held: bool) -> list[dict[str, str]]:
    """Return the newest messages, the newest last."""
    return [
        {
            "request_id": listed.status.request_id,
            "status": str(listed.status),
            "state": listed.status.state.value,
            "accepted_at": rfc3339(listed.accepted_at),
            "account": listed.account,
            "recipient": listed.recipient,
            **({"test": "test"} if listed.status.is_test else {}),
        }
        for listed in reversed(store.read(Messages.newest, number, account, held_only=held))
    ]


def _document(row: dict[str, str]) -> dict[str, str | bool]:
    return {**row, "test": True} if "test" in row else {**row}


def _line(row: dict[str, str]) -> str:
    accepted_at = row["accepted_at"][:19].replace("T", " ")
    mark = "  test" if "test" in row else ""
    return f"{row['request_id']}  {row['state']:9} {accepted_at}{mark}\n" + printable(
        f"    {row['account']} -> {row['recipient']}"
    )
