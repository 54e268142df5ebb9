"""SMTP connections and log-ins as rows: the number that each account may have is shared by all workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from postroom.core.clock import SECOND, Instant
from postroom.store.noun import Noun

LOGINS_AT_ONCE = 4
_LONGEST_LOGIN_QUEUE = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class ConnectionLease:
    """The right to one connection; it may log in from `login_at` on."""

    id: int
    login_at: Instant


class _InUse(NamedTuple):
    """An account's open connections, and until when its log-ins are paid for."""

    connections: int
    logins_until: Instant


class Connections(Noun):
    def take(
        self, account_id: int, worker_id: int, *, most: int, logins_per_minute: int | None, now: Instant
    ) -> ConnectionLease | None:
        """Reserve one of the account's connections, which all workers share, and its log-in; None when all are taken.

        Log-ins are paced as by a leaky bucket: some at once, then one after another. The lease must be
        given back (`give_back`); what a dead worker holds comes back with its jobs. Raises WorkerExpired.
        """
        self._tx.workers.hold_alive(worker_id)
        self._tx.accounts.lock(account_id)
        id_ = self._tx.value(int, "take_connection", account_id=account_id, worker_id=worker_id, most=most)
        if id_ is None:
            return None
        if logins_per_minute is None:
            return ConnectionLease(id_, now)
        interval = 60 * SECOND // logins_per_minute
        latest = now + _LONGEST_LOGIN_QUEUE
        paid = self._tx.value(
            int, "reserve_login", account_id=account_id, interval=interval, now=now, latest=latest
        )
        assert paid is not None
        return ConnectionLease(id_, max(now, paid - LOGINS_AT_ONCE * interval))

    def give_back(self, lease: ConnectionLease) -> None:
        self._tx.change("return_connection", connection_id=lease.id)

    def in_use(self, account_id: int, logins_per_minute: int | None, now: Instant) -> tuple[int, int]:
        """Return how many connections an account has open, and how many of its log-ins still count for its pace."""
        found = self._tx.row(_InUse, "connections_in_use", account_id=account_id)
        if found is None:
            return 0, 0
        ahead = min(max(0, found.logins_until - now), _LONGEST_LOGIN_QUEUE)
        interval = 60 * SECOND // (logins_per_minute or 60)
        return found.connections, -(-ahead // interval)

    def count(self) -> int:
        """Return how many SMTP connections are open, or being opened, in all workers."""
        return self._tx.value(int, "count_connections") or 0
