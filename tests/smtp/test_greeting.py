"""How we introduce ourselves, and what a server hears of us whose row in data.csv is wrong."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from postroom.core.account import Security
from postroom.core.classify import classify_fault
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Blame, Deferred, Failed, Outcome, Sent
from postroom.smtp import own_name, session
from postroom.smtp.client import Connection
from postroom.smtp.deliver import NotBegun
from postroom.smtp.endpoint import Endpoint, Timeouts
from postroom.smtp.own_name import OwnName, fully_qualified, introductions
from tests.conftest import MakeContext, StartScripted
from tests.servers.scripted import BareHandshake, Held, ScriptedServer
from tests.servers.waiting import eventually
from tests.smtp.dialog import PASSWORD, USER, attempt, endpoint, job, run

NAME, LITERAL = "mail.example.com", "[127.0.0.1]"


@pytest.fixture(autouse=True)
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server has been met before."""
    monkeypatch.setattr(own_name, "_refused", {})
    monkeypatch.setattr(session, "_patience", {})


def opened(where: Endpoint) -> None:
    async def dialogue() -> None:
        await (await Connection.open(where)).quit()

    run(dialogue(), seconds=60)


def fault_of(where: Endpoint) -> SMTPFault:
    with pytest.raises(SMTPFault) as caught:
        opened(where)
    assert "_ssl" not in str(caught.value)
    assert "[SSL" not in str(caught.value)
    return caught.value


def named(server: ScriptedServer, name: str | None = NAME) -> Endpoint:
    where = endpoint(server)
    return Endpoint(where.host, where.port, where.security, timeouts=where.timeouts, ehlo_name=name)


def ehlos(server: ScriptedServer) -> list[str]:
    return [line.removeprefix("EHLO ") for line in server.commands if line.startswith("EHLO")]


# --- the name in EHLO


def test_our_name_is_said_where_there_is_one(scripted: StartScripted) -> None:
    server = scripted()
    opened(named(server))
    opened(named(server, None))
    assert ehlos(server) == [NAME, LITERAL]


@pytest.mark.parametrize(
    "refusal",
    [
        "504 5.5.2 <mail.example.com>: Helo command rejected: need fully-qualified hostname",
        "550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)",
        "501 Syntactically invalid EHLO argument(s)",
        "450 4.7.1 <mail.example.com>: Helo command rejected: Host not found",
        "553 what a name",
    ],
)
def test_where_the_name_is_refused_the_address_is_said_and_the_other_way_round(
    scripted: StartScripted, refusal: str
) -> None:
    """What was taken is said first from then on."""
    server = scripted()
    server.on("EHLO", refusal, match=NAME)
    opened(named(server))
    opened(named(server))
    assert ehlos(server) == [NAME, LITERAL, LITERAL]
    assert len(server.connections) == 2
    server.clear()
    server.on("EHLO", refusal, match="127")
    opened(named(server))
    assert ehlos(server)[-2:] == [LITERAL, NAME]


def test_a_server_that_leaves_at_the_name_hears_the_address_on_a_new_connection(
    scripted: StartScripted,
) -> None:
    """So does smtp-relay.gmail.com."""
    server = scripted()
    server.on("EHLO", "421-4.7.0 Try again later, closing connection. (EHLO)\r\n421 4.7.0 ab12", match=NAME)
    opened(named(server))
    assert [each.commands[0] for each in server.connections] == [f"EHLO {NAME}", f"EHLO {LITERAL}"]


def test_a_server_that_leaves_at_either_is_not_asked_a_third_time(scripted: StartScripted) -> None:
    server = scripted()
    server.on("EHLO", "421 4.7.0 Try again later")
    fault = fault_of(named(server))
    assert (fault.kind, fault.verb) == (FaultKind.REFUSED, "EHLO")
    assert len(server.connections) == 2
    server.clear()
    opened(named(server))
    assert ehlos(server)[-1] == NAME, "it was not for the name"


def test_a_busy_server_is_not_asked_twice(scripted: StartScripted) -> None:
    server = scripted()
    server.on("EHLO", "421 4.3.2 Too many connections, try later")
    assert fault_of(named(server)).reply is not None
    assert len(server.connections) == 1


def test_where_both_are_refused_the_server_s_words_are_kept(scripted: StartScripted) -> None:
    server = scripted()
    server.on("EHLO", "550 5.7.1 go away")
    fault = fault_of(named(server))
    assert fault.reply is not None
    assert fault.reply.code == 550
    assert ehlos(server) == [NAME, LITERAL]


