"""`postroom accounts`: what each mailbox that we send through may do just now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from postroom.errors import ConfigError
from postroom.model import SECOND, rfc3339, system_clock
from postroom.status import printable

if TYPE_CHECKING:
    from postroom.model import Account
    from postroom.setup import Service
    from postroom.store import StoredAccount


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def accounts(context: click.Context, as_json: bool) -> None:
    """List the accounts: state, reason, since and until when, and how much of the daily limit is used.

    \b
    postroom accounts                        all of them
    postroom accounts resume ann@gmail.com   try one again now that was set aside
    """
    if context.invoked_subcommand is not None:
        return
    from postroom import setup

    service = setup.open_service()
    rows = [_row(service, stored) for stored in service.store.accounts()]
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        click.echo("there are no accounts; add a row to data.csv", err=True)
    else:
        _print_table(rows)


@accounts.command()
@click.argument("mailbox")
def resume(mailbox: str) -> None:
    """Let an account that was parked or paused go on at once; its next mail will tell."""
    from postroom import setup

    service = setup.open_service()
    found = [stored.account for stored in service.store.accounts() if stored.account.email == mailbox.lower()]
    if not found:
        raise click.UsageError(f"there is no account {mailbox!r}")
    for account in found:
        _resume(service, account.id)
        click.echo(f"{account.email} is active; it was {account.state.value}", err=True)


def _resume(service: Service, account_id: int) -> None:
    service.store.write(lambda transaction: transaction.resume_account(account_id, system_clock()))


def _row(service: Service, stored: StoredAccount) -> dict[str, Any]:
    from postroom.providers import ServerUndecided, server_for

    account, now = stored.account, system_clock()
    try:
        server = server_for(account, service.settings)
        where, daily_limit = f"{server.host}:{server.port}", server.daily_limit
    except ServerUndecided as error:
        where, daily_limit = f"by the MX of {error.domain}", account.daily_limit
    except ConfigError as error:
        where, daily_limit = str(error), account.daily_limit
    return {
        "account": account.email,
        "server": where,
        "state": account.state.value,
        "reason": account.state_reason,
        "since": None if account.state_since is None else rfc3339(account.state_since),
        "until": None if account.resume_at is None else rfc3339(account.resume_at),
        "worked_at": None if account.worked_at is None else rfc3339(account.worked_at),
        "recipients_in_24h": service.store.recipients_used(account.id, now),
        "daily_limit": daily_limit,
        "messages_per_minute": None if account.gap is None else round(60 * SECOND / account.gap, 1),
        "server_lacks": _lacks(account),
    }


def _lacks(account: Account) -> dict[str, Any] | None:
    """Return what the account's server offers and does not take."""
    lacks = account.server_lacks
    if lacks is None:
        return None
    return {
        "server": lacks.server,
        "extensions": list(lacks.extensions),
        "said": lacks.said,
        "since": rfc3339(lacks.since),
    }


def _reason(row: dict[str, Any]) -> str:
    lacks = row["server_lacks"]
    without = f"without {' and '.join(lacks['extensions'])}: {lacks['said']}" if lacks else ""
    return "; ".join(part for part in (row["reason"], without) if part)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("Account", "Server", "State", "Until", "24 h", "Pace", "Reason"):
        table.add_column(name, no_wrap=name in ("State", "Until"))
    for row in rows:
        limit = row["daily_limit"]
        used = f"{row['recipients_in_24h']} of {limit}" if limit else "no limit"
        cells = (
            row["account"],
            row["server"],
            row["state"],
            (row["until"] or "")[:19],
            used,
            "" if row["messages_per_minute"] is None else f"{row['messages_per_minute']:g}/min",
            _reason(row),
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console().print(table)
