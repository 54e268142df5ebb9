"""The accounts that messages may be sent from; and faults in what was given of one, as wrong usage of the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from postroom.core.account import AccountState
from postroom.core.errors import InvalidSubmission, MalformedSubmission
from postroom.store.accounts import Accounts
from postroom.store.keys import Keys

if TYPE_CHECKING:
    from postroom.core.account import Account
    from postroom.store.accounts import StoredAccount
    from postroom.store.store import Store


def in_use(store: Store) -> list[StoredAccount]:
    """Return the accounts that messages may be sent from: not those that left data.csv or are being deleted."""
    in_file = set(store.read(Keys.active).values())
    return [stored for stored in store.read(Accounts.all) if is_in_use(stored.account, in_file)]


def is_in_use(account: Account, in_file: set[int]) -> bool:
    """Whether messages may be sent from an account. `in_file`: the rows of those that have a key in data.csv."""
    return account.closing_at is None and (account.source != "csv" or account.id in in_file)


def shown_state(
    account: Account, in_file: set[int], last_reason: Callable[[int], str | None]
) -> tuple[str, str | None]:
    """Return an account's state in one word, and its reason: for an account that has never worked, its newest message's."""
    if account.closing_at is not None:
        return "closing", "it is being deleted; its last messages are still sent"
    if not is_in_use(account, in_file):
        return "removed", "no row of data.csv names it; what was accepted before still goes out"
    if account.state is AccountState.ACTIVE and account.worked_at is None:
        reason = last_reason(account.id)
        return ("failing" if reason else "active"), reason
    return account.state.value, account.state_reason


@contextmanager
def faults_are_usage() -> Iterator[None]:
    """Have a fault in what was given be wrong usage of the command."""
    try:
        yield
    except (InvalidSubmission, MalformedSubmission) as error:
        said, field = str(error), error.field or ""
        options = {each.name or "": each.opts[0] for each in click.get_current_context().command.params}
        is_named = field not in options or said.startswith(field) or field == "email"
        raise click.UsageError(said if is_named else f"{options[field]}: {said}") from error