def delivered(where: Endpoint) -> list[Outcome]:
    """Deliver a job as a lane does: what was not begun is tried again over a new connection."""

    async def dialogue() -> list[Outcome]:
        for _ in range(5):
            try:
                outcomes, connection = await attempt(where, job())
            except NotBegun:
                continue
            if connection is not None:
                await connection.quit()
            return outcomes
        raise AssertionError("it goes round in circles")

    return run(dialogue(), seconds=60)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
@pytest.mark.parametrize("extensions", [["8BITMIME"], ["PIPELINING"]])
def test_a_name_that_is_refused_only_later_makes_way_too(
    scripted: StartScripted, verb: str, extensions: list[str]
) -> None:
    """Postfix says it at RCPT (smtpd_delay_reject)."""
    server = scripted(extensions=extensions)
    server.on(verb, f"450 4.7.1 <{NAME}>: Helo command rejected: Host not found", times=1)
    [outcome] = delivered(named(server))
    assert isinstance(outcome, Sent)
    assert ehlos(server) == [NAME, LITERAL]
    assert len(server.messages) == 1


def test_a_server_that_takes_no_name_of_ours_says_which_setting_helps(scripted: StartScripted) -> None:
    server = scripted()
    server.on("RCPT", "504 5.5.2 <x>: Helo command rejected: need fully-qualified hostname")
    [outcome] = delivered(named(server))
    assert isinstance(outcome, Failed)
    assert outcome.blame is Blame.ACCOUNT
    assert "POSTROOM_EHLO_NAME" in outcome.reason
    assert ehlos(server) == [NAME, LITERAL]


# --- a password, and no log-in without TLS


@pytest.mark.parametrize(
    ("verb", "reply", "blame"),
    [
        ("MAIL", "530 5.7.0 Authentication required", Blame.ACCOUNT),
        ("MAIL", "550 5.7.1 authentication required", Blame.ACCOUNT),
        ("RCPT", "530 5.7.0 Must issue a STARTTLS command first", Blame.ACCOUNT),
        ("RCPT", "554 5.7.1 <bob@example.net>: Relay access denied", Blame.RECIPIENT),
    ],
)
def test_a_password_that_was_not_used_names_starttls(
    scripted: StartScripted, verb: str, reply: str, blame: Blame
) -> None:
    server = scripted(auth=())
    server.on(verb, reply)
    [outcome] = delivered(endpoint(server, password=PASSWORD))
    assert isinstance(outcome, Failed)
    assert outcome.blame is blame
    assert reply.split()[1] in outcome.reason
    assert "no log-in was tried" in outcome.reason
    assert "starttls" in outcome.reason
    [other] = delivered(endpoint(server))
    assert isinstance(other, Failed)
    assert "no log-in was tried" not in other.reason, "there was nothing to log in with"


def test_any_other_refusal_has_nothing_to_do_with_it(scripted: StartScripted) -> None:
    server = scripted(auth=())
    server.on("RCPT", "550 5.1.1 no such user")
    [outcome] = delivered(endpoint(server, password=PASSWORD))
    assert isinstance(outcome, Failed)
    assert "log-in" not in outcome.reason


