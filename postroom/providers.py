"""Decides which server an account sends through, and its provider's limits; the table of known providers.

A password goes only to a server that somebody has named, or that serves the mailbox's domain:
that of its preset, or the one that its MX shows to be a provider's (`server_by_exchangers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from postroom.core.account import Account, Security
from postroom.core.errors import ConfigError
from postroom.settings import INBOX, Settings, check_plaintext


class ServerUndecided(ConfigError):
    """Nobody has named the account's server and no preset knows its domain: ask for the MX of `domain`."""

    def __init__(self, domain: str) -> None:
        super().__init__(
            "host", f"the server follows from the MX of {domain}, which is asked when a message is sent"
        )
        self.domain = domain


class _Endpoint(NamedTuple):
    host: str
    port: int
    security: Security


@dataclass(frozen=True, slots=True)
class Server:
    """The server that an account sends through, with the limits that apply there.

    `host` is `inbox`, with port 0, for the built-in capture server, whose real port
    is known at connect time. `connections` is the most that may be open at once for
    the account. `provider` names a provider whose limits are known; it follows from
    the server, never from the sender's domain. `daily_limit` is in recipients of any
    24 hours; for it and `logins_per_minute`, None: no limit. `pipelining` and `chunking`
    say whether to make use of them where the server offers them. `is_confined`: the
    host may lead to public addresses only.
    """

    host: str
    port: int
    security: Security
    connections: int
    username: str = field(repr=False)
    provider: str | None = None
    daily_limit: int | None = None
    logins_per_minute: int | None = None
    pipelining: bool = True
    chunking: bool = True
    is_confined: bool = False


_GMAIL: Final = _Endpoint("smtp.gmail.com", 587, Security.STARTTLS)
_OFFICE365: Final = _Endpoint("smtp.office365.com", 587, Security.STARTTLS)
_OUTLOOK: Final = _Endpoint("smtp-mail.outlook.com", 587, Security.STARTTLS)
_ICLOUD: Final = _Endpoint("smtp.mail.me.com", 587, Security.STARTTLS)
_YAHOO: Final = _Endpoint("smtp.mail.yahoo.com", 465, Security.TLS)
_FASTMAIL: Final = _Endpoint("smtp.fastmail.com", 465, Security.TLS)
_ZOHO: Final = _Endpoint("smtp.zoho.com", 465, Security.TLS)

_PRESETS: Final[Mapping[str, _Endpoint]] = {  # by the sender's domain
    "gmail.com": _GMAIL,
    "googlemail.com": _GMAIL,
    "outlook.com": _OUTLOOK,
    "hotmail.com": _OUTLOOK,
    "live.com": _OUTLOOK,
    "yahoo.com": _YAHOO,
    "icloud.com": _ICLOUD,
    "me.com": _ICLOUD,
    "fastmail.com": _FASTMAIL,
    "zoho.com": _ZOHO,
}
# By the ends of the names of a domain's mail exchangers: what the providers have their customers put into their DNS.
_BY_EXCHANGER: Final[Mapping[str, _Endpoint]] = {
    "google.com": _GMAIL,
    "googlemail.com": _GMAIL,
    "mail.protection.outlook.com": _OFFICE365,
    "mx.microsoft": _OFFICE365,
    "olc.protection.outlook.com": _OUTLOOK,
    "am0.yahoodns.net": _YAHOO,
    "mail.icloud.com": _ICLOUD,
    "messagingengine.com": _FASTMAIL,
    "zoho.com": _ZOHO,
}
_BY_HOST: Final[Mapping[str, _Endpoint]] = {
    endpoint.host: endpoint for endpoint in (*_PRESETS.values(), *_BY_EXCHANGER.values())
}

