"""`postroom accounts check`: logs in as each account, and sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from postroom.core.errors import NotFound
from postroom.core.text import printable
from postroom.store.accounts import Accounts
from postroom.store.keys import Keys

if TYPE_CHECKING:
    from postroom.runtime.installation import Service
    from postroom.store.accounts import StoredAccount

_MARKS = {True: "ok", False: "failed", None: "skipped"}


def accounts_in_use(service: Service, mailbox: str | None) -> list[StoredAccount]:
    """Return the accounts that data.csv names, or the one with this mailbox. Raises NotFound where there is none."""
    in_use = set(service.store.read(Keys.active).values())
    chosen = [
        stored
        for stored in service.store.read(Accounts.all)
        if stored.account.id in in_use and (mailbox is None or stored.account.email == mailbox.lower())
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
) -> list[bool | None]:
    """Log in as each account and tell the result; True where that worked, None where it was not tried."""
    from postroom.runtime import account_login

    return await account_login.check_all(service, chosen, tell)
