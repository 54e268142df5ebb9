"""Asks the MX of a mailbox's domain which provider it belongs to (RFC 5321 §5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.text import printable
from postroom.providers import server_by_exchangers
from postroom.smtp.credentials import Credentials

_LONGEST_S: Final = 10.0  # for one look-up, over all name servers
_NO_DOMAIN_S: Final = 60.0  # how long it is believed that a domain does not exist
_ASK_AGAIN_S: Final = 30.0  # after a look-up that failed, where there is an answer from before
_SHOWN: Final = 2  # exchangers in a sentence
_LONGEST_SHOWN: Final = 80  # characters of each


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a domain's MX says: the server's host, or why it says nothing. By the clock, `until` when.

    `{}` in the reason stands for the exchangers, whose names the domain's owner chooses.
    """

    host: str | None
    reason: str
    until: float
    exchangers: tuple[str, ...] = ()


class _NoAnswer(Exception):
    """No name server could be asked; the text says why, in words that may be theirs."""


def system_resolver() -> dns.asyncresolver.Resolver:
    """Return a resolver that asks this machine's name servers, as its settings are now."""
    return dns.asyncresolver.Resolver()


class Exchangers:
    """Asks for the MX of domains; answers are kept for their time to live, and longer while nobody can be asked."""

    def __init__(
        self,
        make_resolver: Callable[[], dns.asyncresolver.Resolver] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_resolver = make_resolver or system_resolver
        self._clock = clock
        self._answers: dict[str, _Answer] = {}
        self._asking: dict[str, asyncio.Task[_Answer]] = {}

    def last(self, domain: str) -> str | None:
        """Return the server that the last answer named; nobody is asked."""
        answer = self._answers.get(domain)
        return answer.host if answer else None

    async def server_of(self, domain: str, credentials: Credentials | None = None) -> str:
        """Return the host of the server through which the domain's mailboxes send.

        Raises SMTPFault: UNRESOLVED where no name server can be asked, UNSUPPORTED where the MX does not tell. The
        credentials are struck from what it shows of the answer.
        """
        answer = self._answers.get(domain)
        if answer is None or self._clock() >= answer.until:
            try:
                answer = await self._ask_once(domain)
            except _NoAnswer as error:
                why = printable(_struck(str(error), credentials))
                message = f"cannot ask for the MX of {domain}, which says what its server is: {why}"
                raise SMTPFault(FaultKind.UNRESOLVED, "connect", message) from error
        if answer.host is None:
            shown = (_struck(host, credentials)[:_LONGEST_SHOWN] for host in answer.exchangers)
            reason = answer.reason.format(printable(", ".join(shown)))
            raise SMTPFault(FaultKind.UNSUPPORTED, "AUTH", _advice(domain, reason))
        return answer.host

    async def _ask_once(self, domain: str) -> _Answer:
        """Ask, or wait for an answer that was asked for already."""
        asking = self._asking.get(domain)
        if asking is None:
            asking = self._asking[domain] = asyncio.create_task(self._ask(domain))
            asking.add_done_callback(lambda _: self._asking.pop(domain, None))
        return await asyncio.shield(asking)

    async def _ask(self, domain: str) -> _Answer:
        if "." not in domain or domain.startswith("["):
            return _Answer(None, "is not a domain that has any", float("inf"))
        try:
            answer = await self._look_up(domain)
        except (dns.exception.DNSException, OSError, EOFError) as error:
            before = self._answers.get(domain)
            if before is None:
                raise _NoAnswer(_words(error)) from error
            answer = replace(before, until=self._clock() + _ASK_AGAIN_S)
        self._answers[domain] = answer
        return answer

    async def _look_up(self, domain: str) -> _Answer:
        name = dns.name.from_text(domain)  # absolute: no search list applies
        try:
            found = await self._make_resolver().resolve(
                name, dns.rdatatype.MX, raise_on_no_answer=False, lifetime=_LONGEST_S
            )
        except dns.resolver.NXDOMAIN:
            return _Answer(None, "is not there: no such domain exists", self._clock() + _NO_DOMAIN_S)
        if found.rrset is None:
            return _Answer(None, "is not there", self._clock() + _NO_DOMAIN_S)
        until = self._clock() + found.rrset.ttl
        exchangers = sorted(
            (each.preference, each.exchange.to_text(omit_final_dot=True)) for each in found.rrset
        )
        shown = tuple(host for _, host in exchangers[:_SHOWN])
        return _Answer(
            server_by_exchangers(exchangers), "({}) is no provider's that Postroom knows", until, shown
        )


def _struck(words: str, credentials: Credentials | None) -> str:
    return credentials.strike(words) if credentials else words


def _advice(domain: str, reason: str) -> str:
    return (
        f"nobody has named the server of {domain}, and its MX {reason}; no password was sent anywhere. Name the SMTP "
        "server: postroom accounts set EMAIL --host, the column host of data.csv, or POSTROOM_SMTP_HOST"
    )


def _words(error: BaseException) -> str:
    if isinstance(error, dns.resolver.NoResolverConfiguration):
        return "this machine has no name server"
    if isinstance(error, dns.exception.Timeout):
        return "no name server answers"
    if isinstance(error, dns.resolver.NoNameservers):
        return "the name servers refuse to answer"
    return str(error) or type(error).__name__
