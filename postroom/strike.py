"""Striking credentials from what servers have said before it was struck as it came: once, at the upgrade."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Final, get_args

from postroom.accounts import unlock
from postroom.credentials import Credentials
from postroom.store import Store, StoredWords, Transaction, WordsOf
from postroom.vault import UndecryptableSecret, Vault

log = logging.getLogger(__name__)

_DONE: Final = "credentials_struck"  # setting


def strike_stored(store: Store, vault: Vault) -> None:
    """Take the passwords of the accounts out of stored reasons, replies and events, where that was not done yet.

    A password that was changed since is not known any more, and cannot be found.
    """
    if store.setting(_DONE) is not None:
        return
    known = _known(store, vault)
    struck = sum(_strike(store, kind, known) for kind in get_args(WordsOf)) if known else 0
    store.write(lambda transaction: transaction.set_setting(_DONE, "1"))
    if struck:
        log.warning(
            "%d stored replies held a password, which was struck; email_log.txt may hold it still", struck
        )


def _known(store: Store, vault: Vault) -> dict[int, Credentials]:
    found = {}
    for stored in store.accounts():
        try:
            account = unlock(stored, vault)
        except UndecryptableSecret:
            continue
        if account.password:
            found[account.id] = Credentials(account.username or account.email, account.password.reveal())
    return found


def _strike(store: Store, kind: WordsOf, known: Mapping[int, Credentials]) -> int:
    after = struck = 0
    while rows := store.server_words(kind, after):
        after = rows[-1].id
        changed = [new for row in rows if (new := _without(row, known.get(row.account_id))) != row]
        if changed:
            store.write(partial(_reword, kind=kind, rows=changed))
        struck += len(changed)
    return struck


def _without(row: StoredWords, credentials: Credentials | None) -> StoredWords:
    if credentials is None:
        return row
    first, second = (text and credentials.strike(text) for text in (row.first, row.second))
    return StoredWords(row.id, row.account_id, first, second)


def _reword(transaction: Transaction, kind: WordsOf, rows: list[StoredWords]) -> None:
    for row in rows:
        transaction.reword(kind, row.id, row.first, row.second)
