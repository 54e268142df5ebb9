"""`postroom accounts`: lists the accounts with state, limit and reason, and checks that each can log in."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, TypedDict

import click

from postroom.cli.accounts_changed import add, pause, remove, resume, set_, show, verify
from postroom.cli.accounts_file import export, import_
from postroom.cli.accounts_named import shown_state
from postroom.cli.authorize import authorize
from postroom.cli.completion import mailboxes
from postroom.core.clock import SECOND, rfc3339, system_clock
from postroom.core.errors import ConfigError
from postroom.core.text import printable
from postroom.store.accounts import Accounts
from postroom.store.keys import Keys
from postroom.store.messages import Messages
from postroom.store.usage import Usage

if TYPE_CHECKING:
    from postroom.core.account import Account
    from postroom.runtime.installation import Service
    from postroom.store.accounts import StoredAccount
    from postroom.store.messages import JobCounts

_INDENT: Final = " " * 9
_COLOURS: Final = {
    "active": "green", "removed": "bright_black", "parked": "yellow", "paused": "red", "failing": "red",
    "closing": "bright_black",
}  # fmt: skip


class ServerDocument(TypedDict):
    """The extensions that an account's server offers and does not accept."""

    server: str
    extensions: list[str]
    said: str
    since: str


class AccountDocument(TypedDict):
    """An account as `--json` prints it."""

    account: str
    id: str
    source: str  # csv or api
    server: str
    state: str
    reason: str | None
    since: str | None
    until: str | None
    worked_at: str | None
    recipients_in_24h: int | None  # counted towards a daily limit only
    daily_limit: int | None
    messages: dict[str, int]
    messages_per_minute: float | None
    server_lacks: ServerDocument | None


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def accounts(context: click.Context, as_json: bool) -> None:
    """List the accounts: state, server, how much of the daily limit is used, until when, and why.

    \b
    active   works, or has had nothing to send yet   parked    rests for a limit
    failing  has never worked                        removed   has left data.csv
    paused   does not work any more, or by a person  closing   is being deleted

    \b
    postroom accounts                        all of them
    postroom accounts check                  log in as each, and send nothing
    postroom accounts add ann@gmail.com      add one, and ask for its password
    postroom accounts resume ann@gmail.com   try a paused or parked one again now
    """
    if context.invoked_subcommand is not None:
        return
    from postroom.runtime import installation

    service = installation.open_service()
    in_file = set(service.store.read(Keys.active).values())
    counts = service.store.read(Messages.counts)
    rows = [_row(service, stored, in_file, counts) for stored in service.store.read(Accounts.all)]
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        click.echo(
            "there are no accounts; add one: postroom accounts add EMAIL, or a row of data.csv", err=True
        )
    else:
        _print_rows(rows)


accounts.add_command(authorize)


@accounts.command()
@click.argument("mailbox", required=False, shell_complete=mailboxes)
def check(mailbox: str | None) -> None:
    """Log in as each account, or as MAILBOX, and send nothing. Status 1 when one cannot.

    A password that was refused is not tried again before it has changed, since providers lock accounts for that;
    `postroom accounts resume MAILBOX` has it tried once more. Log-ins keep to the account's pace.
    """
    import asyncio

    from postroom.accounts.csv_sync import AccountsFile
    from postroom.cli.accounts_check import accounts_in_use, check_all
    from postroom.runtime import installation

    service = installation.open_service()
    path = service.settings.accounts_csv
    try:
        results = asyncio.run(check_all(service, accounts_in_use(service, mailbox)))
        is_taken_in = AccountsFile(service.store, service.vault, path).is_taken_in()
    finally:
        service.store.close()
    if not is_taken_in:
        new = printable(f"not tested: what is new in {path}; postroom accounts import takes it in")
        click.echo(new, err=True)
    if None in results:
        click.echo("not tested: the accounts that are skipped", err=True)
    click.echo("not tested: whether the servers take messages from these senders, and how many", err=True)
    if False in results:
        sys.exit(1)


for _command in (add, show, set_, remove, verify, pause, resume, import_, export):
    accounts.add_command(_command)


def _row(
    service: Service, stored: StoredAccount, in_file: set[int], counts: Mapping[int, JobCounts]
) -> AccountDocument:
    from postroom.providers import ServerUndecided, server_for
    from postroom.settings import INBOX
    from postroom.store.messages import NO_JOBS

    account, now = stored.account, system_clock()
    try:
        server = server_for(account, service.settings)
        where = INBOX if server.host == INBOX else f"{server.host}:{server.port}"
        daily_limit = server.daily_limit
    except ServerUndecided as error:
        where, daily_limit = f"by the MX of {error.domain}", account.daily_limit
    except ConfigError as error:
        where, daily_limit = str(error), account.daily_limit
    used = None if daily_limit is None else service.store.read(Usage.recipients_used, account.id, now)
    state, reason = shown_state(account, in_file, lambda id_: service.store.read(Accounts.last_reason, id_))
    return {
        "account": account.email,
        "id": account.uid,
        "source": account.source,
        "server": where,
        "state": state,
        "reason": reason,
        "since": None if account.state_since is None else rfc3339(account.state_since),
        "until": None if account.resume_at is None else rfc3339(account.resume_at),
        "worked_at": None if account.worked_at is None else rfc3339(account.worked_at),
        "recipients_in_24h": used,
        "daily_limit": daily_limit,
        "messages": asdict(counts.get(account.id, NO_JOBS)),
        "messages_per_minute": None if account.gap is None else round(60 * SECOND / account.gap, 1),
        "server_lacks": _lacks(account),
    }


def _lacks(account: Account) -> ServerDocument | None:
    """Return the extensions that the account's server offers and does not accept."""
    lacks = account.server_lacks
    if lacks is None:
        return None
    return {
        "server": lacks.server,
        "extensions": list(lacks.extensions),
        "said": lacks.said,
        "since": rfc3339(lacks.since),
    }


def _reason(row: AccountDocument) -> str:
    lacks = row["server_lacks"]
    without = f"without {' and '.join(lacks['extensions'])}: {lacks['said']}" if lacks else ""
    return "; ".join(part for part in (row["reason"], without) if part)


def _print_rows(rows: list[AccountDocument]) -> None:
    """Print a line for each account; details that do not fit beside it, and the reason, go on lines below."""
    width = shutil.get_terminal_size().columns
    coloured = False if os.environ.get("NO_COLOR") else None  # None: on a terminal only
    for row in rows:
        head = f"{row['state']:8} {printable(row['account'])}"
        details = _details(row)
        beside = f"{head}  {details}" if len(head) + 2 + len(details) <= width else head
        below = [] if beside != head else _wrapped(details, width)
        below += _wrapped(_reason(row), width)
        shown = beside.replace(row["state"], click.style(row["state"], fg=_COLOURS[row["state"]]), 1)
        click.echo("\n".join((shown, *below)), color=coloured)


def _details(row: AccountDocument) -> str:
    limit = row["daily_limit"]
    parts = [
        row["server"],
        f"{row['recipients_in_24h']} of {limit} in 24 h" if limit else "no limit",
        *(f"{number} {what}" for what, number in row["messages"].items() if number),
        "" if row["messages_per_minute"] is None else f"{row['messages_per_minute']:g}/min",
        "" if row["until"] is None else f"until {row['until'][:19]}Z",
    ]
    return printable(", ".join(part for part in parts if part))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        printable(text), width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False
    )
