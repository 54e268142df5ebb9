"""From an account to an open, secured and authenticated connection to its server."""

from __future__ import annotations

import ssl
from pathlib import Path

from postroom.accounts import unlock
from postroom.config import INBOX, Server, Settings, server_for
from postroom.errors import ConfigError, FaultKind, SMTPFault
from postroom.inbox import inbox_port
from postroom.model import SECOND, Account
from postroom.session import Endpoint, Timeouts, tls_context
from postroom.smtp import Connection
from postroom.store import StoredAccount
from postroom.vault import UndecryptableSecret, Vault


async def dial(
    stored: StoredAccount, settings: Settings, vault: Vault, tls: ssl.SSLContext, inbox: Path
) -> Connection:
    """Open a connection as this account. `inbox` is the folder of the built-in inbox. Raises SMTPFault."""
    try:
        account = unlock(stored, vault)
        server = server_for(account, settings)
    except (UndecryptableSecret, ConfigError) as error:
        raise SMTPFault(FaultKind.UNSUPPORTED, "AUTH", str(error)) from error
    return await Connection.open(_endpoint(account, server, settings, tls, inbox))


def _endpoint(
    account: Account, server: Server, settings: Settings, tls: ssl.SSLContext, inbox: Path
) -> Endpoint:
    cap = None if settings.smtp_timeout is None else settings.smtp_timeout / SECOND
    host, port = ("127.0.0.1", _inbox_port(inbox)) if server.host == INBOX else (server.host, server.port)
    return Endpoint(
        host=host,
        port=port,
        security=server.security,
        username=server.username,
        password=account.password,
        tls=tls,
        timeouts=Timeouts().capped(cap),
        pipelining=server.pipelining,
        chunking=server.chunking,
    )


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
