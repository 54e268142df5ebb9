"""`postroom erase` and `export`: erases or exports what is stored about an address, or exports what an account has sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postroom.cli.accounts_named import faults_are_usage
from postroom.cli.actor import actor
from postroom.cli.completion import mailboxes
from postroom.cli.exits import EX_TEMPFAIL
from postroom.cli.values import GivenText, faults_name
from postroom.core.clock import system_clock
from postroom.core.errors import NotFound
from postroom.core.text import counted, printable

if TYPE_CHECKING:
    from postroom.accounts.erasure import Erased
    from postroom.core.listing import Filter
    from postroom.runtime.personal_files import FilesErased
    from postroom.store.store import Store


@click.command()
@click.argument("address")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be erased.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def erase(address: str, dry_run: bool, as_json: bool) -> None:
    """Erase what is stored about a recipient: contents, subjects, dialogues, and the address itself.

    Ids, times and states stay, and a keyed hash stands in the place of the address. What waits is cancelled first.
    On other hosts of the installation the command goes over their files. Status 75 while a message is being sent
    or goes to others too, 1 where an account on hold keeps some.
    """
    from postroom.accounts.erasure import PersonalData
    from postroom.inbox.maildrop import FOLDER
    from postroom.runtime import installation
    from postroom.runtime.personal_files import erase_from_files, look_in_files
    from postroom.worker.email_log import LOCK, EmailLog

    service = installation.open_service(serving=True)
    try:
        data = PersonalData(service.store, service.vault)
        with faults_are_usage():
            erased = data.address(address)
        log = EmailLog(service.store, service.settings.email_log, installation.VAR / LOCK)
        if dry_run:
            found, files = data.look(erased), look_in_files(erased, FOLDER, log)
        else:
            found = data.erase(erased, actor())
            files = erase_from_files(erased, FOLDER, log)
    finally:
        service.store.close()
    if as_json:
        click.echo(json.dumps(_document(found, files, dry_run=dry_run)))
    else:
        _print(found, files, dry_run=dry_run)
    if not dry_run and not found.is_complete:
        sys.exit(_status(found))


def _document(found: Erased, files: FilesErased, *, dry_run: bool) -> dict[str, object]:
    from postroom.store.erasure import Fate

    return {
        "substitute": found.substitute,
        "dry_run": dry_run,
        "messages": {fate.value: found.messages[fate] for fate in Fate},
        "elsewhere": dict(found.elsewhere),
        "inbox_messages": files.inbox_messages,
        "log_lines": files.log_lines,
        "complete": found.is_complete,
    }


def _print(found: Erased, files: FilesErased, *, dry_run: bool) -> None:
    from postroom.store.erasure import Fate

    words = {
        Fate.ERASED: "{} would be erased" if dry_run else "{} erased",
        Fate.CANCELLED: "{} that waited would be cancelled and erased"
        if dry_run
        else "{} that waited cancelled and erased",
        Fate.SPARED: "{} left until their other recipients have them: run this again then",
        Fate.SENDING: "{} being sent now: run this again",
        Fate.HELD: "{} kept, since the account is on hold (postroom accounts set EMAIL --hold false)",
    }
    for fate, text in words.items():
        if count := found.messages[fate]:
            click.echo(text.format(counted(count, "message")))
    for kind, count in found.elsewhere.items():
        click.echo(f"{count} {kind}")
    if files.inbox_messages:
        click.echo(f"{counted(files.inbox_messages, 'message')} in the folder of the inbox")
    if files.log_lines:
        click.echo(f"{counted(files.log_lines, 'line')} of email_log.txt")
    if not (sum(found.messages.values()) or found.elsewhere or files.inbox_messages or files.log_lines):
        click.echo("nothing is stored about this address", err=True)
    elif not dry_run:
        click.echo(f"{found.substitute} stands in its place", err=True)


def _status(found: Erased) -> int:
    from postroom.store.erasure import Fate

    return EX_TEMPFAIL if found.messages[Fate.SENDING] or found.messages[Fate.SPARED] else 1


@click.command()
@click.option(
    "--account",
    metavar="EMAIL|ID",
    type=GivenText(),
    help="All that an account has sent.",
    shell_complete=mailboxes,
)
@click.option("--recipient", metavar="MAILBOX", type=GivenText(), help="All that went to this address.")
@click.argument("folder", type=click.Path(path_type=Path))
def export(account: str | None, recipient: str | None, folder: Path) -> None:
    """Write messages with all that is known of them into a new folder, which only you may read.

    messages.ndjson has a line for each, as GET /v1/emails/{id} answers; ID.eml is its content, where that is still kept.
    """
    from postroom.runtime import installation
    from postroom.runtime.export import export as write
    from postroom.runtime.export import make_folder
    from postroom.web.admin.emails import document_of

    if (account is None) == (recipient is None):
        raise click.UsageError("say --account or --recipient")
    service = installation.open_service()
    now = system_clock()
    try:
        wanted = _filter(service.store, account, recipient)
        who, whose = actor(), account or wanted.recipient
        make_folder(folder)  # before the audit: what is refused is no export
        place = {"folder": printable(str(folder.resolve()))}
        service.store.write(lambda tx: tx.audit.append(who, "messages.export", whose, now, place))
        done = write(
            service.store,
            wanted,
            folder,
            lambda history: json.dumps(document_of(history, now).model_dump(mode="json", by_alias=True)),
            now,
        )
    finally:
        service.store.close()
    click.echo(
        f"{counted(done.messages, 'message')}, {counted(done.contents, 'content')} still kept, in {printable(str(folder))}",
        err=True,
    )


def _filter(store: Store, account: str | None, recipient: str | None) -> Filter:
    from postroom.core.listing import Filter, recipient_of
    from postroom.store.listings import Listings

    if recipient is not None:
        with faults_name({"to": "--recipient"}):
            return Filter(recipient=recipient_of(recipient))
    found = store.read(Listings.accounts, account or "")
    if not found:
        raise NotFound(f"there is no account {account}")
    return Filter(accounts=tuple(found))
