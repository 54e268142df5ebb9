"""The server of an account as it is known now, with the limits of connections, log-ins and messages a day."""

from __future__ import annotations

from postroom.core.account import Account
from postroom.core.errors import ConfigError
from postroom.core.replies import UNKNOWN, Circumstances
from postroom.providers import LOWEST_DAILY_LIMIT, ServerUndecided
from postroom.worker.mail.context import Context


class AccountServer:
    """The server that one account sends through, and its limits; `learn` brings it up to date."""

    def __init__(self, context: Context, account: Account) -> None:
        self._connector = context.connector
        self.most_connections = 1  # over all workers
        self.logins_per_minute: int | None = None
        self.daily_limit: int | None = None  # recipients in any 24 hours
        self.circumstances = UNKNOWN  # of what the server answers before it takes a message
        self.unnamed: str | None = None  # which the account keeps where nobody has named one
        self.learn(account)

    def learn(self, account: Account) -> None:
        """Take over what is known now; the MX of the account's domain may just have been asked."""
        self.unnamed = self._connector.unnamed_server(account) or account.worked_with
        try:
            server = self._connector.server_of(account)
            self.most_connections, self.daily_limit = server.connections, server.daily_limit
            self.logins_per_minute = server.logins_per_minute
            self.circumstances = Circumstances(server.host)
        except ServerUndecided:
            self.most_connections = 1  # until its MX was asked
            self.daily_limit = account.daily_limit or LOWEST_DAILY_LIMIT
            self.logins_per_minute = account.logins_per_minute
        except ConfigError:
            self.most_connections = 1  # the session will fail with the reason
