"""The accounts that messages may be sent from; and faults in what was given of one, as wrong usage of the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

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


@contextmanager
def faults_are_usage() -> Iterator[None]:
    """Have a fault in what was given be wrong usage of the command."""
    try:
        yield
    except (InvalidSubmission, MalformedSubmission) as error:
        raise click.UsageError(str(error)) from error
