"""The command line: parse arguments, call one function, print. Data on stdout, messages on stderr."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import NoArgsIsHelpError

from postroom import __version__
from postroom.cli.accounts import accounts
from postroom.cli.backup import backup, restore
from postroom.cli.completion import inbox_ids, mailboxes, request_ids
from postroom.cli.listing import list_messages
from postroom.cli.probes import check, healthy
from postroom.cli.secret import secret
from postroom.core.clock import SECOND, rfc3339, system_clock
from postroom.core.errors import (
    ConfigError,
    InvalidSubmission,
    NotFound,
    PlaceTaken,
    PostroomError,
    QuotaExceeded,
    Rejected,
    SchemaMismatch,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
)
from postroom.core.files import MAY_PASS, NotPlain, reason_of
from postroom.core.text import counted, is_text, printable, printable_lines
from postroom.telemetry.incident import report

if TYPE_CHECKING:
    from rich.progress import TaskID

    from postroom.core.account import Account
    from postroom.core.message import MessageState
    from postroom.inbox.server import InboxMail, MailSummary
    from postroom.runtime.installation import Service
    from postroom.store.transaction import Transaction

EX_USAGE, EX_INTERRUPTED = 2, 130  # as shells and click have them
EX_SOFTWARE, EX_IOERR, EX_TEMPFAIL, EX_CONFIG = 70, 74, 75, 78  # sysexits.h
_STANDARD_ERROR = 2
_DECIDED_AT_ONCE = 500  # messages in one transaction

_EPILOG = """\b
Exit status: 0 done, 1 refused or failed, 2 wrong usage, 69 HTTP does not stay up, 70 a fault in Postroom,
74 accepted, but that could not be printed, 75 try again later, 78 wrong configuration, 130 ended by Ctrl-C.
Settings are environment variables or lines of .env in the installation's folder; files are kept there too.
"""


def main() -> None:
    """Run the command line and exit with its status."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):  # what a terminal's encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        ended = cli.main(prog_name="postroom", standalone_mode=False)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "postroom"
        _fail(f"{error.format_message().rstrip('.')}; see {command} --help", EX_USAGE)
    except click.Abort:
        _fail("interrupted", EX_INTERRUPTED)
    except (PostroomError, ConfigError) as error:
        _fail(str(error), _status_of(error))
    except OSError as error:
        _fail(*_words_of(error))
    except Exception as error:
        incident = report(logging.getLogger("postroom"), "the command failed", error)
        _fail(
            f"this is a fault in Postroom itself (incident {incident}, described above); please report it",
            EX_SOFTWARE,
        )
    else:
        sys.exit(ended if isinstance(ended, int) else 0)


def _status_of(error: PostroomError | ConfigError) -> int:
    if isinstance(error, (ConfigError, SchemaMismatch, StoreDamaged)):
        return EX_CONFIG
    return EX_TEMPFAIL if isinstance(error, (StoreUnavailable, PlaceTaken, QuotaExceeded)) else 1


def _words_of(error: OSError) -> tuple[str, int]:
    if isinstance(error, PermissionError):
        said = reason_of(error)
        return (
            f"{error.filename}: {said[0].lower()}{said[1:]}; run this as the user whose installation it is",
            EX_CONFIG,
        )
    where = f"{error.filename}: " if error.filename else ""
    if isinstance(error, NotPlain):
        return f"{where}{error.strerror}", EX_CONFIG
    return f"{where}{error.strerror or error}", EX_TEMPFAIL if error.errno in MAY_PASS else 1


def _fail(message: str, status: int) -> None:
    click.echo(printable_lines(f"postroom: {message}"), err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, message="postroom %(version)s")
@click.option(
    "--home", envvar="POSTROOM_HOME", metavar="DIR", help="The installation's folder; without it, this one."
)
def cli(home: str | None) -> None:
    """Send mail through the mailboxes you already own.

    \b
    First steps, in an empty folder:
      postroom serve          start; the first start makes a key for a built-in inbox
      postroom send --to you@example.com --subject Hello --body "It works"
      postroom inbox          see what arrived there
    """
    if home:
        _enter(home)


def _enter(home: str) -> None:
    """Make this the current folder, for the processes that are started from here as well."""
    try:
        os.chdir(home)
    except OSError as error:
        fix = "; make it first" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError("POSTROOM_HOME", f"cannot enter {home}: {reason_of(error)}{fix}") from error
    os.environ["POSTROOM_HOME"] = str(Path.cwd())


# ---------------------------------------------------------------- running it