PROVIDERS: Final[Mapping[str, str]] = {  # by the server's host
    "smtp.gmail.com": "gmail",
    "smtp.googlemail.com": "gmail",
    "smtp-mail.outlook.com": "outlook",
    "smtp.office365.com": "office365",
    "smtp.mail.yahoo.com": "yahoo",
    "smtp.mail.me.com": "icloud",
    "smtp.fastmail.com": "fastmail",
    "smtp.zoho.com": "zoho",
}
# Recipients in 24 hours: support.google.com/a/answer/166852 and /mail/answer/22839, Microsoft's "Exchange Online limits",
# support.apple.com/102198. Messages that people send by hand count too, so a tenth is left to them.
_CONSUMER_GMAIL: Final = frozenset({"gmail.com", "googlemail.com"})
_DAILY_LIMITS: Final[Mapping[str, int]] = {"gmail": 2000, "office365": 10_000, "icloud": 1000}
_CONSUMER_GMAIL_LIMIT: Final = 500
_HEADROOM: Final = 10  # a part of this many
# Of a provider that is not known yet.
LOWEST_DAILY_LIMIT: Final = min(_DAILY_LIMITS.values()) * (_HEADROOM - 1) // _HEADROOM
# No provider publishes its limit; Gmail answers "454 4.7.0 Too many login attempts" above some.
_LOGINS_PER_MINUTE: Final = 10
_DEFAULT_PORTS: Final = {Security.STARTTLS: 587, Security.TLS: 465, Security.NONE: 25}


def server_for(account: Account, settings: Settings, by_exchangers: str | None = None) -> Server:
    """Return the server that `account` sends through.

    The account's own host wins, then POSTROOM_SMTP_*, then the preset of the sender's domain,
    then the server that the account has worked with, then `by_exchangers`, which is what the
    domain's MX has shown. Raises ServerUndecided where there is none of these, and ConfigError
    where credentials or messages would cross a network in the clear and
    POSTROOM_SMTP_ALLOW_PLAINTEXT does not allow it.
    """
    endpoint = _own_endpoint(account, settings, by_exchangers)
    if endpoint.security is Security.NONE:
        check_plaintext(endpoint.host, "POSTROOM_SMTP_ALLOW_PLAINTEXT", settings, account.email)
    provider = PROVIDERS.get(endpoint.host)
    return Server(
        host=endpoint.host,
        port=endpoint.port,
        security=endpoint.security,
        connections=account.connections or settings.smtp_connections or (2 if provider else 20),
        username=account.username or account.email,
        provider=provider,
        daily_limit=account.daily_limit or _daily_limit(provider, account.email),
        logins_per_minute=account.logins_per_minute or (_LOGINS_PER_MINUTE if provider else None),
        pipelining=account.pipelining is not False,
        chunking=account.chunking is not False,
        is_confined=account.is_confined
        and account.host is not None
        and endpoint.host != INBOX
        and not settings.smtp_allow_private,
    )


def is_own_domain(domain: str, server: Server) -> bool:
    """Whether a domain belongs to the provider of this server, as gmail.com does: its customers publish nothing there."""
    preset = _preset(domain)
    return preset is not None and PROVIDERS.get(preset.host) == server.provider


def why_this_server(account: Account, settings: Settings) -> str:
    """Return in words who has named the server that `server_for` returns."""
    domain = domain_of(account)
    if account.host:
        return "the account names it"
    if settings.smtp_host:
        return "POSTROOM_SMTP_HOST names it"
    if _preset(domain):
        return f"the preset of {domain}"
    if account.worked_with is not None:
        return "the account has worked with it before"
    return f"the MX of {domain} shows it"


def _daily_limit(provider: str | None, email: str) -> int | None:
    limit = _DAILY_LIMITS.get(provider or "")
    if provider == "gmail" and email.rpartition("@")[2].lower() in _CONSUMER_GMAIL:
        limit = _CONSUMER_GMAIL_LIMIT
    return None if limit is None else limit - limit // _HEADROOM


