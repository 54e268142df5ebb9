"""What the doctor says of a domain's SPF, DKIM and DMARC, asked of a real name server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from postroom.accounts.doctor.domain import (
    DomainAnswers,
    about_domain,
    ask_about,
    selectors_to_ask,
    without_asking,
)
from postroom.accounts.doctor.finding import Finding, Severity
from postroom.accounts.doctor.lookups import LookUps, Texts
from postroom.core.account import Account, Security
from postroom.providers import Server
from tests.servers.dns import NameServer

GMAIL = Server("smtp.gmail.com", 587, Security.STARTTLS, 2, "ann@corp.example", provider="gmail")
OWN = Server("mail.corp.example", 587, Security.STARTTLS, 20, "ann@corp.example")
GOOGLES = ["v=spf1 ip4:192.0.2.0/24 ~all"]


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer(corp_example=["10 mail.corp.example."]) as server:
        server.txt["_spf.google.com"] = GOOGLES
        yield server


def look(
    dns: NameServer,
    server: Server = GMAIL,
    *,
    email: str = "ann@corp.example",
    selector: str | None = None,
    address: str | None = None,
) -> dict[str, Finding]:
    account = Account(1, email, dkim_selector=selector)

    async def asked() -> list[Finding]:
        domain = email.partition("@")[2]
        answers = await ask_about(domain, selectors_to_ask(account, server), LookUps(dns.resolver))
        return about_domain(account, server, address, answers)

    return {finding.subject: finding for finding in asyncio.run(asked())}


def spf(dns: NameServer, *records: str, server: Server = GMAIL, address: str | None = None) -> Finding:
    dns.txt["corp.example"] = ["google-site-verification=x", *records]
    return look(dns, server, address=address)["spf"]


def test_the_providers_include_is_found(dns: NameServer) -> None:
    assert spf(dns, "v=spf1 include:_spf.google.com ~all").severity is Severity.OK
    dns.txt["_spf.corp.example"] = ["v=spf1 include:_spf.Google.com. -all"]
    assert spf(dns, "V=SPF1 redirect=_spf.corp.example").severity is Severity.OK


def test_a_record_without_the_provider_is_shown_with_the_include_in_it(dns: NameServer) -> None:
    found = spf(dns, "v=spf1 mx ip4:198.51.100.7 -all")
    assert found.severity is Severity.WARNING
    assert found.fix == (
        "publish as TXT of corp.example: v=spf1 mx ip4:198.51.100.7 include:_spf.google.com -all"
    )


def test_no_record(dns: NameServer) -> None:
    found = spf(dns)
    assert (found.severity, found.summary) == (Severity.WARNING, "corp.example has no SPF record")
    assert found.fix == "publish as TXT of corp.example: v=spf1 include:_spf.google.com ~all"


def test_an_include_that_passes_nothing_is_none(dns: NameServer) -> None:
    assert spf(dns, "v=spf1 -all").severity is Severity.WARNING
    assert spf(dns, "v=spf1 redirect=_spf.google.com -all").severity is Severity.WARNING, "all comes first"


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (["v=spf1 mx -all", "v=spf1 -all"], "several SPF records"),
        (["v=spf1 include:gone.example -all"], "in error"),
    ],
)
def test_a_record_in_error(dns: NameServer, records: list[str], said: str) -> None:
    found = spf(dns, *records)
    assert found.severity is Severity.ERROR
    assert said in found.summary


def chain(dns: NameServer, length: int, last: str) -> None:
    """Make spf0.example include spf1.example, and so on, so that `last` is the end of the last."""
    for number in range(length):
        following = f"include:spf{number + 1}.example" if number + 1 < length else last
        dns.txt[f"spf{number}.example"] = [f"v=spf1 {following} ~all"]


def test_the_limit_of_ten_look_ups(dns: NameServer) -> None:
    chain(dns, 9, "include:_spf.google.com")
    assert spf(dns, "v=spf1 include:spf0.example ~all").severity is Severity.OK
    chain(dns, 10, "include:_spf.google.com")
    found = spf(dns, "v=spf1 include:spf0.example ~all")
    assert (found.severity, "11 look-ups" in found.summary) == (Severity.ERROR, True)
    found = spf(dns, "v=spf1 include:_spf.google.com include:spf0.example ~all")
    assert found.severity is Severity.WARNING, "a receiver finds the provider before it gives up"


def test_records_that_include_each_other_end(dns: NameServer) -> None:
    dns.txt["a.example"] = ["v=spf1 include:b.example ~all"]
    dns.txt["b.example"] = ["v=spf1 include:a.example ~all"]
    assert spf(dns, "v=spf1 include:a.example ~all").severity is Severity.WARNING


def test_what_cannot_be_followed_is_not_known(dns: NameServer) -> None:
    found = spf(dns, "v=spf1 include:%{i}.guard.example ~all")
    assert (found.severity, found.fix) == (Severity.NOT_KNOWN, None)
    dns.ill.add("other.example")
    assert spf(dns, "v=spf1 include:other.example ~all").severity is Severity.NOT_KNOWN
    assert spf(dns, "v=spf1 include:other.example include:_spf.google.com ~all").severity is Severity.OK
    dns.ill.add("corp.example")
    assert spf(dns, "v=spf1 mx ~all").severity is Severity.NOT_KNOWN


@pytest.mark.parametrize(
    ("record", "address", "severity"),
    [
        ("v=spf1 mx -all", None, Severity.OK),
        ("v=spf1 a:mail.corp.example -all", None, Severity.OK),
        ("v=spf1 ip4:203.0.113.0/24 -all", "203.0.113.9", Severity.OK),
        ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8::1", Severity.OK),
        ("v=spf1 ip4:nonsense -all", "203.0.113.9", Severity.NOT_KNOWN),
        ("v=spf1 ip4:203.0.113.0/24 -all", "198.51.100.1", Severity.NOT_KNOWN),
        ("v=spf1 +all", None, Severity.WARNING),
    ],
)
def test_a_server_of_ones_own(dns: NameServer, record: str, address: str | None, severity: Severity) -> None:
    assert spf(dns, record, server=OWN, address=address).severity is severity


def test_a_record_that_lets_all_pass_is_shown_without_that(dns: NameServer) -> None:
    found = spf(dns, "v=spf1 include:small.example +all", server=OWN)
    assert found.severity is Severity.ERROR, "what it includes has no record"
    dns.txt["small.example"] = GOOGLES
    found = spf(dns, "v=spf1 include:small.example +all", server=OWN)
    assert found.fix == "publish as TXT of corp.example: v=spf1 include:small.example ~all"


@pytest.mark.parametrize(
    ("server", "record"),
    [
        (OWN, "v=spf1 mx a:mail.corp.example ~all"),
        (Server("192.0.2.1", 587, Security.STARTTLS, 20, "ann"), "v=spf1 mx ~all"),
        (Server("localhost", 25, Security.NONE, 20, "ann"), "v=spf1 mx ~all"),
    ],
)
def test_the_record_of_a_domain_with_a_server_of_ones_own(
    dns: NameServer, server: Server, record: str
) -> None:
    assert spf(dns, server=server).fix == f"publish as TXT of corp.example: {record}"


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=200))
def test_no_record_breaks_the_doctor(spf: str, dkim: str, dmarc: str) -> None:
    account = Account(1, "ann@corp.example", dkim_selector="s")
    answers = DomainAnswers(
        {"corp.example": Texts((f"v=spf1 {spf}",)), "a.example": Texts((f"v=spf1 {spf}",))},
        {"s._domainkey.corp.example": Texts((f"p={dkim}",))},
        {"_dmarc.corp.example": Texts((f"v=DMARC1;{dmarc}",))},
        (),
    )
    found = about_domain(account, OWN, "192.0.2.1", answers)
    assert [finding.subject for finding in found] == ["spf", "dkim", "dmarc"]
    assert all(f"{finding}".isprintable() for finding in found)


def test_a_relay_is_known_by_its_domain(dns: NameServer) -> None:
    dns.txt["relay.example"] = GOOGLES
    relay = Server("smtp.relay.example", 587, Security.STARTTLS, 20, "ann")
    assert spf(dns, "v=spf1 include:relay.example ~all", server=relay).severity is Severity.OK


# --- DKIM


def key(bits: int) -> str:
    public = rsa.generate_private_key(65537, bits).public_key()
    return base64.b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def test_the_accounts_selector_is_asked_for_alone(dns: NameServer) -> None:
    dns.txt["s1._domainkey.corp.example"] = [f"v=DKIM1; k=rsa; p={key(2048)}"]
    dns.txt["google._domainkey.corp.example"] = ["v=DKIM1; p="]
    found = look(dns, selector="s1")["dkim"]
    assert (found.severity, found.detail) == (Severity.OK, "RSA of 2048 bits")
    found = look(dns, selector="s2")["dkim"]
    assert found.severity is Severity.WARNING
    assert found.fix
    assert "TXT of s2._domainkey.corp.example" in found.fix


def test_a_known_providers_selector_is_asked_for(dns: NameServer) -> None:
    dns.txt["google._domainkey.corp.example"] = ["v=DKIM1; k=rsa; p=MIG" + "x" * 300]
    assert look(dns)["dkim"].severity is Severity.OK
    dns.txt["google._domainkey.corp.example"] = ["v=DKIM1; k=rsa; p="]
    assert look(dns)["dkim"].severity is Severity.ERROR, "revoked"


def test_what_has_another_selector_is_not_known_and_never_missing(dns: NameServer) -> None:
    for found in (look(dns)["dkim"], look(dns, OWN)["dkim"]):
        assert found.severity is Severity.NOT_KNOWN
        assert "missing" not in f"{found.summary}{found.fix}"
        assert "dkim_selector" in str(found.fix)
    dns.ill.add("google._domainkey.corp.example")
    assert look(dns)["dkim"].severity is Severity.NOT_KNOWN


# --- DMARC


def test_the_policy_of_the_domain_or_of_the_one_above(dns: NameServer) -> None:
    dns.txt["_dmarc.corp.example"] = ["v=DMARC1; p=none; sp=reject"]
    assert look(dns)["dmarc"].severity is Severity.NOTE
    found = look(dns, email="ann@news.corp.example")["dmarc"]
    assert found.summary.startswith("_dmarc.corp.example has the policy reject"), found
    del dns.txt["_dmarc.corp.example"]
    found = look(dns)["dmarc"]
    assert found.severity is Severity.WARNING
    assert found.fix == "publish as TXT of _dmarc.corp.example: v=DMARC1; p=none"


def test_a_policy_is_good_where_spf_or_dkim_is(dns: NameServer) -> None:
    dns.txt["_dmarc.corp.example"] = ["v=DMARC1; p=reject"]
    dns.txt["corp.example"] = ["v=spf1 include:_spf.google.com -all"]
    assert look(dns)["dmarc"].severity is Severity.OK
    dns.txt["corp.example"] = ["v=spf1 -all"]
    assert look(dns)["dmarc"].severity is Severity.NOTE, "whether it signs is not known"
    found = look(dns, selector="gone")["dmarc"]
    assert found.severity is Severity.WARNING
    assert "receivers refuse the messages" in found.summary


def test_a_policy_that_counts_for_nothing(dns: NameServer) -> None:
    dns.txt["_dmarc.corp.example"] = ["v=DMARC1; p=reject", "v=DMARC1; p=none"]
    assert look(dns)["dmarc"].severity is Severity.ERROR
    dns.txt["_dmarc.corp.example"] = ["v=DMARC1; rua=mailto:x@corp.example"]
    assert look(dns)["dmarc"].severity is Severity.WARNING
    dns.ill.add("_dmarc.corp.example")
    assert look(dns)["dmarc"].severity is Severity.NOT_KNOWN


def test_a_providers_own_domain_is_not_asked_about() -> None:
    found = without_asking(Account(1, "ann@gmail.com"), GMAIL)
    assert found is not None
    assert {finding.severity for finding in found} == {Severity.OK}
    assert without_asking(Account(1, "ann@gmail.com"), OWN) is None, "its provider does not know that server"
    found = without_asking(Account(1, "ann@localhost"), OWN)
    assert found is not None
    assert {finding.severity for finding in found} == {Severity.NOT_KNOWN}