@cli.command()
@click.option("--host", envvar="HOST", metavar="NAME", help="Where HTTP listens, instead of HOST.")
@click.option("--port", envvar="PORT", metavar="NUMBER", help="And on which port, instead of PORT.")
def serve(host: str | None, port: str | None) -> None:
    """Run everything: HTTP, delivery and the built-in inbox.

    Prepares the database, reads data.csv (and writes a first one where there is none), then
    serves until Ctrl-C or SIGTERM, which lets mail that is being sent finish. What dies is
    started again.
    """
    from postroom.core.lifeline import ignore_stray_signals
    from postroom.runtime import installation, listen
    from postroom.runtime.supervisor import DRAIN, LOG_LEVEL

    ignore_stray_signals()
    os.environ.update({name: value for name, value in (("HOST", host), ("PORT", port)) if value})
    service = installation.open_service(migrate=True)
    listen.check(service.settings)
    key = installation.write_demo_accounts(service)
    installation.read_accounts_file(service)
    installation.warn_of_oversights(service.settings)
    _greet(service, key)
    settings = service.settings
    options = [f"{DRAIN}{settings.drain / SECOND}", f"{LOG_LEVEL}{settings.log_level}"]
    commands = [*options, *installation.child_commands(service)]
    service.store.close()
    # A process of its own kind takes over this one: it stays as long as the service, so it should be small.
    try:
        os.execv(sys.executable, [sys.executable, "-m", "postroom.runtime.supervisor", *commands])  # noqa: S606
    except OSError as error:  # which names no file
        raise ConfigError(
            "PYTHON", f"cannot run {sys.executable}: {error.strerror}; install it anew"
        ) from error


def _program() -> str:
    """Return how to call this program from here, as a person would type it."""
    beside = Path(sys.executable).parent / "postroom"
    if shutil.which("postroom") == str(beside) or not beside.exists():
        return "postroom"
    shown = os.path.relpath(beside)
    return shown if not shown.startswith("..") else str(beside)


def _home_option() -> str:
    home = os.environ.get("POSTROOM_HOME")
    return f" --home {home}" if home else ""


def _greet(service: Service, key: str | None) -> None:
    from postroom.runtime import listen
    from postroom.telemetry.log import is_kept_log

    settings = service.settings
    click.echo(printable(f"Postroom {__version__} serves on {listen.described(settings)}"), err=True)
    if key is None:
        return
    if is_kept_log(_STANDARD_ERROR):  # sys.stderr is None where it is closed
        path = printable(str(settings.accounts_csv))
        click.echo(f"{path} was written, with a key in it for the built-in inbox", err=True)
        return
    body = '{"subject": "Hello", "recipient": "you@example.com", "body": "It works.", "key": "%s"}' % key  # noqa: UP031
    said = (
        f"\n{settings.accounts_csv} was written, with a key whose mail goes to the built-in inbox. Try it:\n\n"
        f"  {listen.curl(settings)}/send-email -H 'Content-Type: application/json' \\\n    -d '{body}'\n\n"
        f"  {_program()}{_home_option()} inbox show latest\n"
    )
    click.echo(printable_lines(said), err=True)


@cli.command()
def web() -> None:
    """Run the HTTP side alone. The database must be prepared (`postroom migrate`)."""
    from postroom.core.lifeline import ignore_stray_signals
    from postroom.runtime import installation, listen
    from postroom.runtime.web_process import run_web

    ignore_stray_signals()
    settings, lifeline = installation.check_service(), _lifeline()
    if lifeline is None:  # under `serve`, the last of our own may still be ending after a kill
        listen.check(settings)
    run_web(settings, lifeline)


@cli.command()
def worker() -> None:
    """Run one delivery process alone. The database must be prepared (`postroom migrate`)."""
    from postroom.core.lifeline import ignore_stray_signals
    from postroom.runtime import installation
    from postroom.worker.worker import run_worker

    ignore_stray_signals()
    service = installation.open_service(serving=True, on_broken=installation.stop_this_process)
    installation.strike(service.store, service.settings, service.vault)
    installation.settle_memory()
    run_worker(service.settings, service.store, service.vault, var=installation.VAR, lifeline=_lifeline())
    service.store.close()


def _lifeline() -> int | None:
    from postroom.core.lifeline import LIFELINE

    fd = os.environ.pop(LIFELINE, None)
    return int(fd) if fd else None


