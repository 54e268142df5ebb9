"""SPF (RFC 7208): does the record of the sender's domain include its provider? The answers of DNS are given. Pure.

The address that the provider hands messages on from is not known, so a record is read, not evaluated: the walk over its
`include:` and `redirect=` says whether the provider's own record is among them, and how many look-ups that takes.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from postroom.accounts.doctor.finding import Finding, error, not_known, ok, warning
from postroom.accounts.doctor.lookups import Texts
from postroom.settings import is_loopback

MOST_LOOK_UPS: Final = 10  # RFC 7208 §4.6.4
_MOST_NAMES: Final = 20  # that are read, for a count above the limit
_TERM: Final = re.compile(r"([+?~-]?)([a-z][a-z0-9_.-]*)(?:([:=])([^/]*))?(/[0-9/]*)?", re.IGNORECASE)
_COUNTED: Final = frozenset({"include", "a", "mx", "ptr", "exists", "redirect"})
# What each provider has its customers include, its present name first.
INCLUDES: Final[Mapping[str, tuple[str, ...]]] = {
    "gmail": ("_spf.google.com",),
    "office365": ("spf.protection.outlook.com",),
    "outlook": ("spf.protection.outlook.com", "spf2.outlook.com"),
    "yahoo": ("_spf.mail.yahoo.com",),
    "icloud": ("icloud.com",),
    "fastmail": ("spf.messagingengine.com",),
    "zoho": ("zohomail.com", "zoho.com", "one.zoho.com", "zoho.eu"),
}


class SendingServer(NamedTuple):
    """The server that the account sends through: its name, its provider, and what tells of a server of one's own."""

    host: str
    provider: str | None
    address: str | None = None
    is_exchanger: bool = False  # of the sender's domain


class _Term(NamedTuple):
    qualifier: str
    name: str
    value: str


@dataclass(slots=True)
class _Walk:
    """What the records name: domains by the number of look-ups after which they are reached, and addresses."""

    lookups: int = 0
    domains: dict[str, int] = field(default_factory=dict)
    networks: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    mx: bool = False
    lets_all_pass: bool = False
    unknown: str | None = None
    broken: str | None = None


async def spf_answers(domain: str, ask: Callable[[str], Awaitable[Texts]]) -> Mapping[str, Texts]:
    """Return the TXT records of a domain and of those that its SPF record includes, each asked for once."""
    found: dict[str, Texts] = {}
    waiting = [domain]
    while waiting and len(found) < _MOST_NAMES:
        name = waiting.pop(0)
        if name in found:
            continue
        found[name] = await ask(name)
        for record in _records(found[name]):
            waiting += [term.value for term in _terms(record) if _leads_on(term)]
    return found


def about_spf(domain: str, answers: Mapping[str, Texts], server: SendingServer) -> Finding:
    """Return whether the SPF record of a domain includes the account's provider."""
    answer = answers.get(domain, Texts(None, "nobody was asked"))
    if answer.texts is None:
        return not_known("spf", f"the SPF record of {domain} cannot be asked for", answer.reason)
    records = _records(answer)
    if not records:
        said = f"{domain} has no SPF record"
        return warning("spf", said, "many receivers want one", f"publish as TXT of {domain}: {_new(server)}")
    if len(records) > 1:
        detail = " | ".join(records)
        return error(
            "spf", f"{domain} has several SPF records, so none counts", detail, "publish one record of them"
        )
    walk = _Walk()
    _visit(domain, answers, walk)
    return _judged(domain, records[0], walk, server)


def _judged(domain: str, record: str, walk: _Walk, server: SendingServer) -> Finding:
    if walk.broken:
        return error(
            "spf", f"the SPF record of {domain} is in error", f"{walk.broken}: {record}", "correct it"
        )
    at = _reached(domain, walk, server)
    if at is None:
        return _not_named(domain, record, walk, server)
    if walk.lookups > MOST_LOOK_UPS:
        said = f"the SPF record of {domain} takes {walk.lookups} look-ups or more; receivers stop at {MOST_LOOK_UPS}"
        fix = "take out what no longer sends for the domain, or put the provider's include first"
        return (warning if at <= MOST_LOOK_UPS else error)("spf", said, record, fix)
    if walk.lets_all_pass:
        words = ("~all" if word.lower() in ("all", "+all") else word for word in record.split())
        fix = f"publish as TXT of {domain}: {' '.join(words)}"
        return warning("spf", f"the SPF record of {domain} lets every server pass", record, fix)
    return ok("spf", f"the SPF record of {domain} names the server or its provider", record)


