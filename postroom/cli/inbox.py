"""`postroom inbox`: list and show what the built-in inbox has captured, and run its server alone."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from postroom.cli.completion import inbox_ids
from postroom.cli.serve import inherited_lifeline
from postroom.core.clock import rfc3339

if TYPE_CHECKING:
    from postroom.inbox.reader import CapturedMessage, MessageSummary
    from postroom.store.store import Store

_SHORT_ID = 18  # characters of a long id, enough to tell it from others and to give to `show`


@click.group(invoke_without_command=True)
@click.option("-n", "--number", "limit", default=20, show_default=True, help="How many, newest first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def inbox(context: click.Context, limit: int, as_json: bool) -> None:
    """List the messages that the built-in inbox has captured, and those of test keys, or show one.

    \b
    postroom inbox                 the newest messages
    postroom inbox show latest     one of them, by id or `latest`
    """
    if context.invoked_subcommand is None:
        from postroom.inbox.captured import list_all
        from postroom.inbox.maildrop import FOLDER
        from postroom.runtime import installation

        installation.check_folder()
        with _database() as store:
            messages = list_all(FOLDER, store, limit)
        if as_json:
            click.echo(json.dumps([_summary(message) for message in messages]))
        elif not messages:
            click.echo("the inbox is empty", err=True)
        else:
            _print_table(messages)


@contextmanager
def _database() -> Iterator[Store | None]:
    """Open the database that holds the messages of test keys, whatever its secret key; None where there is none."""
    from postroom.core.errors import ConfigError, SchemaMismatch, StoreError
    from postroom.settings import load_settings
    from postroom.store.store import open_store

    store = None
    try:
        settings = load_settings()
        store = open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)
        store.check_schema()
    except SchemaMismatch:
        pass
    except (ConfigError, StoreError) as error:
        click.echo(f"without the messages of test keys, which are in the database: {error}", err=True)
    else:
        with closing(store):
            yield store
        return
    if store is not None:
        store.close()
    yield None


def _print_table(messages: list[MessageSummary]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from postroom.inbox.reader import printable

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("Id", "Received", "From", "To", "Subject"):
        table.add_column(name, no_wrap=name in ("Id", "Received"))
    for message in messages:
        cells = (
            message.id[:_SHORT_ID],
            rfc3339(message.received)[:19],
            message.envelope_from,
            ", ".join(message.envelope_to),
            f"[test] {message.subject}" if message.is_test else message.subject,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console().print(table)


def _summary(message: MessageSummary) -> dict[str, object]:
    found: dict[str, object] = {
        "id": message.id,
        "received": rfc3339(message.received),
        "envelope_from": message.envelope_from,
        "envelope_to": list(message.envelope_to),
        "from": message.sender,
        "subject": message.subject,
        "size": message.size,
    }
    return {**found, "test": True} if message.is_test else found


@inbox.command()
@click.argument("which", default="latest", metavar="[ID|latest]", shell_complete=inbox_ids)
@click.option("--raw", is_flag=True, help="Print the bytes exactly as they arrived.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(which: str, raw: bool, as_json: bool) -> None:
    """Show one message of the built-in inbox."""
    from postroom.inbox.captured import read_any
    from postroom.inbox.maildrop import FOLDER
    from postroom.runtime import installation

    installation.check_folder()
    with _database() as store:
        message = read_any(FOLDER, store, which)
    if raw:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        sys.stdout.buffer.write(message.raw)
    elif as_json:
        click.echo(json.dumps({**_summary(message), "text": message.text, "html": message.html}))
    else:
        _print_message(message)


def _print_message(message: CapturedMessage) -> None:
    from postroom.inbox.reader import printable

    for name, value in (
        ("From", message.sender),
        ("To", ", ".join(message.envelope_to)),
        ("Subject", message.subject),
        ("Received", rfc3339(message.received)),
    ):
        click.echo(f"{name + ':':<10}{printable(value)}")
    if message.is_test:
        click.echo(f"{'Test:':<10}its key is a test key; nothing was sent to a server")
    click.echo()
    click.echo(printable(message.text))
    if message.html is not None:
        click.echo("[there is an HTML part too: --json or --raw shows it]", err=True)


@inbox.command("serve")
def inbox_serve() -> None:
    """Run the inbox's SMTP server alone, on a free port of 127.0.0.1."""
    from postroom.inbox import server as capture

    capture.main(inherited_lifeline())
