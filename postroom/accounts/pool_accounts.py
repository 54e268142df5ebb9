"""The pools as a web process knows them, for about a second each: which account sends the next message of a pool's key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from postroom.accounts.pool_choice import Member, catch_up, choose, give
from postroom.core.account import Account, AccountState
from postroom.core.clock import Clock
from postroom.core.errors import ConfigError, StoreUnavailable
from postroom.providers import LOWEST_DAILY_LIMIT, ServerUndecided, server_for
from postroom.settings import Settings
from postroom.store.pools import MemberLoad, Pools
from postroom.store.store import Store

_FRESH_FOR_S: Final = 1.0


class PoolAccounts:
    """A caller refreshes a pool when `is_fresh` is false. `account_of` returns a known account by its row's id."""

    def __init__(
        self, store: Store, settings: Settings, account_of: Callable[[int], Account | None], clock: Clock
    ) -> None:
        self._store = store
        self._settings = settings
        self._account_of = account_of
        self._clock = clock
        self._mutex = threading.Lock()
        self._members: dict[int, list[Member]] = {}
        self._read_at: dict[int, float] = {}

    def is_fresh(self, pool_id: int) -> bool:
        return time.monotonic() - self._read_at.get(pool_id, float("-inf")) < _FRESH_FOR_S

    def refresh(self, pool_id: int) -> None:
        """Read a pool's members. It waits for the database, so it is not for an event loop.

        While the database is away they stay as they were; raises StoreUnavailable where they were never read.
        """
        with self._mutex:
            if self.is_fresh(pool_id):
                return
            try:
                loads = self._store.read(Pools.loads, pool_id, self._clock())
            except StoreUnavailable:
                if pool_id not in self._members:
                    raise
            else:
                self._members[pool_id] = self._merged(self._members.get(pool_id, []), loads)
                if len(self._members[pool_id]) < len(loads):
                    return  # a member was just added, and the accounts are read again soon
            self._read_at[pool_id] = time.monotonic()

    def anyone(self, pool_id: int) -> Account | None:
        """Return an account of a pool, to check a request with before one is chosen; None: it has none."""
        return next((member.account for member in self._members.get(pool_id, [])), None)

    def choose(self, pool_id: int, *, recipients: int, thread: int | None) -> Account:
        """Return the account that sends a message of a pool's key, and count the message. Raises NotPermitted."""
        members, now = self._members.get(pool_id, []), self._clock()
        catch_up(members, recipients=recipients, now=now)
        chosen = choose(members, recipients=recipients, now=now, thread=thread)
        give(chosen, recipients)
        return chosen.account

    def choose_able(self, pool_id: int, *, recipients: int, but: int) -> Account | None:
        """Return an account that can send a message now, other than `but`, and count the message; None: there is none."""
        members, now = self._members.get(pool_id, []), self._clock()
        catch_up(members, recipients=recipients, now=now)
        able = [member for member in members if member.is_able and member.account.id != but]
        if not able:
            return None
        chosen = choose(able, recipients=recipients, now=now)
        give(chosen, recipients)
        return chosen.account

    def _merged(self, known: list[Member], loads: list[MemberLoad]) -> list[Member]:
        before = {member.account.id: member for member in known}
        members = []
        for load in loads:
            account = self._account_of(load.account_id)
            if account is None:
                continue
            member = _member(account, load, self._settings)
            earlier = before.get(account.id)
            if earlier is not None:
                member.turn, member.is_able = earlier.turn, earlier.is_able
            members.append(member)
        return members


def _member(account: Account, load: MemberLoad, settings: Settings) -> Member:
    present = replace(
        account, state=AccountState(load.state), resume_at=load.resume_at, closing_at=load.closing_at
    )
    return Member(
        account=present,
        weight=load.weight,
        daily_limit=daily_limit_of(account, settings),
        used=load.used,
        room_at=load.room_at,
        waiting=load.waiting,
    )


def daily_limit_of(account: Account, settings: Settings) -> int | None:
    """Return the recipients that an account may send to in 24 hours, as far as its server is known without asking for it."""
    try:
        return server_for(account, settings).daily_limit
    except ServerUndecided:
        return account.daily_limit or LOWEST_DAILY_LIMIT
    except ConfigError:  # its messages fail with the reason
        return account.daily_limit
