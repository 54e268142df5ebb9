"""`postroom accounts check`: logs in as each account, and sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from postroom.cli.accounts_named import in_use
from postroom.core.errors import NotFound
from postroom.core.text import printable

if TYPE_CHECKING:
    from postroom.runtime.installation import Service
    from postroom.store.accounts import StoredAccount

_MARKS = {True: "ok", False: "failed", None: "skipped"}


def accounts_in_use(service: Service, mailbox: str | None) -> list[StoredAccount]:
    """Return the accounts in use, or those with this mailbox. Raises NotFound where there is none."""
    chosen = [
        stored
        for stored in in_use(service.store)
        if mailbox is None or stored.account.email == mailbox.lower()
    ]
    if not chosen:
        raise NotFound(f"there is no account {mailbox!r}" if mailbox else "there are no accounts")
    return chosen


def _print(stored: StoredAccount, works: bool | None, words: str) -> None:
    click.echo(f"{_MARKS[works]:8} {printable(f'{stored.account.email}: {words}')}")


async def check_all(
    service: Service,
    chosen: Sequence[StoredAccount],
    tell: Callable[[StoredAccount, bool | None, str], None] = _print,
    *,
    resumes: bool = False,
) -> list[bool | None]:
    """Log in as each account and tell the result; True where that worked, None where it was not tried.

    With `resumes` an account that works goes on, unless a person has paused it.
    """
    from postroom.runtime import account_login

    return await account_login.check_all(service, chosen, tell, resumes=resumes)