def test_no_loopback_address_is_said_to_a_server_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tunnel or a proxy on this machine has a loopback address, and what is behind it has another."""
    for own in ("127.0.0.1", "::1", None):
        for outward in ("192.0.2.7", None):
            monkeypatch.setattr(own_name, "_outward_address", lambda outward=outward: outward)
            said = introductions(None, own, "smtp.example.com", 587)
            assert said == (["[192.0.2.7]"] if outward else ["localhost.localdomain"])
    assert introductions(None, "127.0.0.1", "localhost", 25) == ["[127.0.0.1]"]
    assert introductions(None, "::1", "::1", 25) == ["[IPv6:::1]"]
    assert introductions(None, "fe80::1%eth0", "smtp.example.com", 25) == ["[IPv6:fe80::1]"]
    assert introductions(NAME, "192.0.2.7", "smtp.example.com", 25) == [NAME, "[192.0.2.7]"]


@pytest.mark.parametrize(
    ("host", "canonical", "found"),
    [
        ("mail.example.com", None, "mail.example.com"),
        ("Mail.Example.COM", None, "mail.example.com"),
        ("box", "box.example.com", "box.example.com"),
        ("box", "box", None),
        ("box", None, None),  # the look-up fails
        ("box", "", None),
        ("box", "localhost.localdomain", None),
        ("localhost.localdomain", None, None),
        ("box", "1.0.0.127.in-addr.arpa", None),
        ("192.0.2.1", None, None),
        ("my_box.example.com", None, None),  # no host name (RFC 5321 §4.1.2)
        ("a" * 70 + ".example.com", None, None),
    ],
)
def test_a_name_without_a_dot_is_no_name(
    monkeypatch: pytest.MonkeyPatch, host: str, canonical: str | None, found: str | None
) -> None:
    def getaddrinfo(name: str, *_: object, **__: object) -> list[object]:
        if canonical is None:
            raise socket.gaierror(socket.EAI_NONAME, "no")
        assert name == host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, canonical, ("127.0.1.1", 0))]

    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert fully_qualified() == found


def test_the_machine_s_name_is_asked_once_and_not_waited_for_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answered = [], threading.Event()

    def slow() -> str:
        asked.append(1)
        answered.wait(60)
        return NAME

    monkeypatch.setattr(own_name, "fully_qualified", slow)
    monkeypatch.setattr(own_name, "_ASKED_FOR_S", 0.2)

    async def dialogue() -> None:
        own = OwnName()
        try:
            assert [await own.get(), await own.get()] == [None, None]
        finally:
            answered.set()
        while await own.get() is None:
            await asyncio.sleep(0)
        assert await own.get() == NAME
        assert await OwnName("other.example.com").get() == "other.example.com"

    run(dialogue(), seconds=60)
    assert len(asked) == 1


# --- starttls, and the server waits for TLS


def test_a_server_that_says_nothing_is_given_up_soon_with_the_likeliest_reason(
    scripted: StartScripted, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_GREETING_S", 0.2)
    server = scripted(tls=True, implicit_tls=True)
    where = Endpoint("127.0.0.1", server.port, Security.STARTTLS, tls=client_tls)
    assert where.timeouts == Timeouts(), "the deadline is that of RFC 5321"
    fault = fault_of(where)
    assert (fault.kind, fault.verb) == (FaultKind.TIMEOUT, "greeting")
    assert "set the security to tls" in str(fault)
    outcome = classify_fault(fault)
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.CONNECTION


def test_a_server_that_makes_its_clients_wait_is_reached_all_the_same(
    scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for longer each time, up to what RFC 5321 asks."""
    monkeypatch.setattr(session, "_GREETING_S", 0.1)
    server = scripted()
    patience = []
    greet = threading.Event()
    server.on("GREETING", do=Held(greet))
    where = Endpoint("127.0.0.1", server.port, Security.NONE, timeouts=Timeouts(greeting=1.0))
    for _ in range(4):
        began = time.monotonic()
        assert fault_of(where).kind is FaultKind.TIMEOUT
        patience.append(time.monotonic() - began)
    assert [wait >= least for wait, least in zip(patience, (0.1, 0.3, 0.9, 1.0), strict=True)] == [True] * 4
    greet.set()
    opened(where)


# --- tls, and the server speaks first


def test_a_server_that_speaks_first_where_tls_was_meant_is_a_wrong_row(
    scripted: StartScripted, client_tls: ssl.SSLContext
) -> None:
    server = scripted()
    fault = fault_of(endpoint(server, Security.TLS, client_tls, password=PASSWORD))
    assert "set the security to starttls" in str(fault)
    outcome = classify_fault(fault)
    assert isinstance(outcome, Failed)
    assert outcome.blame is Blame.ACCOUNT


def test_a_busy_server_that_says_so_in_clear_where_tls_was_meant_is_no_wrong_row(
    scripted: StartScripted, client_tls: ssl.SSLContext
) -> None:
    server = scripted()
    server.on("GREETING", "421 Too many concurrent SMTP connections; please try again later.")
    fault = fault_of(endpoint(server, Security.TLS, client_tls))
    assert fault.kind is FaultKind.REFUSED
    outcome = classify_fault(fault)
    assert isinstance(outcome, Deferred)
    assert "Too many concurrent" in outcome.reason