def _not_named(domain: str, record: str, walk: _Walk, server: SendingServer) -> Finding:
    if walk.unknown:
        return not_known("spf", f"the SPF record of {domain} cannot be followed to its end", walk.unknown)
    if server.provider is None or server.provider not in INCLUDES:
        said = f"whether the SPF record of {domain} has the addresses of {server.host} cannot be told"
        return not_known("spf", said, record)
    fix = f"publish as TXT of {domain}: {_amended(record, server.provider)}"
    return warning("spf", f"the SPF record of {domain} does not include its provider", record, fix)


def _reached(sender: str, walk: _Walk, server: SendingServer) -> int | None:
    """Return after how many look-ups the records name the server, or its provider; None where they do not."""
    names = INCLUDES.get(server.provider or "", ())
    included = {domain: at for domain, at in walk.domains.items() if domain != sender}
    found = [at for domain, at in included.items() if domain in names or _is_above(domain, server)]
    if found:
        return min(found)
    is_own = server.host in walk.hosts or (walk.mx and server.is_exchanger)
    return 0 if is_own or _covers(walk.networks, server.address) or walk.lets_all_pass else None


def _is_above(domain: str, server: SendingServer) -> bool:
    """Whether a record that is included is of the domain of a server that is no known provider's."""
    if server.provider is not None or domain.count(".") == 0:
        return False
    *_, second, first = domain.split(".")
    return server.host.endswith(f".{second}.{first}") and len(second) > len("com")


def _covers(networks: list[str], address: str | None) -> bool:
    if address is None:
        return False
    for network in networks:
        try:
            if ip_address(address) in ip_network(network, strict=False):
                return True
        except ValueError:
            continue
    return False


def _visit(domain: str, answers: Mapping[str, Texts], walk: _Walk) -> None:
    """Read the record of a domain, and those that it leads to."""
    walk.domains[domain] = walk.lookups
    answer = answers.get(domain, Texts(None, "its record is too far down"))
    if answer.texts is None:
        walk.unknown = walk.unknown or f"{domain}: {answer.reason}"
        return
    records = _records(answer)
    if len(records) != 1:
        walk.broken = walk.broken or f"{domain} has {'several' if records else 'no'} SPF records"
        return
    terms = _terms(records[0])
    has_all = any(term.name == "all" for term in terms)
    for term in terms:
        walk.lookups += term.name in _COUNTED and not (term.name == "redirect" and has_all)
        if _leads_on(term) and not (term.name == "redirect" and has_all):
            if term.value not in walk.domains:
                _visit(term.value, answers, walk)
        elif term.qualifier in ("", "+"):
            _note(term, domain, walk)


def _note(term: _Term, domain: str, walk: _Walk) -> None:
    """Note what a term lets pass."""
    if "%" in term.value:
        walk.unknown = walk.unknown or f"{domain} has a macro: {term.name}:{term.value}"
    elif term.name in ("ip4", "ip6"):
        walk.networks.append(term.value)
    elif term.name == "a":
        walk.hosts.add(term.value or domain)
    elif term.name == "mx":
        walk.mx = True
    elif term.name == "all":
        walk.lets_all_pass = True


def _leads_on(term: _Term) -> bool:
    return term.name in ("include", "redirect") and "%" not in term.value and "." in term.value


def _records(answer: Texts) -> list[str]:
    return [text for text in answer.texts or () if re.match(r"v=spf1(?: |\Z)", text, re.IGNORECASE)]


def _terms(record: str) -> list[_Term]:
    found = []
    for word in record.split()[1:]:
        if term := _TERM.fullmatch(word):
            qualifier, name, _, value, length = term.groups()
            is_network = name.lower() in ("ip4", "ip6")
            found.append(
                _Term(
                    qualifier,
                    name.lower(),
                    (value or "").rstrip(".").lower() + (length or "" if is_network else ""),
                )
            )
    return found


def _new(server: SendingServer) -> str:
    """Return a record for a domain that has none: the provider's include, or a server of one's own."""
    if include := INCLUDES.get(server.provider or ""):
        return f"v=spf1 include:{include[0]} ~all"
    is_name = not is_loopback(server.host) and not _is_address(server.host)
    return f"v=spf1 mx a:{server.host} ~all" if is_name else "v=spf1 mx ~all"


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _amended(record: str, provider: str) -> str:
    """Return the record with the provider's include, before what it says of all others."""
    include = f"include:{INCLUDES[provider][0]}"
    words = record.split()
    last = next(
        (at for at, word in enumerate(words) if re.fullmatch(r"[+?~-]?all|redirect=.*", word, re.IGNORECASE)),
        len(words),
    )
    return " ".join((*words[:last], include, *words[last:]))
