"""Examines the sender's domain: asks DNS for SPF, DKIM and DMARC at once, and has each judged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from postroom.accounts.doctor.dkim import about_dkim, name_of, selectors_of
from postroom.accounts.doctor.dmarc import about_dmarc, dmarc_names
from postroom.accounts.doctor.finding import Finding, not_known, ok
from postroom.accounts.doctor.lookups import LookUps, Texts
from postroom.accounts.doctor.spf import SendingServer, about_spf, spf_answers
from postroom.core.account import Account
from postroom.providers import Server, domain_of, is_own_domain

SUBJECTS = ("spf", "dkim", "dmarc")


@dataclass(frozen=True, slots=True)
class DomainAnswers:
    """What DNS has answered about a domain."""

    spf: Mapping[str, Texts]
    dkim: Mapping[str, Texts]
    dmarc: Mapping[str, Texts]
    exchangers: tuple[str, ...]


async def ask_about(domain: str, selectors: tuple[str, ...], look_ups: LookUps) -> DomainAnswers:
    """Ask for all that a domain may have published."""
    names = tuple(name_of(selector, domain) for selector in selectors)
    spf, exchangers, dkim, dmarc = await asyncio.gather(
        spf_answers(domain, look_ups.texts),
        look_ups.exchangers(domain),
        asyncio.gather(*map(look_ups.texts, names)),
        asyncio.gather(*map(look_ups.texts, dmarc_names(domain))),
    )
    return DomainAnswers(
        spf,
        dict(zip(names, dkim, strict=True)),
        dict(zip(dmarc_names(domain), dmarc, strict=True)),
        exchangers or (),
    )


def selectors_to_ask(account: Account, server: Server) -> tuple[str, ...]:
    return tuple(selectors_of(account.dkim_selector, server.provider))


def without_asking(account: Account, server: Server) -> list[Finding] | None:
    """Return what is known of a domain without DNS; None where it is to be asked."""
    domain = domain_of(account)
    if is_own_domain(domain, server):
        return [ok(subject, f"{domain} is its provider's own domain") for subject in SUBJECTS]
    if "." not in domain or domain.startswith("["):
        return [not_known(subject, f"{domain} is no domain of the Internet") for subject in SUBJECTS]
    return None


def about_domain(
    account: Account, server: Server, address: str | None, answers: DomainAnswers
) -> list[Finding]:
    """Return the findings about SPF, DKIM and DMARC; `address` is the server's."""
    domain = domain_of(account)
    sending = SendingServer(server.host, server.provider, address, server.host in answers.exchangers)
    spf = about_spf(domain, answers.spf, sending)
    dkim = about_dkim(domain, account.dkim_selector, answers.dkim)
    return [spf, dkim, about_dmarc(domain, answers.dmarc, spf, dkim)]
