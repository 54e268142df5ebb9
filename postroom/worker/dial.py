"""From an account to an open, secured and authenticated connection to its server."""

from __future__ import annotations

import ssl
from pathlib import Path

from postroom.accounts import unlock
from postroom.config import INBOX, Server, Settings, server_for
from postroom.errors import ConfigError, FaultKind, SMTPFault
from postroom.inbox import inbox_port
from postroom.model import SECOND, Account
from postroom.ownname import OwnName
from postroom.session import Endpoint, Timeouts, tls_context
from postroom.smtp import Connection
from postroom.store import StoredAccount
from postroom.vault import UndecryptableSecret, Vault


class Dialer:
    """Opens connections for all accounts of a worker. `inbox` is the folder of the built-in inbox."""

    def __init__(self, settings: Settings, vault: Vault, *, inbox: Path) -> None:
        self._settings = settings
        self._vault = vault
        self._inbox = inbox
        self._tls = make_tls_context(settings)
        self._own_name = OwnName(settings.ehlo_name)

    async def dial(self, stored: StoredAccount) -> Connection:
        """Open a connection as this account. Raises SMTPFault."""
        try:
            account = unlock(stored, self._vault)
            server = server_for(account, self._settings)
        except (UndecryptableSecret, ConfigError) as error:
            raise SMTPFault(FaultKind.UNSUPPORTED, "AUTH", str(error)) from error
        return await Connection.open(self._endpoint(account, server, await self._own_name.get()))

    def _endpoint(self, account: Account, server: Server, own_name: str | None) -> Endpoint:
        if server.host == INBOX:
            host, port = "127.0.0.1", _inbox_port(self._inbox)
        else:
            host, port = server.host, server.port
        return Endpoint(
            host=host,
            port=port,
            security=server.security,
            username=server.username,
            password=account.password,
            tls=self._tls,
            timeouts=_timeouts(self._settings),
            ehlo_name=own_name,
            pipelining=server.pipelining,
            chunking=server.chunking,
        )


def _timeouts(settings: Settings) -> Timeouts:
    cap = None if settings.smtp_timeout is None else settings.smtp_timeout / SECOND
    dot = None if settings.smtp_dot_timeout is None else settings.smtp_dot_timeout / SECOND
    return Timeouts().capped(cap, dot)


def _inbox_port(folder: Path) -> int:
    port = inbox_port(folder)
    if port is None:
        raise SMTPFault(
            FaultKind.DISCONNECTED,
            "connect",
            "the built-in inbox is not running; start it with `postroom serve` or `postroom inbox serve`",
        )
    return port


def make_tls_context(settings: Settings) -> ssl.SSLContext:
    """Return the TLS context for all accounts. Raises ConfigError for a CA file that is none."""
    try:
        return tls_context(str(settings.smtp_ca_file) if settings.smtp_ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("POSTROOM_SMTP_CA_FILE", f"not a file of PEM certificates: {error}") from error
