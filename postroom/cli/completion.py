"""Shell completion of mailboxes, pools and ids, from the database; nothing where that cannot be read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from postroom.store.accounts import Accounts
from postroom.store.messages import Messages
from postroom.store.pools import Pools

if TYPE_CHECKING:
    import click

    from postroom.store.store import Store

_OFFERED = 50  # the newest messages


def mailboxes(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Offer the accounts whose mailbox begins so."""
    with suppress(Exception), _store(context) as store:
        known = {stored.account.email for stored in store.read(Accounts.all)}
        return sorted(mailbox for mailbox in known if mailbox.startswith(begun.lower()))
    return []


def pool_names(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Offer the pools whose name begins so."""
    with suppress(Exception), _store(context) as store:
        return sorted({pool.name for pool in store.read(Pools.all) if pool.name.startswith(begun)})
    return []


def request_ids(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Offer the newest messages whose id begins so; those that are held to `release`."""
    with suppress(Exception), _store(context) as store:
        listed = store.read(Messages.newest, _OFFERED, held_only=context.info_name == "release")
        return [row.status.request_id for row in listed if row.status.request_id.startswith(begun.lower())]
    return []


def inbox_ids(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Offer the newest messages of the built-in inbox whose id begins so."""
    from postroom.inbox.maildrop import FOLDER
    from postroom.inbox.reader import list_messages

    with suppress(Exception):
        _enter_home(context)
        return [
            id_
            for id_ in ("latest", *(message.id for message in list_messages(FOLDER, _OFFERED)))
            if id_.startswith(begun)
        ]
    return []


@contextmanager
def _store(context: click.Context) -> Iterator[Store]:
    """Open the database that is there, whatever its secret key: nothing is decrypted or changed."""
    from postroom.settings import load_settings
    from postroom.store.store import open_store

    logging.disable()
    _enter_home(context)
    settings = load_settings()
    with closing(open_store(settings.database_url, create=False, bouncer=settings.database_bouncer)) as store:
        store.check_schema()
        yield store


def _enter_home(context: click.Context) -> None:
    home = context.find_root().params.get("home") or os.environ.get("POSTROOM_HOME")
    if home:
        os.chdir(home)
