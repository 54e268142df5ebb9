"""`postroom send`: accepts one message, and with `--wait` waits for its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from postroom.cli.accounts_named import in_use
from postroom.cli.completion import mailboxes
from postroom.cli.exits import EX_IOERR, EX_TEMPFAIL, fail, words_of
from postroom.core.clock import rfc3339, system_clock
from postroom.core.errors import QuotaExceeded, Rejected, StoreError
from postroom.core.text import printable
from postroom.store.aliases import Aliases
from postroom.store.events import Events
from postroom.store.messages import Messages

if TYPE_CHECKING:
    from postroom.core.account import Account
    from postroom.core.message import MessageState, Submission
    from postroom.runtime.installation import Service


@click.command()
@click.option("--to", "recipient", required=True, metavar="MAILBOX", help="Who gets it: name@domain.")
@click.option(
    "--from",
    "sender",
    metavar="MAILBOX|ID",
    shell_complete=mailboxes,
    help="The account to send from, by mailbox or id, or an alias of one; needless if there is one account.",
)
@click.option("--in-reply-to", metavar="ID", help="The Message-ID of the message that this one answers.")
@click.option(
    "--references",
    multiple=True,
    metavar="ID",
    help="A Message-ID of the thread, oldest first; may be repeated.",
)
@click.option("--subject", default="", help="One line of text.")
@click.option("--body", help="The text; without it, the body is read from standard input.")
@click.option("--html", "is_html", is_flag=True, help="The body is HTML; a text part is made from it.")
@click.option("--wait", is_flag=True, help="Wait until it is sent or has failed; status 1 when it failed.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --wait: how long; status 75 when it has not ended by then. It is sent all the same.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def send(
    recipient: str,
    sender: str | None,
    in_reply_to: str | None,
    references: tuple[str, ...],
    subject: str,
    body: str | None,
    is_html: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Accept one message, as POST /send-email does, and print its request_id.

    \b
    postroom send --to you@example.com --subject Hello --body "It works" --wait
    postroom send --to you@example.com --subject Report --html < report.html
    """
    from postroom.core.message import MessageState, Submission
    from postroom.runtime import installation

    service = installation.open_service()
    account = _account(service, sender)
    text = body if body is not None else _standard_input(service.settings.max_message_bytes)
    mailbox = None if sender is not None and sender.lower() == account.uid else sender
    asked = Submission(account, (recipient,), subject, text, is_html, sender=mailbox)
    request_id = _accept(service, replace(asked, in_reply_to=in_reply_to, references=references))
    with _said_to_be_accepted(request_id):
        if not wait or as_json:
            if wait:
                _wait_for_end(service, request_id, timeout, lambda status: None)
            _print_accepted(service, request_id, as_json=as_json)
            return
        click.echo(request_id)
        end = _wait_for_end(service, request_id, timeout, lambda status: click.echo(f"  {status}"))
    service.store.close()
    if end is MessageState.FAILED:
        sys.exit(1)


def _print_accepted(service: Service, request_id: str, *, as_json: bool) -> None:
    """Print the id, or what has become of the message so far. Status 1 when it failed."""
    from postroom.core.message import MessageState

    found = service.store.read(Messages.status, request_id)
    assert found is not None
    document: dict[str, object] = {
        "request_id": request_id,
        "status": str(found),
        "sender": found.sender,
        "events": [
            {
                "at": rfc3339(event.at),
                "event": event.kind,
                "recipient": event.forward_path,
                "detail": event.detail,
            }
            for event in service.store.read(Events.of_message, request_id)
        ],
    }
    if found.is_test:
        document["test"] = True
    if found.possible_duplicate:
        document["possible_duplicate"] = True
    click.echo(json.dumps(document) if as_json else request_id)
    service.store.close()
    if found.state is MessageState.FAILED:
        sys.exit(1)


def _accept(service: Service, submission: Submission) -> str:
    """Accept the message and return its request_id; a fault in it is wrong usage of the command."""
    from postroom.intake.accept import accept
    from postroom.intake.disk_share import DiskShares

    aliases = tuple(alias.email for alias in service.store.read(Aliases.of, submission.account.id))
    try:
        accepted = accept(
            service.store,
            replace(submission, aliases=aliases),
            most_bytes=service.settings.max_message_bytes,
            disk_reserve=service.settings.disk_reserve,
            shares=DiskShares(service.store),
        )
    except QuotaExceeded:
        raise
    except Rejected as error:
        raise click.UsageError(str(error)) from error
    return accepted.request_id


@contextmanager
def _said_to_be_accepted(request_id: str) -> Iterator[None]:
    """Say that a message was accepted where its status cannot be read or printed: another try would send it twice."""
    words = f"postroom: {request_id} was accepted; do not send it again"
    try:
        yield
    except KeyboardInterrupt:
        click.echo(words, err=True)
        raise
    except (OSError, StoreError) as error:
        reason = words_of(error)[0] if isinstance(error, OSError) else str(error)
        with suppress(OSError):
            click.echo(f"{words}. Its status could not be shown: {reason}", err=True)
        sys.exit(EX_IOERR)


def _standard_input(most: int) -> str:
    if sys.stdin is None:
        raise click.UsageError("there is no standard input; give the body with --body")
    octets = sys.stdin.buffer.read(most + 1)
    if len(octets) > most:
        raise click.UsageError(f"the body on standard input has more than {most} bytes")
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the body on standard input is not UTF-8 (byte {error.start})") from error


def _account(service: Service, sender: str | None) -> Account:
    accounts = [stored.account for stored in in_use(service.store)]
    given = None if sender is None else sender.lower()
    matching = [account for account in accounts if given in (None, account.email, account.uid)]
    if not matching and sender is not None:
        owners = service.store.read(Aliases.owners, sender.lower())
        matching = [account for account in accounts if account.id in owners]
    if len(matching) == 1:
        return matching[0]
    known = (
        ", ".join(sorted({account.email for account in accounts}))
        or "none yet; add one: postroom accounts add, or a row of data.csv"
    )
    what = (
        "--from names none of the accounts, nor an alias of one"
        if not matching
        else "say --from which account"
    )
    raise click.UsageError(f"{what} (there are: {known})")


def _wait_for_end(
    service: Service, request_id: str, timeout: float | None, tell: Callable[[str], None]
) -> MessageState:
    """Return how a message ended, and tell of each change before; exit with 75 after `timeout`."""
    from postroom.core.message import MessageState
    from postroom.worker import liveness

    if not liveness.running(service.store, system_clock):
        click.echo("postroom: no worker is running; start `postroom serve`. Waiting…", err=True)
    until, told = time.monotonic() + (timeout if timeout is not None else float("inf")), ""
    while True:
        status = service.store.read(Messages.status, request_id)
        assert status is not None
        if (said := printable(str(status))) != told:
            told = said
            tell(said)
        if status.state in (MessageState.SENT, MessageState.FAILED, MessageState.CANCELLED):
            return status.state
        if time.monotonic() >= until:
            fail(f"{request_id} has not ended within {timeout:g} s; it goes on", EX_TEMPFAIL)
        time.sleep(0.05)
