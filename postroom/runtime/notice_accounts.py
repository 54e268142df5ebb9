"""Finds ways of POSTROOM_NOTIFY that send from an account which there is not: in the database, or in data.csv."""

from __future__ import annotations

from contextlib import closing, suppress

from postroom.accounts.csv_sync import file_at
from postroom.core.errors import ConfigError, StoreError
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.sqlite.copies import is_absent
from postroom.store.store import Store, open_store, sqlite_path


def unknown_senders(settings: Settings, store: Store | None = None) -> list[str]:
    """Return a sentence for each `mailto:` whose account is unknown, with its place in the list.

    Without `store` the database is opened, if there is one. What data.csv names is an account from the next start on.
    """
    ways = [way for way in settings.notify or () if way.is_message]
    if not ways:
        return []
    known = _of_file(settings) | (_of_database(settings) if store is None else _of(store))
    return [
        f"the account {way.account} of {way.name} is unknown, so that no notice can go by it; correct account=, or add "
        f"it: postroom accounts add {way.account}"
        for way in ways
        if way.account not in known
    ]


def _of(store: Store) -> set[str]:
    return {
        each.account.email.lower() for each in store.read(Accounts.all) if each.account.closing_at is None
    }


def _of_file(settings: Settings) -> set[str]:
    with suppress(OSError):
        return {row.email.lower() for row in file_at(settings.accounts_csv).rows}
    return set()


def _of_database(settings: Settings) -> set[str]:
    path = sqlite_path(settings.database_url)
    if path is not None and is_absent(path):
        return set()
    with suppress(StoreError, ConfigError):
        store = open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)
        with closing(store):
            return _of(store)
    return set()
