"""Asks DNS for what a domain has published: TXT records and mail exchangers. Nothing is concluded from them here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

_LONGEST_S: Final = 5.0  # for one look-up, over all name servers


class Texts(NamedTuple):
    """The TXT records of a name: none where it has none; None, with the reason, where nobody could be asked."""

    texts: tuple[str, ...] | None
    reason: str = ""


class LookUps:
    """Looks names up, each once."""

    def __init__(self, make_resolver: Callable[[], dns.asyncresolver.Resolver]) -> None:
        self._make_resolver = make_resolver
        self._asked: dict[str, asyncio.Task[Texts]] = {}

    async def texts(self, name: str) -> Texts:
        """Return the TXT records of a name; raises nothing."""
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = asyncio.create_task(self._texts(name))
        return await asyncio.shield(asked)

    async def exchangers(self, domain: str) -> tuple[str, ...] | None:
        """Return the names of a domain's mail exchangers; None where nobody could be asked."""
        try:
            answer = await self._ask(domain, dns.rdatatype.MX)
        except (dns.exception.DNSException, OSError, EOFError, ValueError):
            return None
        return tuple(each.exchange.to_text(omit_final_dot=True).lower() for each in answer.rrset or ())

    async def _texts(self, name: str) -> Texts:
        try:
            answer = await self._ask(name, dns.rdatatype.TXT)
        except dns.resolver.NXDOMAIN:
            return Texts(())
        except dns.resolver.NoResolverConfiguration:
            return Texts(None, "this machine has no name server")
        except dns.exception.Timeout:
            return Texts(None, "no name server answers")
        except dns.resolver.NoNameservers:
            return Texts(None, "the name servers refuse to answer")
        except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
            return Texts(None, str(error) or type(error).__name__)
        return Texts(
            tuple(b"".join(each.strings).decode("utf-8", "backslashreplace") for each in answer.rrset or ())
        )

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer:
        absolute = dns.name.from_text(name)  # no search list applies
        return await self._make_resolver().resolve(
            absolute, kind, raise_on_no_answer=False, lifetime=_LONGEST_S
        )
