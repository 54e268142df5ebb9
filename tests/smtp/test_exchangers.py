"""The MX of a domain that no preset knows: asked once, kept for its time, and longer while nobody can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import dns.asyncresolver
import dns.rcode
import dns.resolver
import pytest

from postroom.core.classify import classify_fault
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Blame, Deferred, Failed
from postroom.smtp import exchangers as module
from postroom.smtp.credentials import STRUCK, Credentials
from postroom.smtp.exchangers import Exchangers
from tests.servers.dns import NameServer
from tests.smtp import dialog

GOOGLE, FILTER, MICROSOFT = (
    "1 aspmx.l.google.com.",
    "10 mx.filter.example.",
    "0 a.mail.protection.outlook.com.",
)

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    return lambda coroutine: dialog.run(coroutine, library=request.param, seconds=60)


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    server = NameServer(
        corp_example=[GOOGLE, "5 alt1.aspmx.l.google.com."], filtered_example=[FILTER], bare_example=[]
    )
    with server:
        yield server


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def exchangers(name_server: NameServer, clock: Clock) -> Exchangers:
    return Exchangers(name_server.resolver, clock)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_S", 0.3)


def fault(run: Run, exchangers: Exchangers, domain: str) -> SMTPFault:
    with pytest.raises(SMTPFault) as caught:
        run(exchangers.server_of(domain))
    return caught.value


def test_a_provider_is_known_by_its_exchangers_and_asked_for_once_in_its_time(
    run: Run, exchangers: Exchangers, name_server: NameServer, clock: Clock
) -> None:
    assert exchangers.last("corp.example") is None
    assert run(exchangers.server_of("corp.example")) == "smtp.gmail.com"
    clock.now += 299
    assert run(exchangers.server_of("corp.example")) == "smtp.gmail.com"
    assert name_server.asked == ["corp.example"]
    name_server.mx["corp.example"] = [MICROSOFT]
    clock.now += 2
    assert run(exchangers.server_of("corp.example")) == "smtp.office365.com"
    assert exchangers.last("corp.example") == "smtp.office365.com"
    assert name_server.asked == ["corp.example"] * 2


def test_many_who_ask_at_once_are_one_question(
    run: Run, exchangers: Exchangers, name_server: NameServer
) -> None:
    async def dialogue() -> list[str]:
        return await asyncio.gather(*(exchangers.server_of("corp.example") for _ in range(20)))

    assert run(dialogue()) == ["smtp.gmail.com"] * 20
    assert name_server.asked == ["corp.example"]


def test_one_who_gives_up_harms_no_other(run: Run, exchangers: Exchangers) -> None:
    async def dialogue() -> str:
        hasty = asyncio.create_task(exchangers.server_of("corp.example"))
        patient = asyncio.create_task(exchangers.server_of("corp.example"))
        await asyncio.sleep(0)
        hasty.cancel()
        return await patient

    assert run(dialogue()) == "smtp.gmail.com"


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("filtered.example", "(mx.filter.example) is no provider's"),
        ("bare.example", "its MX is not there"),
        ("gone.example", "no such domain"),
        ("localhost", "is not a domain"),
        ("[192.0.2.1]", "is not a domain"),
    ],
)
def test_where_it_tells_nothing_the_row_is_at_fault(
    run: Run, exchangers: Exchangers, name_server: NameServer, domain: str, words: str
) -> None:
    first, again = fault(run, exchangers, domain), fault(run, exchangers, domain)
    assert str(first) == str(again)
    assert words in str(first)
    assert "column host" in str(first)
    outcome = classify_fault(first)
    assert isinstance(outcome, Failed)
    assert outcome.blame is Blame.ACCOUNT
    assert len(name_server.asked) == ("example" in domain)


def test_an_exchanger_with_control_characters_is_shown_without_them(
    run: Run, exchangers: Exchangers, name_server: NameServer
) -> None:
    name_server.mx["odd.example"] = ["1 a\\010b.example."]
    assert "\n" not in str(fault(run, exchangers, "odd.example"))


def test_long_names_do_not_push_the_advice_out_of_the_status(
    run: Run, exchangers: Exchangers, name_server: NameServer
) -> None:
    long = ".".join(["a" * 60] * 4)
    name_server.mx["long.example"] = [f"{number} {long}." for number in range(5)]
    outcome = classify_fault(fault(run, exchangers, "long.example"))
    assert isinstance(outcome, Failed)
    assert "column host of data.csv" in outcome.reason


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("ill", ["mute", "SERVFAIL", "REFUSED"])
def test_a_name_server_that_cannot_be_asked_defers(
    run: Run, exchangers: Exchangers, name_server: NameServer, clock: Clock, ill: str
) -> None:
    name_server.mute = ill == "mute"
    name_server.rcode = None if name_server.mute else dns.rcode.from_text(ill)
    found = fault(run, exchangers, "corp.example")
    assert found.kind is FaultKind.UNRESOLVED
    assert isinstance(classify_fault(found), Deferred)
    name_server.mute, name_server.rcode = False, None
    assert run(exchangers.server_of("corp.example")) == "smtp.gmail.com"


@pytest.mark.usefixtures("impatient")
def test_the_last_answer_is_kept_while_nobody_can_be_asked(
    run: Run, exchangers: Exchangers, name_server: NameServer, clock: Clock
) -> None:
    assert run(exchangers.server_of("corp.example")) == "smtp.gmail.com"
    clock.now += 10_000
    name_server.rcode = dns.rcode.SERVFAIL
    assert run(exchangers.server_of("corp.example")) == "smtp.gmail.com"
    asked = len(name_server.asked)
    assert run(exchangers.server_of("corp.example")) == "smtp.gmail.com"
    assert len(name_server.asked) == asked, "it is not asked again for each connection"
    name_server.rcode, name_server.mx["corp.example"] = None, [MICROSOFT]
    clock.now += 31
    assert run(exchangers.server_of("corp.example")) == "smtp.office365.com"


def test_a_machine_without_a_name_server_defers(run: Run) -> None:
    def none() -> dns.asyncresolver.Resolver:
        raise dns.resolver.NoResolverConfiguration

    found = fault(run, Exchangers(none), "corp.example")
    assert found.kind is FaultKind.UNRESOLVED
    assert "no name server" in str(found)


def test_a_password_among_the_exchangers_is_not_shown(run: Run, exchangers: Exchangers) -> None:
    with pytest.raises(SMTPFault) as caught:
        run(exchangers.server_of("filtered.example", Credentials("user", "Filter.Exam")))
    assert f"(mx.{STRUCK}ple) is no provider's" in str(caught.value)
