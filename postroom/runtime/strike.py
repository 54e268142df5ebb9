"""Strikes credentials from stored replies and log lines of earlier versions, once, at the upgrade."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Final, get_args

from postroom.accounts.csv_sync import unlock
from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.smtp.credentials import Credentials
from postroom.store.accounts import Accounts
from postroom.store.server_words import ServerWords, StoredWords, WordsOf
from postroom.store.settings import StoredSettings
from postroom.store.store import Store
from postroom.store.transaction import Transaction
from postroom.worker.email_log import EmailLog

log = logging.getLogger(__name__)

_DONE: Final = "credentials_struck_2"  # setting
_LOG_DONE: Final = "log_struck_2"  # setting, with the name of the log's writer behind it
_WAIT_S: Final = 10.0  # for a process that is just writing the log
_PAUSE_S: Final = 0.05
_FAILED: Final = re.compile(
    rb"(?P<head>Request ID: [^,]*, Sender: (?P<sender>.*?), Recipient: .*?, Status: (?!sent))(?P<reason>.*)(?P<end>\n?)",
    re.DOTALL,
)


def strike_stored(store: Store, vault: Vault) -> None:
    """Take the passwords of the accounts out of stored reasons, replies and events, where that was not done yet.

    A password that was changed since is unknown, and cannot be found.
    """
    if store.read(StoredSettings.get, _DONE) is not None:
        return
    known = _known(store, vault)
    struck = sum(_strike(store, kind, known) for kind in get_args(WordsOf)) if known else 0
    store.write(StoredSettings.set, _DONE, "1")
    if struck:
        log.warning("%d stored replies held a password, which was struck", struck)


def strike_log(store: Store, vault: Vault, email_log: EmailLog) -> None:
    """Take the passwords of the accounts out of the lines that email_log.txt holds, where that was not done yet.

    A file that cannot be rewritten now is tried at the next start. The passwords are opened at the first line that
    needs them: with 10,000 accounts that takes a second, at each start.
    """
    known = cache(partial(_known_by_sender, store, vault))
    deadline = time.monotonic() + _WAIT_S
    try:
        while (struck := email_log.revise(partial(_without_passwords, known), _LOG_DONE)) is None:
            if time.monotonic() > deadline:
                log.warning(
                    "email_log.txt was not searched for passwords: another process writes it; the next start tries"
                )
                return
            time.sleep(_PAUSE_S)
    except OSError as error:
        log.warning("email_log.txt cannot be searched for passwords (%s); the next start tries again", error)
        return
    if struck:
        log.warning("%d lines of email_log.txt and its older files held a password, which was struck", struck)


def _known_by_sender(store: Store, vault: Vault) -> dict[str, list[Credentials]]:
    found: dict[str, list[Credentials]] = {}
    credentials = _known(store, vault)
    for stored in store.read(Accounts.all):
        if stored.account.id in credentials:
            found.setdefault(stored.account.email, []).append(credentials[stored.account.id])
    return found


def _without_passwords(known: Callable[[], Mapping[str, list[Credentials]]], line: bytes) -> bytes:
    """Strike the passwords of a line's sender from the reason in it."""
    found = _FAILED.fullmatch(line)
    if found is None:
        return line
    reason = before = found["reason"].decode("utf-8", "surrogateescape")
    for credentials in known().get(found["sender"].decode("utf-8", "surrogateescape"), ()):
        reason = credentials.strike(reason)
    if reason == before:
        return line
    return found["head"] + reason.encode("utf-8", "surrogateescape") + found["end"]


def _known(store: Store, vault: Vault) -> dict[int, Credentials]:
    found = {}
    for stored in store.read(Accounts.all):
        try:
            account = unlock(stored, vault)
        except UndecryptableSecret:
            continue
        if account.password:
            found[account.id] = Credentials(account.username or account.email, account.password.reveal())
    return found


def _strike(store: Store, kind: WordsOf, known: Mapping[int, Credentials]) -> int:
    after = struck = 0
    while rows := store.read(ServerWords.after, kind, after):
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
        transaction.server_words.reword(kind, row)
