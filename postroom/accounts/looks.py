"""Bounds how often somebody looks at an account by request: verify and health, each six times a minute in all processes."""

from __future__ import annotations

import json
from typing import Final

from postroom.core.audit import Actor
from postroom.core.clock import MINUTE, SECOND, Clock, system_clock
from postroom.core.errors import NotFound, QuotaExceeded
from postroom.store.accounts import StoredAccount
from postroom.store.store import Store
from postroom.store.transaction import Transaction

A_MINUTE: Final = 6  # providers lock accounts that log in too often
_LOOKS: Final = (
    "looks:{}:{}"  # setting: the times of the last looks, by what is looked at and the account's row
)


def take_look(store: Store, uid: str, what: str, actor: Actor, clock: Clock = system_clock) -> StoredAccount:
    """Return the account that may be looked at now; the audit names who does. Raises NotFound, QuotaExceeded."""

    def work(transaction: Transaction) -> StoredAccount:
        now = clock()
        stored = transaction.accounts.by_uid(uid)
        if stored is None:
            raise NotFound("there is no account with this id", field="id")
        transaction.accounts.lock(stored.account.id)
        name = _LOOKS.format(what, stored.account.id)
        looks = [at for at in json.loads(transaction.settings.get(name) or "[]") if now - MINUTE < at <= now]
        if len(looks) >= A_MINUTE:
            raise QuotaExceeded(
                f"an account is looked at {A_MINUTE} times a minute at most; wait for the time in Retry-After (seconds)",
                retry_after=max(1, -(-(looks[0] + MINUTE - now) // SECOND)),
            )
        transaction.settings.set(name, json.dumps([*looks, now]))
        transaction.audit.append(actor, f"account.{what}", stored.account.email, now)
        return stored

    return store.write(work)