# --- certificates


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
def test_a_certificate_for_another_name_says_for_which(
    scripted: StartScripted, client_tls: ssl.SSLContext, certificates: MakeContext, security: Security
) -> None:
    server = scripted(tls=certificates("wrong name"), implicit_tls=security is Security.TLS)
    fault = fault_of(endpoint(server, security, client_tls, password=PASSWORD))
    assert "it is for smtp.elsewhere.example" in str(fault)
    assert "use that name as the host" in str(fault)
    eventually(lambda: server.open_connections == 0)
    assert USER.encode() not in server.plaintext
    assert server.logins == []


def test_an_unknown_issuer_names_the_setting(
    scripted: StartScripted, client_tls: ssl.SSLContext, certificates: MakeContext
) -> None:
    server = scripted(tls=certificates("self-signed"))
    assert "POSTROOM_SMTP_CA_FILE" in str(fault_of(endpoint(server, Security.STARTTLS, client_tls)))


# --- handshakes that fail (alerts: RFC 8446 §6)


def alert(number: int) -> bytes:
    return b"\x15\x03\x03\x00\x02\x02" + bytes([number])


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (80, FaultKind.DISCONNECTED, "internal error"),
        (20, FaultKind.DISCONNECTED, "bad record mac"),
        (10, FaultKind.DISCONNECTED, "unexpected message"),
        (90, FaultKind.DISCONNECTED, "user cancelled"),
        (70, FaultKind.INSECURE, "no TLS 1.2"),
        (40, FaultKind.INSECURE, "handshake failure"),
        (71, FaultKind.INSECURE, "insufficient security"),
        (112, FaultKind.INSECURE, "unrecognized name"),
    ],
)
@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
def test_an_alert_is_the_server_s_trouble_or_a_wrong_row(
    scripted: StartScripted,
    client_tls: ssl.SSLContext,
    number: int,
    kind: FaultKind,
    words: str,
    security: Security,
) -> None:
    server = scripted(tls=security is Security.STARTTLS)
    greets = security is Security.STARTTLS
    server.on("STARTTLS" if greets else "GREETING", do=BareHandshake(alert(number), greets))
    fault = fault_of(endpoint(server, security, client_tls, password=PASSWORD))
    assert (fault.kind, words in str(fault)) == (kind, True), str(fault)


def test_a_server_without_tls_1_2(scripted: StartScripted, client_tls: ssl.SSLContext) -> None:
    """Its ServerHello chooses TLS 1.0, which we refuse."""
    hello = b"\x03\x01" + bytes(32) + b"\x00" + b"\x00\x2f" + b"\x00"
    handshake = b"\x02" + len(hello).to_bytes(3, "big") + hello
    server = scripted(tls=True)
    server.on(
        "STARTTLS",
        do=BareHandshake(b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake),
    )
    fault = fault_of(endpoint(server, Security.STARTTLS, client_tls))
    assert fault.kind is FaultKind.INSECURE
    assert "no TLS 1.2" in str(fault)


@pytest.fixture
def breaks_off(server_tls: ssl.SSLContext) -> Iterator[int]:
    """A server that says 421 in clear inside TLS, as one does that is stopped at the wrong moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with server_tls.wrap_socket(plain, server_side=True) as secured:
                secured.sendall(b"220 hello\r\n")
                secured.recv(1000)
                os.write(secured.fileno(), b"421 4.3.2 mail.example shutting down\r\n")
                while os.read(secured.fileno(), 1000):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
    thread.join(60)


def test_plain_text_inside_tls_is_a_server_that_breaks_off(
    breaks_off: int, client_tls: ssl.SSLContext
) -> None:
    fault = fault_of(Endpoint("127.0.0.1", breaks_off, Security.TLS, tls=client_tls))
    assert fault.kind is FaultKind.DISCONNECTED
    assert "the server broke off TLS" in str(fault)
    assert isinstance(classify_fault(fault), Deferred)


# --- deadlines


def test_one_cap_leaves_the_wait_after_the_dot_alone() -> None:
    """Who gives up sooner than RFC 5321 §4.5.3.2.6 asks sends again what a slow server is about to accept."""
    assert Timeouts().capped(None) == Timeouts()
    capped = Timeouts().capped(2.0)
    assert (capped.connect, capped.greeting, capped.command, capped.data) == (2.0, 2.0, 2.0, 2.0)
    assert (capped.block, capped.quit, capped.dot) == (2.0, 2.0, 600.0)
    assert Timeouts().capped(2.0, 7.0).dot == 7.0
    assert Timeouts().capped(None, 900.0).dot == 900.0
