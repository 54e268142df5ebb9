"""Servers that take a log-in in another form than is usual, and whose EHLO says less than they can do."""

from __future__ import annotations

import base64
import ssl
from typing import Any

import pytest

from postroom.core.account import Security
from postroom.core.classify import classify_fault
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Blame, Deferred, Failed, Reply
from postroom.smtp.client import Connection
from tests.conftest import StartScripted
from tests.servers.scripted import ScriptedServer
from tests.smtp.dialog import MIME, PASSWORD, USER, endpoint, envelope, nothing, run


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


NAME, WORD = in_base64(USER), in_base64(PASSWORD)
PLAIN = in_base64(f"\0{USER}\0{PASSWORD}")
WELCOME = "235 2.7.0 welcome"
REFUSED = "535 5.7.8 wrong"


def opened(
    server: ScriptedServer, security: Security = Security.NONE, tls: ssl.SSLContext | None = None, **more: Any
) -> Connection | SMTPFault:
    """Open a session and say goodbye; return it, or why there is none."""

    async def dialogue() -> Connection | SMTPFault:
        try:
            connection = await Connection.open(endpoint(server, security, tls, **more))
        except SMTPFault as fault:
            return fault
        await connection.quit()
        return connection

    return run(dialogue())


def log_in(server: ScriptedServer) -> bool:
    connection = opened(server, password=PASSWORD)
    return isinstance(connection, Connection) and connection.authenticated


def refusal(server: ScriptedServer) -> SMTPFault:
    fault = opened(server, password=PASSWORD)
    assert isinstance(fault, SMTPFault), "it logged in"
    return fault


def prompt(text: str) -> str:
    return f"334 {in_base64(text)}"


def offering(scripted: StartScripted, *lines: str) -> ScriptedServer:
    return scripted(extensions=["PIPELINING", *lines])


# --- AUTH LOGIN


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (prompt("Username:"), prompt("Password:")),
        (prompt("User Name\0"), prompt("Password\0")),
        (prompt("YOUR USER ID"), prompt("your pass phrase")),
        (prompt("Benutzer?"), prompt("Kennwort?")),
        ("334 Username:", "334 Password:"),
        ("334 ", "334 "),
        ("334", "334"),
    ],
    ids=["usual", "with NUL", "other case", "by order", "in the clear", "empty", "bare"],
)
def test_login_answers_each_prompt_for_what_it_asks(scripted: StartScripted, first: str, second: str) -> None:
    server = offering(scripted, "AUTH LOGIN")
    server.on("LINE", first, match="AUTH ")
    server.on("LINE", second, match=NAME)
    server.on("LINE", WELCOME, match=WORD)
    assert log_in(server)
    assert server.commands[1:4] == ["AUTH LOGIN", NAME, WORD], "there is no initial response"


def test_login_whose_first_prompt_is_for_the_password(scripted: StartScripted) -> None:
    server = offering(scripted, "AUTH LOGIN")
    server.on("LINE", prompt("Password:"), match="AUTH ")
    server.on("LINE", prompt("Username:"), match=WORD)
    server.on("LINE", WELCOME, match=NAME)
    assert log_in(server)


def test_the_password_is_no_answer_to_a_second_prompt_for_the_name(scripted: StartScripted) -> None:
    server = offering(scripted, "AUTH LOGIN")
    server.on("LINE", prompt("Username:"), match="AUTH ")
    server.on("LINE", prompt("Username:"), match=NAME)
    fault = refusal(server)
    assert (fault.kind, fault.verb) == (FaultKind.UNSUPPORTED, "AUTH")
    assert server.commands[-1] == "*"
    assert WORD not in server.commands


# --- what is offered


@pytest.mark.parametrize(
    "lines",
    [
        ("AUTH PLAIN LOGIN", "AUTH XOAUTH2"),
        ("AUTH XOAUTH2", "AUTH=PLAIN LOGIN"),
        ("AUTH=PLAIN",),
        ("AUTH GSSAPI", "AUTH CRAM-MD5 PLAIN", "AUTH NTLM"),
        ("auth plain",),
    ],
    ids=" + ".join,
)
def test_every_line_of_auth_counts(scripted: StartScripted, lines: tuple[str, ...]) -> None:
    server = offering(scripted, *lines)
    server.on("LINE", WELCOME, match="AUTH ")
    assert log_in(server)
    assert server.commands[1] == f"AUTH PLAIN {PLAIN}"


