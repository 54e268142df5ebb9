"""Examines an account, stores what was found, and returns what was found last: `examine` and `findings_of`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, NamedTuple

import dns.asyncresolver

from postroom.accounts.csv_sync import password_digests, unlock
from postroom.accounts.doctor import account as of_account
from postroom.accounts.doctor.account import AccountFacts, Login
from postroom.accounts.doctor.domain import (
    SUBJECTS,
    about_domain,
    ask_about,
    selectors_to_ask,
    without_asking,
)
from postroom.accounts.doctor.finding import Finding, error, from_json, not_known, to_json
from postroom.accounts.doctor.lookups import LookUps
from postroom.accounts.doctor.server import (
    PASSWORD_MECHANISMS,
    SUBMISSION_PORTS,
    TOKEN_MECHANISMS,
    about_server,
)
from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.core.account import Account
from postroom.core.clock import SECOND, Clock, Instant, system_clock
from postroom.core.errors import ConfigError, SMTPFault
from postroom.providers import Server, ServerUndecided, server_for, why_this_server
from postroom.settings import INBOX, Settings
from postroom.smtp.credentials import credentials_of
from postroom.smtp.endpoint import Endpoint, Timeouts, tls_context
from postroom.smtp.exchangers import Exchangers, system_resolver
from postroom.smtp.probe import Reach, ServerShown, look_at_server, ports_that_answer
from postroom.store.accounts import StoredAccount
from postroom.store.findings import Findings
from postroom.store.store import Store
from postroom.store.transaction import Transaction

LONGEST_S: Final = 25.0  # for one account
_STEP_S: Final = 8.0  # for each answer of its server
_OTHER_PORT_S: Final = 4.0

MakeResolver = Callable[[], dns.asyncresolver.Resolver]


class Examination(NamedTuple):
    """What was found about an account, and when."""

    at: Instant
    findings: tuple[Finding, ...]


def findings_of(store: Store, account_id: int) -> Examination | None:
    """Return what was found when somebody last examined the account; None where nobody has. Looks at nothing else.

    For `GET /v1/accounts/{id}/health`: `at` is when that was, `finding.as_values(found.findings)` the JSON.
    """
    stored = store.read(Findings.last, account_id)
    return None if stored is None else Examination(stored.at, from_json(stored.findings))


def examine(
    store: Store,
    settings: Settings,
    vault: Vault,
    stored: StoredAccount,
    *,
    login: Login | None = None,
    inbox_port: int | None = None,
    make_resolver: MakeResolver | None = None,
    clock: Clock = system_clock,
) -> Examination:
    """Look at an account's server and at its domain in DNS, and store what was found. No AUTH is sent.

    For `POST /v1/accounts/{id}/health` and `postroom doctor`. To be called from a thread without an event loop; it takes
    30 seconds at the most, and what has not been found out by then is "not known". `login` is what a real log-in has just
    shown, where one was made (at the pace of `postroom accounts check`); `inbox_port` is where the built-in inbox
    listens, None: it does not. Raises StoreError.
    """
    facts, account = _facts(store, vault, stored, clock())
    look = _Look(settings, facts, account, inbox_port, make_resolver or system_resolver, clock)
    findings = (of_account.about_name(facts), *asyncio.run(look.all(login)))
    at = clock()
    store.write(Findings.keep, stored.account.id, to_json(findings), at)
    return Examination(at, findings)


def _facts(
    store: Store, vault: Vault, stored: StoredAccount, now: Instant
) -> tuple[AccountFacts, Account | None]:
    """Return what is stored about an account, and the account with its password; None where that cannot be read."""
    digests, id_ = password_digests(stored, vault), stored.account.id

    def read(transaction: Transaction) -> AccountFacts:
        account = transaction.accounts.get(id_) or stored
        grant = transaction.oauth_grants.get(id_)
        return AccountFacts(
            account.account,
            stored.credential is not None,
            grant is not None,
            grant.refused if grant else None,
            transaction.accounts.last_reason(id_),
            transaction.accounts.refused_password(id_) in digests,
            transaction.usage.recipients_used(id_, now),
            transaction.aliases.of(id_),
        )

    facts = store.read(read)
    with suppress(UndecryptableSecret):
        return facts, unlock(stored, vault)
    return facts, None


class _Look:
    """One look at one account; everything that has to be waited for is waited for at once."""

    def __init__(
        self,
        settings: Settings,
        facts: AccountFacts,
        account: Account | None,
        inbox_port: int | None,
        make_resolver: MakeResolver,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._facts = facts
        self._account = account or facts.account
        self._is_readable = account is not None
        self._inbox_port = inbox_port
        self._make_resolver = make_resolver
        self._clock = clock

    async def all(self, login: Login | None) -> list[Finding]:
        facts, deadline = self._facts, asyncio.get_running_loop().time() + LONGEST_S
        limit: int | None = facts.account.daily_limit
        try:
            server = await self._server()
        except (ConfigError, SMTPFault) as fault:
            found = [of_account.about_no_route(str(fault))]
        else:
            limit = server.daily_limit
            why = why_this_server(facts.account, self._settings)
            found = [*of_account.about_route(server, why), *await self._outside(server, deadline)]
        return [
            *found,
            of_account.about_state(facts),
            self._login(login),
            of_account.about_limit(facts, limit),
            *of_account.about_aliases(facts.account.email, facts.aliases),
            *of_account.about_extensions(facts.account),
        ]

    def _login(self, login: Login | None) -> Finding:
        if self._is_readable:
            return of_account.about_login(self._facts, login)
        return error(
            "login",
            "the stored password cannot be read with this secret key",
            fix="run with the secret key of the installation, or give the account its password again",
        )

    async def _server(self) -> Server:
        """Return the account's server as a worker finds it. Raises ConfigError, SMTPFault."""
        account = self._account
        try:
            return server_for(account, self._settings)
        except ServerUndecided as undecided:
            credentials = credentials_of(account.username or account.email, account.password)
            host = await Exchangers(self._make_resolver).server_of(undecided.domain, credentials)
            return server_for(account, self._settings, host)

    # -- what others say

    async def _outside(self, server: Server, deadline: float) -> list[Finding]:
        """Look at the server and ask about the domain, both at once, until the deadline."""
        at_server = asyncio.create_task(self._at_server(server))
        known = self._without_dns(server)
        asked = None
        if known is None:
            selectors = selectors_to_ask(self._account, server)
            domain = self._account.email.rpartition("@")[2].lower()
            asked = asyncio.create_task(ask_about(domain, selectors, LookUps(self._make_resolver)))
        tasks = [at_server, *([asked] if asked else [])]
        await asyncio.wait(tasks, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        late = f"it took longer than {LONGEST_S:.0f} s"
        address = None
        if at_server.cancelled():
            found = [not_known("server", "what the server offers was not found out", late)]
        else:
            address, found = at_server.result()
        if asked is None:
            return [*found, *(known or ())]
        if asked.cancelled():
            return [
                *found,
                *(not_known(subject, "DNS did not answer in time", late) for subject in SUBJECTS),
            ]
        return [*found, *about_domain(self._account, server, address, asked.result())]

    def _without_dns(self, server: Server) -> list[Finding] | None:
        return [] if server.host == INBOX else without_asking(self._account, server)

    async def _at_server(self, server: Server) -> tuple[str | None, list[Finding]]:
        """Return the server's address, and what there is to find about it."""
        if server.host == INBOX and self._inbox_port is None:
            fix = "start it with `postroom serve` or `postroom inbox serve`"
            return None, [not_known("port", "the built-in inbox is not running", fix=fix)]
        if server.host == INBOX:
            server = replace(server, host="127.0.0.1", port=self._inbox_port or 0)
        try:
            endpoint = self._endpoint(server)
        except (OSError, ssl.SSLError) as fault:
            fix = "name a file of PEM certificates in POSTROOM_SMTP_CA_FILE"
            return None, [error("tls", "the file of POSTROOM_SMTP_CA_FILE cannot be used", str(fault), fix)]
        shown = await look_at_server(endpoint)
        others = await self._other_ports(server, shown)
        found = about_server(server, shown, self._clock(), mechanisms=self._mechanisms(), open_ports=others)
        return shown.address, list(found)

    def _mechanisms(self) -> tuple[str, ...]:
        if self._facts.has_oauth_grant:
            return TOKEN_MECHANISMS
        return PASSWORD_MECHANISMS if self._facts.has_password else ()

    async def _other_ports(self, server: Server, shown: ServerShown) -> tuple[int, ...]:
        """Return which other ports for submission answer where the account's own does not."""
        if shown.reach not in (Reach.BLOCKED, Reach.REFUSED):
            return ()
        others = [port for port in SUBMISSION_PORTS if port != server.port]
        return await ports_that_answer(server.host, others, _OTHER_PORT_S, is_confined=server.is_confined)

    def _endpoint(self, server: Server) -> Endpoint:
        settings = self._settings
        most = _STEP_S if settings.smtp_timeout is None else min(_STEP_S, settings.smtp_timeout / SECOND)
        return Endpoint(
            host=server.host,
            port=server.port,
            security=server.security,
            username=server.username,
            password=self._account.password,
            tls=tls_context(str(settings.smtp_ca_file) if settings.smtp_ca_file else None),
            timeouts=Timeouts().capped(most),
            ehlo_name=settings.ehlo_name,
            is_confined=server.is_confined,
        )
