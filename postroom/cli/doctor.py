"""`postroom doctor`: examines the installation and its accounts, and prints each finding with its exact fix."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import click

from postroom.cli.completion import mailboxes
from postroom.core.clock import rfc3339
from postroom.core.errors import ConfigError, NotFound, PostroomError
from postroom.core.text import counted, printable

if TYPE_CHECKING:
    from postroom.accounts.doctor.account import Login
    from postroom.accounts.doctor.examine import Examination
    from postroom.accounts.doctor.finding import Finding
    from postroom.runtime.installation import Service
    from postroom.settings import Settings
    from postroom.store.accounts import StoredAccount

_AT_ONCE: Final = 10
_COLOURS: Final = {
    "ok": "green", "note": "cyan", "warning": "yellow", "error": "red", "not_known": "bright_black",
}  # fmt: skip
_INDENT: Final = " " * 23
_WORDS: Final = {"error": "error", "warning": "warning", "not_known": "not known"}


@click.command()
@click.argument("mailbox", metavar="[EMAIL]", required=False, shell_complete=mailboxes)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(mailbox: str | None, as_json: bool) -> int:
    """Look for what is wrong with the installation and its accounts, or with the account EMAIL, and say the fix.

    Each account's server is looked at and logged in to (at the pace of `postroom accounts check`; nothing is sent), and
    its domain's SPF, DKIM and DMARC are asked for. Status 1 with any error; what is "not known" is none.
    """
    from postroom.accounts.doctor.finding import has_errors

    service, installation = _opened(mailbox)
    examined: list[tuple[StoredAccount, Examination]] = []
    if service is not None:
        try:
            examined = _examine(service, _chosen(service, mailbox))
        finally:
            service.store.close()
    if as_json:
        click.echo(_as_json(installation, examined))
    else:
        _print(installation, examined)
    everything = [*(installation or ()), *(each for _, found in examined for each in found.findings)]
    return 1 if has_errors(everything) else 0


def _opened(mailbox: str | None) -> tuple[Service | None, tuple[Finding, ...] | None]:
    """Open the installation, and examine it unless one account is asked for; None for one that cannot be opened."""
    from postroom.runtime import installation
    from postroom.runtime.examination import examine_installation, examine_without_database

    if mailbox is not None:
        return installation.open_service(), None
    try:
        service = installation.open_service()
        return service, examine_installation(service.settings, service.store)
    except (ConfigError, PostroomError) as fault:
        return None, examine_without_database(fault, _settings())


def _settings() -> Settings | None:
    from postroom.settings import load_settings

    try:
        return load_settings()
    except ConfigError:
        return None


def _chosen(service: Service, mailbox: str | None) -> list[StoredAccount]:
    """Return the accounts in use, or those with this mailbox. Raises NotFound where there is none."""
    from postroom.store.accounts import Accounts
    from postroom.store.keys import Keys

    stored = service.store.read(Accounts.all)
    if mailbox is not None:
        found = [each for each in stored if each.account.email == mailbox.lower()]
        if not found:
            raise NotFound(f"there is no account {mailbox!r}")
        return found
    in_file = set(service.store.read(Keys.active).values())
    return [each for each in stored if each.account.source != "csv" or each.account.id in in_file]


def _examine(service: Service, chosen: Sequence[StoredAccount]) -> list[tuple[StoredAccount, Examination]]:
    """Log in as each account that has credentials, then look at each; some at a time."""
    from concurrent.futures import ThreadPoolExecutor

    from postroom.accounts.doctor.examine import examine
    from postroom.inbox.maildrop import FOLDER, inbox_port

    logins, inbox = _logins(service, chosen), inbox_port(FOLDER)

    def one(stored: StoredAccount) -> tuple[StoredAccount, Examination]:
        login = logins.get(stored.account.id)
        found = examine(service.store, service.settings, service.vault, stored, login=login, inbox_port=inbox)
        return stored, found

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(one, chosen))


def _logins(service: Service, chosen: Sequence[StoredAccount]) -> dict[int, Login]:
    """Try to log in as `postroom accounts check` does: never with a password that was refused, at the account's pace."""
    import asyncio

    from postroom.accounts.doctor.account import Login
    from postroom.cli.accounts_check import check_all
    from postroom.store.oauth_grants import OAuthGrants

    tried = [
        each
        for each in chosen
        if each.credential is not None or service.store.read(OAuthGrants.get, each.account.id)
    ]
    results: dict[int, Login] = {}

    def note(stored: StoredAccount, works: bool | None, words: str) -> None:
        results[stored.account.id] = Login(works, words)

    if tried:
        asyncio.run(check_all(service, tried, note))
    return results


# -- printing


def _as_json(
    installation: tuple[Finding, ...] | None, examined: Iterable[tuple[StoredAccount, Examination]]
) -> str:
    from postroom.accounts.doctor.finding import as_values

    accounts = [
        {
            "account": stored.account.email,
            "id": stored.account.uid,
            "at": rfc3339(found.at),
            "findings": as_values(found.findings),
        }
        for stored, found in examined
    ]
    return json.dumps(
        {"installation": None if installation is None else as_values(installation), "accounts": accounts}
    )


def _print(
    installation: tuple[Finding, ...] | None, examined: Sequence[tuple[StoredAccount, Examination]]
) -> None:
    parts = [] if installation is None else [("the installation", installation)]
    parts += [(stored.account.email, found.findings) for stored, found in examined]
    coloured = False if os.environ.get("NO_COLOR") else None  # None: on a terminal only
    width = shutil.get_terminal_size().columns
    for name, findings in parts:
        click.echo(click.style(printable(name), bold=True), color=coloured)
        for finding in findings:
            click.echo("\n".join(_lines(finding, width)), color=coloured)
    counts = Counter(finding.severity.value for _, findings in parts for finding in findings)
    said = [
        counted(counts[name], word, word if " " in word else "")
        for name, word in _WORDS.items()
        if counts[name]
    ]
    click.echo(", ".join(said) or "nothing is wrong", err=True)


def _lines(finding: Finding, width: int) -> list[str]:
    """Return a finding as lines: what was found, details, and the fix, which is not broken, for it may be copied."""
    severity = finding.severity.value
    head = f"  {severity.replace('_', ' '):9}  {finding.subject:10} "
    lines = textwrap.wrap(
        finding.summary,
        width,
        initial_indent=head,
        subsequent_indent=_INDENT,
        break_on_hyphens=False,
        break_long_words=False,
    )
    styled = click.style(f"{severity.replace('_', ' '):9}", fg=_COLOURS[severity])
    lines[0] = f"  {styled}{lines[0][len(head) - len(head.lstrip()) + 9 :]}"
    if finding.detail:
        lines += textwrap.wrap(
            finding.detail,
            width,
            initial_indent=_INDENT,
            subsequent_indent=_INDENT,
            break_on_hyphens=False,
            break_long_words=False,
        )
    return [*lines, f"{_INDENT}fix: {finding.fix}"] if finding.fix else lines