# --- mechanisms that make way


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504])
def test_a_mechanism_refused_for_its_form_makes_way_for_another(scripted: StartScripted, code: int) -> None:
    server = offering(scripted, "AUTH PLAIN LOGIN")
    server.on("LINE", f"{code} 5.5.4 not so", match="AUTH PLAIN ")
    server.on("LINE", prompt("Username:"), match="AUTH LOGIN")
    server.on("LINE", prompt("Password:"), match=NAME)
    server.on("LINE", WELCOME, match=WORD)
    assert log_in(server)


def test_an_exchange_that_goes_on_is_cancelled_before_another_begins(scripted: StartScripted) -> None:
    server = offering(scripted, "AUTH PLAIN LOGIN")
    server.on("LINE", "334 ", match="AUTH PLAIN ")
    server.on("LINE", "501 5.7.0 cancelled", match="*")
    server.on("LINE", prompt("Username:"), match="AUTH LOGIN")
    server.on("LINE", prompt("Password:"), match=NAME)
    server.on("LINE", WELCOME, match=WORD)
    assert log_in(server)
    assert server.commands[1:-1] == [f"AUTH PLAIN {PLAIN}", "*", "AUTH LOGIN", NAME, WORD]


@pytest.mark.parametrize("first", ["334 ", "501 5.5.4 no initial response"])
def test_plain_without_an_initial_response_where_nothing_else_is_offered(
    scripted: StartScripted, first: str
) -> None:
    server = offering(scripted, "AUTH PLAIN")
    server.on("LINE", first, match="AUTH PLAIN ")
    server.on("LINE", "334 ", match="AUTH ")
    server.on("LINE", WELCOME, match=PLAIN)
    assert log_in(server)


@pytest.mark.parametrize("code", [535, 534, 538, 530, 525, 432, 454, 421])
def test_a_refused_log_in_is_not_tried_in_another_form(scripted: StartScripted, code: int) -> None:
    server = offering(scripted, "AUTH PLAIN LOGIN")
    server.on("LINE", f"{code} x.7.8 no", match="AUTH")
    fault = refusal(server)
    assert (fault.kind, fault.verb, fault.reply) == (FaultKind.REFUSED, "AUTH", Reply(code, "x.7.8 no"))
    assert server.verbs == ["EHLO", "AUTH"]


def test_a_refusal_after_the_prompts_is_the_last_word(scripted: StartScripted) -> None:
    server = offering(scripted, "AUTH PLAIN LOGIN")
    server.on("LINE", "504 5.5.4 not so", match="AUTH PLAIN ")
    server.on("LINE", prompt("Username:"), match="AUTH LOGIN")
    server.on("LINE", prompt("Password:"), match=NAME)
    server.on("LINE", REFUSED, match=WORD)
    assert str(refusal(server).reply) == REFUSED
    assert server.verbs.count("AUTH") == 2


def test_an_answer_to_the_cancelling_that_is_none_ends_the_session(scripted: StartScripted) -> None:
    server = offering(scripted, "AUTH PLAIN LOGIN")
    server.on("LINE", "334 ", match="AUTH PLAIN ")
    server.on("LINE", "250 as you like", match="*")
    assert refusal(server).kind is FaultKind.GARBLED
    assert server.verbs == ["EHLO", "AUTH", "*"]


# --- EHLO


@pytest.mark.parametrize("code", [500, 502])
def test_helo_where_ehlo_is_unknown(scripted: StartScripted, code: int) -> None:
    server = scripted()
    server.on("EHLO", f"{code} 5.5.1 what?")

    async def dialogue() -> None:
        connection = await Connection.open(endpoint(server))
        transcript = await connection.transact(envelope(), nothing)
        assert transcript.final is not None
        assert transcript.final.positive
        await connection.quit()

    run(dialogue())
    assert server.verbs == ["EHLO", "HELO", "HELP", "MAIL", "RCPT", "DATA", "QUIT"]
    assert server.messages[0].data == MIME


@pytest.mark.parametrize("need", ["a log-in", "TLS", "another code"])
def test_no_helo_where_it_could_not_do(
    scripted: StartScripted, client_tls: ssl.SSLContext, need: str
) -> None:
    server = scripted(tls=True)
    server.on("EHLO", "550 no" if need == "another code" else "502 5.5.1 what?")
    security = Security.STARTTLS if need == "TLS" else Security.NONE
    fault = opened(server, security, client_tls, password=PASSWORD if need == "a log-in" else "")
    assert isinstance(fault, SMTPFault)
    assert (fault.kind, fault.verb) == (FaultKind.REFUSED, "EHLO")
    assert server.verbs == ["EHLO"]