def unusual_port(port: int | None, security: Security | None) -> str | None:
    """Return a warning about an unusual pair of port and security, or None (RFC 8314 §3.3, RFC 6409)."""
    if port == 465 and security in (Security.STARTTLS, Security.NONE):
        return f"port 465 speaks TLS from the start as a rule, and security is {security.value}: it should be tls"
    if port in (25, 587) and security is Security.TLS:
        return f"port {port} begins in clear as a rule, and security is tls: it should be starttls"
    return None


def unnamed_server(account: Account, settings: Settings, by_exchangers: str | None = None) -> str | None:
    """Return the host of a server that is neither configured nor a preset: the account keeps it once it has worked."""
    if account.host or settings.smtp_host or _preset(domain_of(account)):
        return None
    return _known(account, by_exchangers)


def server_by_exchangers(exchangers: Iterable[tuple[int, str]]) -> str | None:
    """Return the host through which a domain's mailboxes send, by its MX: preferences and names. None: it cannot be told.

    The most preferred must be one provider's, and none may be another one's: a filter in front of
    the mailboxes tells nothing of where they are, and of two providers either may have them.
    """
    found = [(preference, _by_exchanger(name)) for preference, name in exchangers]
    if not found:
        return None
    best = min(preference for preference, _ in found)
    first = {endpoint for preference, endpoint in found if preference == best}
    known = {endpoint for _, endpoint in found if endpoint}
    decided = first.pop() if len(first) == 1 and len(known) == 1 else None
    return None if decided is None else decided.host


def _by_exchanger(name: str) -> _Endpoint | None:
    dotted = f".{name.lower().removesuffix('.')}"
    return next((endpoint for end, endpoint in _BY_EXCHANGER.items() if dotted.endswith(f".{end}")), None)


def _own_endpoint(account: Account, settings: Settings, by_exchangers: str | None) -> _Endpoint:
    if account.host:
        base = _bare(account.host)
    else:
        base = _bare(settings.smtp_host) if settings.smtp_host else _unnamed(account, by_exchangers)
        base = _overlay(base, settings.smtp_port, settings.smtp_security)
    return _overlay(base, account.port, account.security)


def _unnamed(account: Account, by_exchangers: str | None) -> _Endpoint:
    preset = _preset(domain_of(account))
    if preset is not None:
        return preset
    host = _known(account, by_exchangers)
    if host is None:
        raise ServerUndecided(domain_of(account))
    return _BY_HOST.get(host) or _bare(host)


def _known(account: Account, by_exchangers: str | None) -> str | None:
    """Return the server that the account has worked with, else the one that the MX has shown.

    An empty text stands for an account that had worked before servers were stored: every
    server that was neither configured nor a preset was Gmail's then.
    """
    return by_exchangers if account.worked_with is None else account.worked_with or _GMAIL.host


def domain_of(account: Account) -> str:
    """Return the domain of the account's mailbox."""
    return account.email.rpartition("@")[2].lower()


def _bare(host: str) -> _Endpoint:
    name = host.lower()
    return _Endpoint(name, 0, Security.NONE) if name == INBOX else _Endpoint(name, 587, Security.STARTTLS)


def _preset(domain: str) -> _Endpoint | None:
    return _OFFICE365 if domain.endswith(".onmicrosoft.com") else _PRESETS.get(domain)


def _overlay(base: _Endpoint, port: int | None, security: Security | None) -> _Endpoint:
    """Put an explicit port or security over `base`; where one is missing it follows from the other."""
    if base.host == INBOX or (port is None and security is None):
        return base
    if port is None:
        assert security is not None
        usual = base.port == _DEFAULT_PORTS[base.security]
        return _Endpoint(base.host, _DEFAULT_PORTS[security] if usual else base.port, security)
    return _Endpoint(base.host, port, security or _implied(base, port))


def _implied(base: _Endpoint, port: int) -> Security:
    if port in (base.port, 465):
        return base.security if port == base.port else Security.TLS
    return Security.STARTTLS if base.security is Security.TLS else base.security
