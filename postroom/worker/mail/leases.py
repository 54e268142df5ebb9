"""Leases of an account's connections, which all workers share: taken before connecting, returned after closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from postroom.core.clock import SECOND
from postroom.smtp.client import Connection
from postroom.store.connections import ConnectionLease, Connections
from postroom.worker.mail.breaker import AccountBreaker
from postroom.worker.mail.context import Context

_LOGIN_SLICE_S = 0.1
_OLDEST_S = 300.0  # how long one connection is used


@dataclass(slots=True, eq=False)
class OpenConnection:
    """An open connection and the right to it."""

    connection: Connection
    lease: ConnectionLease
    opened: float  # by the loop's clock
    is_spent: bool = False  # the server takes no more over it

    def is_over(self) -> bool:
        if self.is_spent or not self.connection.usable:
            return True
        return asyncio.get_running_loop().time() - self.opened > _OLDEST_S


class Leases:
    """Leases connections for one account, and has the log-ins wait for their turn."""

    def __init__(self, context: Context, breaker: AccountBreaker) -> None:
        self._context = context
        self._breaker = breaker

    async def take(self) -> ConnectionLease | None:
        """Lease one of the account's connections; None when all are taken."""
        context, account, server = self._context, self._breaker.account, self._breaker.server
        has_login = context.connector.has_login(self._breaker.stored)
        return await context.async_writer.submit(
            Connections.take,
            account.id,
            context.worker_id,
            most=server.most_connections,
            logins_per_minute=server.logins_per_minute if has_login else None,
            now=context.clock(),
        )

    async def wait_for_turn(self, lease: ConnectionLease, is_needed: Callable[[], bool]) -> bool:
        """Wait until a log-in over it is due; False, at once, when it is not needed any more."""
        loop = asyncio.get_running_loop()
        turn = loop.time() + (lease.login_at - self._context.clock()) / SECOND
        while (wait := turn - loop.time()) > 0:
            if not is_needed():
                return False
            await asyncio.sleep(min(wait, _LOGIN_SLICE_S))
        return True

    def give_back(self, lease: ConnectionLease | None) -> None:
        if lease is not None:
            self._context.async_writer.submit_until_recorded(
                lambda transaction: transaction.connections.give_back(lease), "the end of a connection"
            )