@cli.command()
@click.option(
    "--accept-server",
    is_flag=True,
    help="Go on with a server that is not the one that was used last, or a dump that was restored; what is queued is held.",
)
def migrate(accept_server: bool) -> None:
    """Prepare the database, or bring it up to date. Safe to run at any time."""
    from postroom.runtime import installation
    from postroom.runtime.own_files import check_own_files
    from postroom.settings import load_settings
    from postroom.store.store import open_store

    settings = load_settings()
    check_own_files(settings, installation.VAR)
    installation.start_logging(settings)
    store = open_store(settings.database_url, bouncer=settings.database_bouncer)
    applied = store.migrate()
    installation.note_servers(store, settings)
    installation.strike_after_upgrade(store, settings)
    if accept_server:
        held = installation.check_position(store, settings, accept=True)
        click.echo(
            f"this server is the right one from now on; {counted(held, 'message is', 'messages are')} held",
            err=True,
        )
    store.close()
    click.echo("\n".join(f"applied {name}" for name in applied) or "the database is up to date", err=True)


@cli.command("migrate-store")
@click.argument("source", metavar="SQLITE")
@click.argument("target", metavar="POSTGRES", required=False)
@click.option("--bouncer", is_flag=True, help="POSTGRES is a pgbouncer in transaction mode.")
@click.option(
    "--cancel", "cancelled", is_flag=True, help="Let SQLITE be served from again; POSTGRES is not given."
)
def migrate_store(source: str, target: str | None, bouncer: bool, cancelled: bool) -> None:
    """Move everything from SQLITE (a file, or sqlite:///FILE) to POSTGRES (postgresql://…), which must be empty.

    Stop Postroom first. Every row is compared afterwards. An interrupted move goes on when it is run again.
    SQLITE is marked as moved: it is not served from any more, so that nothing is sent twice.
    """
    from postroom.store import move

    for name, given in ("SQLITE", source), ("POSTGRES", target or ""):
        if not is_text(given):
            raise click.UsageError(f"{name} is not UTF-8 text, and no database can be named otherwise")
    path = Path(source.removeprefix("sqlite:///"))
    if cancelled:
        found = path.is_file() and move.cancel(path)
        click.echo("it can be served from again" if found else "it was not moved", err=True)
        return
    if target is None or not target.startswith(("postgresql://", "postgres://")):
        raise click.UsageError("say where to: postgresql://USER@HOST/DATABASE")
    with _progress_bar() as progress:
        moved = move.move(path, target, bouncer=bouncer, progress=progress)
    for table, rows in moved.rows.items():
        click.echo(f"{table}: {rows}")
    click.echo("moved, and compared row by row; now set DATABASE_URL to the new one", err=True)


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far each step has come, where somebody looks on."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done)

        yield show


