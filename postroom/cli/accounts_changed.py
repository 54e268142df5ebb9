"""`postroom accounts add`, `show`, `set`, `remove`, `verify`, `pause` and `resume`: one account, changed at run time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from postroom.cli.accounts_named import faults_are_usage, shown_state
from postroom.cli.actor import actor
from postroom.cli.completion import mailboxes
from postroom.cli.owners import account_named
from postroom.core.clock import rfc3339
from postroom.core.errors import Conflict
from postroom.core.text import printable
from postroom.store.accounts import Accounts
from postroom.store.keys import Keys

if TYPE_CHECKING:
    from postroom.accounts.account_values import Value
    from postroom.accounts.management import AccountManagement, AccountView
    from postroom.core.account import Secret
    from postroom.runtime.installation import Service
    from postroom.store.aliases import Alias

Command = TypeVar("Command", bound=Callable[..., None])

_LARGEST: Final = 65_536  # bytes of a file with a password
_OPTIONS: Final = {
    "name": "The sender's name.",
    "host": "The SMTP server; without it, the one of its domain.",
    "port": "Its port.",
    "security": "starttls, tls or none.",
    "username": "The name to log in with, where it is not the mailbox.",
    "daily_limit": "The most recipients in any 24 hours.",
    "connections": "The most connections at a time.",
    "logins_per_minute": "The most log-ins a minute.",
    "pipelining": "false: one command at a time.",
    "chunking": "false: DATA only.",
    "dkim_selector": "The name in front of ._domainkey, for the doctor.",
    "hold": "true: retention deletes nothing of its messages.",
}


def account_options(command: Command) -> Command:
    """Give a command the options of an account's settings, by the names of data.csv's columns."""
    for name, words in reversed(_OPTIONS.items()):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, metavar="VALUE", help=words)(command)
    command = click.option(
        "--alias",
        "aliases",
        multiple=True,
        metavar="MAILBOX",
        help="Another mailbox it may send as; repeat it.",
    )(command)
    command = click.option(
        "--password-stdin", "from_stdin", is_flag=True, help="Read the password from standard input."
    )(command)
    return click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read the password from FILE.",
    )(command)


@click.command()
@click.argument("email")
@account_options
@click.option("--oauth", "is_oauth", is_flag=True, help="It logs in by OAuth2; there is no password.")
@click.option("--no-password", is_flag=True, help="Its server asks for no log-in.")
def add(
    email: str,
    password_file: Path | None,
    from_stdin: bool,
    aliases: tuple[str, ...],
    is_oauth: bool,
    no_password: bool,
    **given: str | None,
) -> None:
    """Add an account to the database, and print its id.

    The password is asked for on a terminal, or read from a file or standard input; it is never an argument, which
    every user of the machine could read.
    """
    service = _open(stores_secrets=True)
    with faults_are_usage():
        password = _password(password_file, from_stdin, is_asked_for=not (is_oauth or no_password))
        if password is None and not (is_oauth or no_password):
            raise click.UsageError(
                "give the password by --password-stdin or --password-file, or say --no-password or --oauth"
            )
        added = _management(service).create(
            {"email": email, **_settings(given)},
            actor(),
            password=password,
            aliases=aliases,
            will_log_in_by_oauth=is_oauth,
        )
    service.store.close()
    click.echo(added.account.uid)
    shown = printable(added.account.email)
    click.echo(f"{shown} is added; a key for it: postroom keys add --account {shown}", err=True)


@click.command()
@click.argument("account", metavar="EMAIL|ID", shell_complete=mailboxes)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(account: str, as_json: bool) -> None:
    """Show the settings and the state of an account, never its password."""
    service = _open()
    view = _management(service).get(account_named(service.store, account).uid)
    in_file = set(service.store.read(Keys.active).values())
    last_reason = service.store.read(Accounts.last_reason, view.account.id)
    service.store.close()
    document = document_of(view)
    if as_json:
        click.echo(json.dumps(document))
        return
    state, reason = shown_state(view.account, in_file, lambda _: last_reason)  # as `accounts` says it
    shown = {
        **document,
        "state": state,
        "reason": reason,
        "aliases": ", ".join(map(_alias_words, view.aliases)),
    }
    for name, value in shown.items():
        if value not in (None, ""):
            click.echo(printable(f"{name.replace('_', ' ') + ':':19}{value}"))


@click.command("set")
@click.argument("account", metavar="EMAIL|ID", shell_complete=mailboxes)
@account_options
@click.option("--no-alias", "no_aliases", is_flag=True, help="Take all its aliases away.")
def set_(
    account: str,
    password_file: Path | None,
    from_stdin: bool,
    aliases: tuple[str, ...],
    no_aliases: bool,
    **given: str | None,
) -> None:
    """Change what is given of an account; the rest stays, and an empty VALUE takes one away.

    A new password lets it go on where a refused one has paused it. Another server needs the password again.
    """
    service = _open(stores_secrets=True)
    changes = _settings(given)
    with faults_are_usage():
        password = _password(password_file, from_stdin, is_asked_for=False)
        if not (changes or password or aliases or no_aliases):
            raise click.UsageError("say what to change")
        changed = _management(service).change(
            account_named(service.store, account).uid,
            changes,
            actor(),
            password=password,
            aliases=aliases if aliases or no_aliases else None,
        )
    service.store.close()
    click.echo(printable(f"{changed.account.email} is changed"), err=True)


@click.command()
@click.argument("account", metavar="EMAIL|ID", shell_complete=mailboxes)
@click.option(
    "--queued",
    type=click.Choice(["finish", "cancel"]),
    help="What becomes of its messages that wait: they are sent first, or given up.",
)
def remove(account: str, queued: str | None) -> None:
    """Delete an account: its keys stop working at once. Status 1 while messages wait and --queued is not given."""
    service = _open()
    found = account_named(service.store, account)
    try:
        is_gone = _management(service).delete(found.uid, actor(), queued)
    except Conflict as error:  # in the words of the command
        raise Conflict(str(error).replace("queued=", "--queued "), field=error.field) from error
    service.store.close()
    words = "is deleted" if is_gone else "is closing: it is deleted once its last messages have ended"
    click.echo(printable(f"{found.email} {words}"), err=True)


@click.command()
@click.argument("account", metavar="EMAIL|ID", shell_complete=mailboxes)
@click.option("--alias", metavar="MAILBOX", help="Confirm this alias of it instead; no log-in is made.")
def verify(account: str, alias: str | None) -> None:
    """Log in as an account, and send nothing. Status 1 when that does not work, or was not tried.

    One that works goes on, unless a person has paused it. A password that was refused is not tried again before it has
    changed, or the account was resumed. With --alias: note that you have seen its server keep that From.
    """
    if alias is not None:
        _confirm(account, alias)
    elif not _logs_in(account):
        sys.exit(1)


def _confirm(account: str, alias: str) -> None:
    service = _open()
    uid = account_named(service.store, account).uid
    view = _management(service).verify_alias(uid, alias, actor())
    service.store.close()
    click.echo(printable(f"{alias} is a verified alias of {view.account.email}"), err=True)


def _logs_in(account: str) -> bool:
    import asyncio

    from postroom.cli.accounts_check import check_all

    service = _open()
    try:
        found = service.store.read(Accounts.get, account_named(service.store, account).id)
        results = asyncio.run(check_all(service, [found] if found else [], resumes=True))
    finally:
        service.store.close()
    return results == [True]


@click.command()
@click.argument("account", metavar="EMAIL|ID", shell_complete=mailboxes)
def pause(account: str) -> None:
    """Have an account send nothing until it is resumed; what is sent to it is accepted and waits."""
    service = _open()
    view = _management(service).pause(account_named(service.store, account).uid, actor())
    service.store.close()
    click.echo(printable(f"{view.account.email} is {view.account.state_reason}"), err=True)


@click.command()
@click.argument("account", metavar="EMAIL|ID", shell_complete=mailboxes)
def resume(account: str) -> None:
    """Let a parked or paused account send at once; its next message shows whether that works."""
    service = _open()
    before = account_named(service.store, account)
    _management(service).resume(before.uid, actor())
    service.store.close()
    click.echo(printable(f"{before.email} is active; it was {before.state.value}"), err=True)


def _alias_words(alias: Alias) -> str:
    if alias.verified_at is None:
        return f"{alias.email} (not verified)"
    return f"{alias.email} (verified by {alias.verified_by} at {rfc3339(alias.verified_at)})"


def document_of(view: AccountView) -> dict[str, object]:
    """Return an account as `show --json` prints it."""
    account = view.account
    return {
        "id": account.uid,
        "email": account.email,
        "source": account.source,
        "state": "closing" if account.closing_at else account.state.value,
        "reason": account.state_reason,
        "paused_by": account.paused_by,
        "since": _time(account.state_since),
        "until": _time(account.resume_at),
        "name": account.name,
        "host": account.host,
        "port": account.port,
        "security": account.security.value if account.security else None,
        "username": account.username,
        "has_password": view.has_password,
        "daily_limit": account.daily_limit,
        "connections": account.connections,
        "logins_per_minute": account.logins_per_minute,
        "pipelining": account.pipelining,
        "chunking": account.chunking,
        "dkim_selector": account.dkim_selector,
        "hold": account.hold,
        "aliases": [
            {
                "email": alias.email,
                "verified_at": _time(alias.verified_at),
                "verified_by": alias.verified_by,
            }
            for alias in view.aliases
        ],
        "created_at": _time(account.created_at),
        "worked_at": _time(account.worked_at),
    }


def _time(at: int | None) -> str | None:
    return None if at is None else rfc3339(at)


def _open(*, stores_secrets: bool = False) -> Service:
    from postroom.runtime import installation

    return installation.open_service(serving=stores_secrets)


def _management(service: Service) -> AccountManagement:
    from postroom.accounts.management import AccountManagement

    return AccountManagement(service.store, service.vault, service.settings)


def _settings(given: dict[str, str | None]) -> dict[str, Value]:
    return {name: value for name, value in given.items() if value is not None}


def _password(file: Path | None, from_stdin: bool, *, is_asked_for: bool) -> Secret | None:
    """Return the password that is given, or typed on a terminal; None where there is none."""
    from postroom.core.account import Secret
    from postroom.core.files import read_plain

    if file is not None and from_stdin:
        raise click.UsageError("give --password-file or --password-stdin")
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if file is not None:
        octets = read_plain(file, _LARGEST)
    elif from_stdin and not is_terminal and sys.stdin is not None:
        octets = sys.stdin.buffer.read(_LARGEST)
    elif is_terminal and (from_stdin or is_asked_for):
        octets = click.prompt("Password", hide_input=True, default="", show_default=False, err=True).encode()
    else:
        return None
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the password is not UTF-8 text") from None
    password = Secret(text.removesuffix("\n").removesuffix("\r"))
    if not password and (file is not None or from_stdin):
        raise click.UsageError("the password is empty")
    return password or None
