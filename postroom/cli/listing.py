"""`postroom list`: messages and what became of them, newest last."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from postroom.model import rfc3339
from postroom.status import printable

if TYPE_CHECKING:
    from postroom.store import Store

_LOOK_S = 0.5


@click.command("list")
@click.option(
    "-n", "--number", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many."
)
@click.option("--account", metavar="MAILBOX", help="Only those of this account.")
@click.option("--held", is_flag=True, help="Only those that wait for a person.")
@click.option("--follow", is_flag=True, help="Go on with what changes and what comes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each.")
def list_messages(number: int, account: str | None, held: bool, follow: bool, as_json: bool) -> None:
    """List the newest messages, the newest last: id, state, since when it was accepted, account and recipient."""
    from postroom import setup

    service = setup.open_service()
    try:
        shown: dict[str, str] = {}
        with suppress(KeyboardInterrupt):
            for row in _rows(service.store, number, account, held, follow):
                if shown.get(row["request_id"]) != row["status"]:
                    shown[row["request_id"]] = row["status"]
                    click.echo(json.dumps(row) if as_json else _line(row))
    finally:
        service.store.close()


def _rows(
    store: Store, number: int, account: str | None, held: bool, follow: bool
) -> Iterator[dict[str, Any]]:
    while True:
        for listed in reversed(store.newest_messages(number, account, held_only=held)):
            status = store.status(listed.request_id)
            if status is not None:
                yield {
                    "request_id": listed.request_id,
                    "status": str(status),
                    "state": status.state.value,
                    "accepted_at": rfc3339(listed.accepted_at),
                    "account": listed.account,
                    "recipient": listed.recipient,
                }
        if not follow:
            return
        time.sleep(_LOOK_S)


def _line(row: dict[str, Any]) -> str:
    accepted_at = row["accepted_at"][:19].replace("T", " ")
    return f"{row['request_id']}  {row['state']:9} {accepted_at}\n" + printable(
        f"    {row['account']} -> {row['recipient']}"
    )