BUSY = "452 4.3.2 Too many open connections."
DENIED = "550 5.7.1 Access denied"


@pytest.mark.parametrize(("text", "kind"), [(BUSY, Deferred), (DENIED, Failed)], ids=["busy", "denied"])
@pytest.mark.parametrize(
    ("security", "verb"),
    [(Security.STARTTLS, "STARTTLS"), (Security.NONE, "EHLO"), (Security.TLS, "EHLO")],
    ids=["starttls", "none", "tls"],
)
@pytest.mark.parametrize("password", ["", PASSWORD], ids=["no log-in", "log-in"])
def test_a_server_that_turns_the_connection_away_says_so_to_every_command(
    scripted: StartScripted,
    client_tls: ssl.SSLContext,
    text: str,
    kind: type,
    security: Security,
    verb: str,
    password: str,
) -> None:
    """As Sendmail does: its EHLO lists next to nothing, which says nothing of what it can do."""
    server = scripted(tls=True, implicit_tls=security is Security.TLS)
    server.on("EHLO", "250-sendmail.example\r\n250 ENHANCEDSTATUSCODES")
    for each in ("STARTTLS", "HELP", "MAIL", "AUTH"):
        server.on("LINE", text, match=each)
    fault = opened(server, security, client_tls, password=password)
    assert isinstance(fault, SMTPFault)
    assert (fault.kind, fault.verb) == (FaultKind.REFUSED, verb)
    outcome = classify_fault(fault)
    assert isinstance(outcome, Deferred | Failed)
    assert type(outcome) is kind
    assert text in outcome.reason
    assert outcome.blame is (Blame.CONNECTION if kind is Deferred else Blame.ACCOUNT)
    assert not server.logins


def test_starttls_that_is_not_announced_may_be_there(
    scripted: StartScripted, client_tls: ssl.SSLContext
) -> None:
    server = scripted(tls=True, plain_extensions=["8BITMIME"])
    connection = opened(server, Security.STARTTLS, client_tls, password=PASSWORD)
    assert isinstance(connection, Connection)
    assert connection.authenticated
    assert not server.auth_in_plain_text


@pytest.mark.parametrize(("offer", "again"), [("SIZE", True), ("SIZE 1000000", False), ("SIZE 0", False)])
def test_a_size_without_a_number_is_asked_for_after_the_log_in(
    scripted: StartScripted, offer: str, again: bool
) -> None:
    """Dovecot names the number only then; what it takes is known before the text travels."""
    server = offering(scripted, offer, "AUTH PLAIN")
    server.on("EHLO", "250-x\r\n250-PIPELINING\r\n250 SIZE 20", skip=1)

    async def dialogue() -> None:
        connection = await Connection.open(endpoint(server, password=PASSWORD))
        assert connection.authenticated
        assert (connection.shortcoming(envelope()) is not None) == again
        await connection.quit()

    run(dialogue())
    assert server.verbs == ["EHLO", "AUTH", *["EHLO"] * again, "QUIT"]


def test_a_second_ehlo_that_is_refused_changes_nothing(scripted: StartScripted) -> None:
    server = offering(scripted, "SIZE", "AUTH PLAIN")
    server.on("EHLO", "503 5.5.1 you said so already", skip=1)
    assert log_in(server)


# --- words


@pytest.mark.parametrize(
    ("octets", "shown"),
    [
        ("拒绝".encode("gbk"), r"\xbe\xdc\xbe\xf8"),
        ("größer".encode("latin-1"), r"gr\xf6\xdfer"),
        ("größer 拒绝".encode(), "größer 拒绝"),
    ],
    ids=["gbk", "latin-1", "utf-8"],
)
def test_words_of_any_charset_can_be_told_apart(scripted: StartScripted, octets: bytes, shown: str) -> None:
    server = scripted()
    server.on("GREETING", b"550 5.7.1 " + octets + b" (me)\r\n")
    fault = opened(server)
    assert isinstance(fault, SMTPFault)
    outcome = classify_fault(fault)
    assert isinstance(outcome, Failed)
    assert f"{shown} (me)" in outcome.reason