# ---------------------------------------------------------------- mail

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cli.command()
@click.option("--to", "recipient", required=True, metavar="MAILBOX", help="Who gets it: name@domain.")
@click.option(
    "--from",
    "sender",
    metavar="MAILBOX",
    shell_complete=mailboxes,
    help="The account to send from; needless if there is one.",
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
@_json_option
def send(
    recipient: str,
    sender: str | None,
    subject: str,
    body: str | None,
    is_html: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Accept one mail, as POST /send-email does, and print its request_id.

    \b
    postroom send --to you@example.com --subject Hello --body "It works" --wait
    postroom send --to you@example.com --subject Report --html < report.html
    """
    from postroom.core.message import MessageState, Submission
    from postroom.intake.accept import accept
    from postroom.intake.disk_share import DiskShares
    from postroom.runtime import installation

    service = installation.open_service()
    account = _account(service, sender)
    text = body if body is not None else _standard_input(service.settings.max_message_bytes)
    submission = Submission(account, (recipient,), subject, text, is_html)
    try:
        accepted = accept(
            service.store,
            submission,
            most_bytes=service.settings.max_message_bytes,
            disk_reserve=service.settings.disk_reserve,
            shares=DiskShares(service.store),
        )
    except QuotaExceeded:
        raise
    except Rejected as error:
        raise click.UsageError(str(error)) from error
    with _said_to_be_accepted(accepted.request_id):
        if not wait or as_json:
            if wait:
                _wait_for_end(service, accepted.request_id, timeout, lambda status: None)
            _print_status(service, accepted.request_id, as_json=as_json, short=True)
            return
        click.echo(accepted.request_id)
        end = _wait_for_end(service, accepted.request_id, timeout, lambda status: click.echo(f"  {status}"))
    service.store.close()
    if end is MessageState.FAILED:
        sys.exit(1)


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
        reason = _words_of(error)[0] if isinstance(error, OSError) else str(error)
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
    in_use = set(service.store.active_keys().values())
    accounts = [stored.account for stored in service.store.accounts() if stored.account.id in in_use]
    matching = [account for account in accounts if sender is None or account.email == sender.lower()]
    if len(matching) == 1:
        return matching[0]
    known = (
        ", ".join(sorted({account.email for account in accounts}))
        or "none yet; add one to data.csv, then postroom accounts import"
    )
    what = "--from names none of the accounts" if not matching else "say --from which account"
    raise click.UsageError(f"{what} (there are: {known})")


def _wait_for_end(
    service: Service, request_id: str, timeout: float | None, tell: Callable[[str], None]
) -> MessageState:
    """Return how a message ended, and tell of each change before; exits with 75 when that takes too long."""
    from postroom.core.clock import system_clock
    from postroom.core.message import MessageState
    from postroom.core.text import printable
    from postroom.worker import liveness

    if not liveness.running(service.store, system_clock):
        click.echo("postroom: no worker is running; start `postroom serve`. Waiting…", err=True)
    until, told = time.monotonic() + (timeout if timeout is not None else float("inf")), ""
    while True:
        status = service.store.status(request_id)
        assert status is not None
        if (said := printable(str(status))) != told:
            told = said
            tell(said)
        if status.state in (MessageState.SENT, MessageState.FAILED, MessageState.CANCELLED):
            return status.state
        if time.monotonic() >= until:
            _fail(f"{request_id} has not ended within {timeout:g} s; it goes on", EX_TEMPFAIL)
        time.sleep(0.05)


@cli.command()
@click.argument("request_id", shell_complete=request_ids)
@_json_option
def status(request_id: str, as_json: bool) -> None:
    """Say what became of a message, with everything that happened to it. Status 1 when it failed.

    The beginning of an id is enough where only one message's begins so.
    """
    from postroom.runtime import installation

    service = installation.open_service()
    _print_status(service, _whole_id(service, request_id), as_json=as_json)


_ID_FORM, _LEAST_OF_AN_ID = "0" * 8 + "-0000-0000-0000-" + "0" * 12, 4


def _whole_id(service: Service, given: str) -> str:
    """Return the id of the only message whose id begins so. Raises NotFound."""
    text = given.strip().lower()
    rest = _ID_FORM[len(text) :]
    whole = text + rest
    if len(text) < _LEAST_OF_AN_ID or not re.fullmatch(_ID_FORM.replace("0", "[0-9a-f]"), whole):
        raise NotFound(f"there is no message with the id {given!r}")
    found = service.store.ids_between(whole, text + rest.replace("0", "f"), 3)
    if len(found) > 1:
        raise NotFound(
            f"several messages begin with {text}: {', '.join(found[:2])}{', …' if len(found) > 2 else ''}"
        )
    if not found:
        raise NotFound(f"there is no message with the id {given!r}")
    return found[0]


_held_option = click.option("--held", is_flag=True, help="All messages that are held, instead of one.")


@cli.command()
@click.argument("request_id", required=False, shell_complete=request_ids)
@_held_option
def release(request_id: str | None, held: bool) -> None:
    """Send a message after all that waits for a person: held in doubt, set aside after crashes, or since a restore."""
    now = system_clock()
    _decide(
        request_id,
        held,
        lambda transaction, id_: transaction.release_held(id_, now),
        "released",
        "it is not held",
    )


@cli.command()
@click.argument("request_id", required=False, shell_complete=request_ids)
@_held_option
def cancel(request_id: str | None, held: bool) -> None:
    """Give up a message that waits. Recipients who have had it are not affected."""
    now = system_clock()
    why = "only a message that waits can be cancelled"
    _decide(request_id, held, lambda transaction, id_: transaction.cancel(id_, now), "cancelled", why)


def _decide(
    request_id: str | None, held: bool, move: Callable[[Transaction, str], bool], done: str, why_not: str
) -> None:
    """Move one message, or all that are held."""
    from postroom.runtime import installation

    if held == (request_id is not None):
        raise click.UsageError("give the id of one message, or --held for all that are held")
    service = installation.open_service()
    if request_id is not None:
        whole = _whole_id(service, request_id)
        if not service.store.write(lambda transaction: move(transaction, whole)):
            raise InvalidSubmission(f"{why_not}: {whole} is {service.store.status(whole)}")
        _print_status(service, whole, as_json=False)
        return
    moved = 0
    waiting = service.store.held_messages()
    for start in range(0, len(waiting), _DECIDED_AT_ONCE):
        some = waiting[start : start + _DECIDED_AT_ONCE]
        moved += service.store.write(partial(_move_all, move, some))
    service.store.close()
    click.echo(f"{counted(moved, 'message is', 'messages are')} {done}")


def _move_all(move: Callable[[Transaction, str], bool], ids: Sequence[str], transaction: Transaction) -> int:
    return sum(move(transaction, request_id) for request_id in ids)


def _print_status(service: Service, request_id: str, *, as_json: bool, short: bool = False) -> None:
    from postroom.core.message import MessageState

    found = service.store.status(request_id)
    assert found is not None
    events = [
        {
            "at": rfc3339(event.at),
            "event": event.kind,
            "recipient": event.forward_path,
            "detail": event.detail,
        }
        for event in service.store.events(found.request_id)
    ]
    document: dict[str, Any] = {"request_id": found.request_id, "status": str(found), "events": events}
    if found.possible_duplicate:
        document["possible_duplicate"] = True
    if as_json:
        click.echo(json.dumps(document))
    elif short:
        click.echo(found.request_id)
    else:
        _print_events(document, events)
    service.store.close()
    if found.state is MessageState.FAILED:
        sys.exit(1)


def _print_events(document: Mapping[str, Any], events: list[dict[str, Any]]) -> None:
    from postroom.core.text import printable

    click.echo(f"{document['request_id']}  {printable(document['status'])}")
    for event in events:
        detail = event["detail"]
        if detail and detail in document["status"]:
            detail = None  # it was said above
        words = (event["at"], event["event"], event["recipient"], detail)
        click.echo("  " + "  ".join(printable(word) for word in words if word))


cli.add_command(accounts)
cli.add_command(backup)
cli.add_command(restore)
cli.add_command(secret)
cli.add_command(list_messages)
cli.add_command(check)
cli.add_command(healthy)


# ---------------------------------------------------------------- inbox


@cli.group(invoke_without_command=True)
@click.option("-n", "--number", "limit", default=20, show_default=True, help="How many, newest first.")
@_json_option
@click.pass_context
def inbox(context: click.Context, limit: int, as_json: bool) -> None:
    """List the mail that the built-in inbox has caught, or show one.

    \b
    postroom inbox                 the newest mails
    postroom inbox show latest     one of them, by id or `latest`
    """
    if context.invoked_subcommand is None:
        from postroom.inbox.server import list_mails
        from postroom.runtime import installation

        installation.check_folder()
        mails = list_mails(installation.INBOX, limit)
        if as_json:
            click.echo(json.dumps([_summary(mail) for mail in mails]))
        elif not mails:
            click.echo("the inbox is empty", err=True)
        else:
            _print_table(mails)


def _print_table(mails: list[MailSummary]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from postroom.inbox.server import printable

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("Id", "Received", "From", "To", "Subject"):
        table.add_column(name, no_wrap=name in ("Id", "Received"))
    for mail in mails:
        cells = (
            mail.id,
            rfc3339(mail.received)[:19],
            mail.envelope_from,
            ", ".join(mail.envelope_to),
            mail.subject,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console().print(table)


def _summary(mail: MailSummary) -> dict[str, Any]:
    return {
        "id": mail.id,
        "received": rfc3339(mail.received),
        "envelope_from": mail.envelope_from,
        "envelope_to": list(mail.envelope_to),
        "from": mail.sender,
        "subject": mail.subject,
        "size": mail.size,
    }


@inbox.command()
@click.argument("which", default="latest", metavar="[ID|latest]", shell_complete=inbox_ids)
@click.option("--raw", is_flag=True, help="Print the bytes exactly as they arrived.")
@_json_option
def show(which: str, raw: bool, as_json: bool) -> None:
    """Show one mail of the built-in inbox."""
    from postroom.inbox.server import read_mail
    from postroom.runtime import installation

    installation.check_folder()
    mail = read_mail(installation.INBOX, which)
    if raw:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        sys.stdout.buffer.write(mail.raw)
    elif as_json:
        click.echo(json.dumps({**_summary(mail), "text": mail.text, "html": mail.html}))
    else:
        _print_mail(mail)


def _print_mail(mail: InboxMail) -> None:
    from postroom.inbox.server import printable

    for name, value in (
        ("From", mail.sender),
        ("To", ", ".join(mail.envelope_to)),
        ("Subject", mail.subject),
        ("Received", rfc3339(mail.received)),
    ):
        click.echo(f"{name + ':':<10}{printable(value)}")
    click.echo()
    click.echo(printable(mail.text))
    if mail.html is not None:
        click.echo("[there is an HTML part too: --json or --raw shows it]", err=True)


@inbox.command("serve")
def inbox_serve() -> None:
    """Run the inbox's SMTP server alone, on a free port of 127.0.0.1."""
    from postroom.inbox import server as capture

    capture.main(_lifeline())
