"""Finds the account or the pool that a command names, by its mailbox or name, or by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postroom.cli.accounts_named import in_use
from postroom.core.errors import Conflict, NotFound
from postroom.store.accounts import Accounts
from postroom.store.pools import Pools

if TYPE_CHECKING:
    from postroom.core.account import Account
    from postroom.store.pools import Pool
    from postroom.store.store import Store


def account_named(store: Store, given: str) -> Account:
    """Return the account with this mailbox or id. Raises NotFound; Conflict where several have the mailbox."""
    if (stored := store.read(Accounts.by_uid, given.lower())) is not None:
        return stored.account
    found = [stored.account for stored in store.read(Accounts.all) if stored.account.email == given.lower()]
    if not found:
        raise NotFound(f"there is no account {given!r}")
    if len(found) > 1:  # one that left data.csv is meant only where no other has its mailbox
        used = {stored.account.id for stored in in_use(store)}
        found = [account for account in found if account.id in used] or found
    if len(found) > 1:
        ids = ", ".join(account.uid for account in found)
        raise Conflict(f"several accounts have the mailbox {given}: name one by its id: {ids}")
    return found[0]


def pool_named(store: Store, given: str) -> Pool:
    """Return the pool with this name or id. Raises NotFound; Conflict where several have the name."""
    if (pool := store.read(Pools.by_uid, given.lower())) is not None:
        return pool
    found = [pool for pool in store.read(Pools.all) if pool.name == given]
    if not found:
        raise NotFound(f"there is no pool {given!r}")
    if len(found) > 1:
        ids = ", ".join(pool.uid for pool in found)
        raise Conflict(f"several pools have the name {given}: name one by its id: {ids}")
    return found[0]
