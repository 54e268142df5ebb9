"""Opens a connection for an account: finds its server (preset or MX), its password or access token, connects, logs in."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

from postroom.accounts.csv_sync import unlock
from postroom.accounts.oauth import AccessToken, AccessTokens
from postroom.accounts.oauth_providers import may_have_token
from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.core.account import Account, Secret
from postroom.core.clock import SECOND
from postroom.core.errors import ConfigError, FaultKind, SMTPFault
from postroom.core.measures import Histogram, Measures
from postroom.inbox.maildrop import inbox_port
from postroom.providers import Server, ServerUndecided, domain_of, server_for, unnamed_server
from postroom.settings import INBOX, Settings
from postroom.smtp.client import Connection
from postroom.smtp.credentials import credentials_of
from postroom.smtp.endpoint import Endpoint, Timeouts, tls_context
from postroom.smtp.exchangers import Exchangers
from postroom.smtp.own_name import OwnName
from postroom.smtp.tape import Tape
from postroom.store.accounts import StoredAccount
from postroom.store.store import Store
from postroom.worker.mail.tokens import LoginTokens, is_refused_token, not_for

# What a step is called in the metrics: by its verb, and the greeting and the answer to a whole message besides.
_PHASES = {
    "greeting": "GREETING",
    "dot": "DOT",
    **{
        verb: verb
        for verb in (
            "CONNECT", "TLS", "EHLO", "HELO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "HELP", "QUIT",
        )
    },
}  # fmt: skip


class ServerConnector:
    """Opens connections for all accounts of a worker. `inbox` is the folder of the built-in inbox."""

    def __init__(
        self,
        settings: Settings,
        vault: Vault,
        *,
        inbox: Path,
        exchangers: Exchangers | None = None,
        tokens: LoginTokens | None = None,
        measures: Measures | None = None,
    ) -> None:
        self._settings = settings
        self._exchangers = exchangers or Exchangers()
        self._vault = vault
        self._inbox = inbox
        self._tokens = tokens
        self._measures = measures or Measures()
        self._phases: dict[str, Histogram] = {}
        self._tls = make_tls_context(settings)
        self._own_name = OwnName(settings.ehlo_name)

    def server_of(self, account: Account) -> Server:
        """Return the account's server by what is known now; nobody is asked. Raises ConfigError, ServerUndecided."""
        return server_for(account, self._settings, self._last(account))

    def host_of(self, account: Account) -> str:
        """Return the name of the account's server; empty where that is not known."""
        with suppress(ConfigError):
            return self.server_of(account).host
        return ""

    def unnamed_server(self, account: Account) -> str | None:
        """Return what an account that works is to keep: the host that only its MX has named."""
        return unnamed_server(account, self._settings, self._last(account))

    def _last(self, account: Account) -> str | None:
        return self._exchangers.last(domain_of(account))

    async def connect(self, stored: StoredAccount) -> Connection:
        """Open a connection as this account. Raises SMTPFault, with the record of what was said until then."""
        tape = Tape()
        try:
            return await self._connect(stored, tape)
        except SMTPFault as fault:
            tape.failed(fault)
            tape.ended_at = fault.verb
            fault.record = tape.take()
            raise

    async def _connect(self, stored: StoredAccount, tape: Tape) -> Connection:
        try:
            account = unlock(stored, self._vault)
            server = await self._server(account)
        except UndecryptableSecret as error:
            raise SMTPFault(FaultKind.UNDECRYPTABLE, "AUTH", str(error)) from error
        except ConfigError as error:
            raise SMTPFault(FaultKind.UNSUPPORTED, "AUTH", str(error)) from error
        try:
            return await self._open(account, server, tape)
        except SMTPFault as fault:
            if fault.kind is FaultKind.NO_SUCH_HOST and server.provider is not None:
                raise _no_provider(server.host) from fault
            raise

    async def ask_server(self, account: Account) -> Server:
        """Return the account's server; its domain's MX is asked where nobody has named it. Raises ConfigError, SMTPFault."""
        return await self._server(account)

    async def log_in_with(self, account: Account, server: Server, token: AccessToken) -> Connection:
        """Open a connection with this token, whatever the account has otherwise. Raises SMTPFault."""
        if not may_have_token(token.provider, server.host):
            raise not_for(token.provider, server.host)
        return await Connection.open(self._endpoint(account, server, await self._own_name.get(), token))

    def has_login(self, stored: StoredAccount) -> bool:
        """Whether log-ins as this account count for its pace."""
        has_grant = self._tokens is not None and self._tokens.has_grant(stored.account)
        return stored.credential is not None or has_grant

    async def _open(self, account: Account, server: Server, tape: Tape) -> Connection:
        """Connect and log in; a token that is refused before its end gives way to a new one, once."""
        tokens = self._tokens if server.host != INBOX else None
        token = None if tokens is None else await tokens.get(account, server.host)
        own_name = await self._own_name.get()
        try:
            return await Connection.open(self._endpoint(account, server, own_name, token), tape)
        except SMTPFault as fault:
            if tokens is None or token is None or token.is_new or not is_refused_token(fault):
                raise
            token = await tokens.replace(account, server.host, token)
        return await Connection.open(self._endpoint(account, server, own_name, token), tape)

    async def _server(self, account: Account) -> Server:
        """Return the account's server. Where nobody has named it, its domain's MX is asked, from time to time again."""
        try:
            return server_for(account, self._settings)
        except ServerUndecided as undecided:
            credentials = credentials_of(account.username or account.email, account.password)
            host = await self._exchangers.server_of(undecided.domain, credentials)
            return server_for(account, self._settings, host)

    def _endpoint(
        self, account: Account, server: Server, own_name: str | None, token: AccessToken | None
    ) -> Endpoint:
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
            is_confined=server.is_confined,
            access_token=Secret("") if token is None else token.secret,
            observe=self._observe,
        )

    def _observe(self, phase: str, seconds: float) -> None:
        """Note how long a step took; the event loop's thread alone does so."""
        histogram = self._phases.get(phase)
        if histogram is None:
            name = _PHASES.get(phase, "OTHER")
            histogram = self._phases[phase] = self._measures.histogram("smtp_phase_duration_seconds", name)
        histogram.observe(seconds)


def connector_for(settings: Settings, store: Store, vault: Vault, inbox: Path) -> ServerConnector:
    """Return what connects for the accounts of an installation, with their access tokens."""
    tokens = LoginTokens(AccessTokens(store, vault, settings))
    return ServerConnector(settings, vault, inbox=inbox, tokens=tokens, measures=store.measures)


def _no_provider(host: str) -> SMTPFault:
    """A provider's own name does not vanish: this machine's name server is at fault."""
    message = f"cannot look up the server {host}: this machine's name server says that there is no such host"
    return SMTPFault(FaultKind.UNRESOLVED, "connect", message)


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
