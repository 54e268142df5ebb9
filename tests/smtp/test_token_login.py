"""Log-ins with an access token (XOAUTH2, OAUTHBEARER): against a real Dovecot, and servers that say no in their way."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator

import pytest
import trustme

from postroom.core.account import Secret, Security
from postroom.core.classify import classify_fault
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Blame, Failed, Meaning, Sent
from postroom.core.replies import Circumstances
from postroom.smtp.client import Connection
from postroom.smtp.credentials import Credentials
from postroom.smtp.deliver import outcome_of
from postroom.smtp.endpoint import Endpoint
from tests.conftest import StartScripted
from tests.servers.postfix import Postfix
from tests.servers.scripted import ScriptedServer
from tests.servers.token_server import TokenServer
from tests.smtp.dialog import BOB, USER, envelope, nothing, run

TOKEN = "ya29.a0AfB_byC-an/access+token~of~the~tests=="
XOAUTH2 = base64.b64encode(f"user={USER}\1auth=Bearer {TOKEN}\1\1".encode()).decode()
WELCOME = "235 2.7.0 welcome"


def at(server: Postfix | ScriptedServer, token: str, tls: ssl.SSLContext | None = None) -> Endpoint:
    return Endpoint(
        host="localhost",
        port=server.port,
        security=Security.STARTTLS if tls else Security.NONE,
        username=USER,
        access_token=Secret(token),
        tls=tls,
    )


async def log_in(where: Endpoint) -> Connection | SMTPFault:
    try:
        connection = await Connection.open(where)
    except SMTPFault as fault:
        return fault
    await connection.quit()
    return connection


def refused(where: Endpoint) -> SMTPFault:
    fault = run(log_in(where))
    assert isinstance(fault, SMTPFault), "it logged in"
    return fault


def challenge(**error: str) -> str:
    return f"334 {base64.b64encode(json.dumps(error).encode()).decode()}"


# --- a real server


@pytest.fixture(scope="module")
def token_server() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server


@pytest.fixture(scope="module", params=["xoauth2 oauthbearer", "xoauth2", "oauthbearer"])
def submission(
    request: pytest.FixtureRequest, ca: trustme.CA, token_server: TokenServer
) -> Iterator[Postfix]:
    with Postfix(ca, tokens=token_server.url, mechanisms=request.param) as server:
        yield server


@pytest.mark.postfix
@pytest.mark.parametrize("size", [40, 3000], ids=["short", "long"])
def test_a_message_goes_out_with_a_token(
    submission: Postfix, token_server: TokenServer, client_tls: ssl.SSLContext, size: int
) -> None:
    """A long one goes in a line of its own: Postfix takes no command of more than 2,048 octets."""
    submission.clear()
    where = at(submission, token_server.give(USER, size=size), client_tls)

    async def dialogue() -> None:
        connection = await Connection.open(where)
        assert connection.authenticated
        transcript = await connection.transact(envelope(), nothing)
        assert isinstance(outcome_of(transcript, BOB), Sent)
        await connection.quit()

    run(dialogue())
    submission.mails(1)


@pytest.mark.postfix
@pytest.mark.parametrize("wrong", ["unknown", "of another mailbox"])
def test_a_token_that_is_not_good_is_the_accounts_fault(
    submission: Postfix, token_server: TokenServer, client_tls: ssl.SSLContext, wrong: str
) -> None:
    token = "at.nobody-has-given-this" if wrong == "unknown" else token_server.give("bob@postroom.example")
    fault = refused(at(submission, token, client_tls))
    assert fault.kind is FaultKind.REFUSED
    assert fault.reply is not None
    assert fault.reply.code == 535
    outcome = classify_fault(fault)
    assert isinstance(outcome, Failed)
    assert (outcome.blame, outcome.meaning) == (Blame.ACCOUNT, Meaning.ACCOUNT)
    assert "postroom accounts authorize" in outcome.reason
    assert "app password" not in outcome.reason
    assert token not in f"{fault} {outcome.reason}"


# --- servers of all kinds


@pytest.mark.parametrize(
    ("offers", "mechanism", "end"),
    [
        ("PLAIN XOAUTH2 OAUTHBEARER", "XOAUTH2", ""),
        ("XOAUTH2", "XOAUTH2", ""),
        ("LOGIN OAUTHBEARER", "OAUTHBEARER", "AQ=="),
    ],
)
def test_the_error_challenge_is_answered_and_its_status_read(
    scripted: StartScripted, offers: str, mechanism: str, end: str
) -> None:
    server = scripted(extensions=[f"AUTH {offers}"])
    said = challenge(status="invalid_token", schemes="bearer", scope="https://mail.google.com/")
    server.on("LINE", said, match="AUTH ")
    server.on(
        "LINE", "535 5.7.8 Username and Password not accepted", match=end, skip=not end
    )  # EHLO is a line too
    fault = refused(at(server, TOKEN))
    assert server.commands[1].startswith(f"AUTH {mechanism} ")
    assert server.commands[2] == end
    assert fault.verb == f"AUTH {mechanism}"
    assert "(status invalid_token)" in str(fault.reply)
    google = classify_fault(fault, Circumstances("smtp.gmail.com"))
    assert isinstance(google, Failed)
    assert "app password" not in google.reason
    assert "does not accept this access token" in google.reason


@pytest.mark.parametrize(
    ("status", "words"), [("insufficient_scope", "not given for sending over SMTP"), ("400", "revoked")]
)
def test_the_status_decides_what_is_said(scripted: StartScripted, status: str, words: str) -> None:
    server = scripted(extensions=["AUTH XOAUTH2"])
    server.on("LINE", challenge(status=status), match="AUTH ")
    server.on("LINE", "535 5.7.8 no", match="", skip=1)
    outcome = classify_fault(refused(at(server, TOKEN)))
    assert isinstance(outcome, Failed)
    assert words in outcome.reason


@pytest.mark.parametrize(
    "said",
    ["334 ", "334", "334 VGhpcyBpcyBubyBKU09O", "334 not base64", "334 W10="],
    ids=["empty", "bare", "no JSON", "no base64", "a list"],
)
def test_a_challenge_that_is_no_error_asks_for_the_response(scripted: StartScripted, said: str) -> None:
    server = scripted(extensions=["AUTH XOAUTH2"])
    server.on("LINE", said, match="AUTH ")
    server.on("LINE", WELCOME, match=XOAUTH2)
    assert isinstance(run(log_in(at(server, TOKEN))), Connection)
    assert server.commands[1:3] == [f"AUTH XOAUTH2 {XOAUTH2}", XOAUTH2]


@pytest.mark.parametrize("code", [501, 504])
def test_a_mechanism_that_is_refused_for_its_form_makes_way_for_the_other(
    scripted: StartScripted, code: int
) -> None:
    server = scripted(extensions=["AUTH XOAUTH2 OAUTHBEARER"])
    server.on("LINE", f"{code} 5.5.4 not so", match="AUTH XOAUTH2")
    server.on("LINE", WELCOME, match="AUTH OAUTHBEARER")
    assert isinstance(run(log_in(at(server, TOKEN))), Connection)


def test_the_response_of_oauthbearer_is_that_of_the_rfc(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH OAUTHBEARER"])
    server.on("LINE", WELCOME, match="AUTH ")
    assert isinstance(run(log_in(at(server, TOKEN))), Connection)
    response = base64.b64decode(server.commands[1].split()[2]).decode()
    assert response == f"n,a={USER},\1host=localhost\1port={server.port}\1auth=Bearer {TOKEN}\1\1"


def test_a_server_that_takes_no_tokens_is_told_none(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH PLAIN LOGIN"])
    fault = refused(at(server, TOKEN))
    assert (fault.kind, fault.verb) == (FaultKind.UNSUPPORTED, "AUTH")
    assert "XOAUTH2 and OAUTHBEARER, only PLAIN LOGIN" in str(fault)
    assert server.verbs == ["EHLO"]


def test_a_server_that_goes_on_asking_is_left(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH XOAUTH2"])
    server.on("LINE", "501 5.7.0 cancelled", match="*")
    server.on("LINE", challenge(status="400"), match="", skip=1)
    assert refused(at(server, TOKEN)).kind is FaultKind.UNSUPPORTED


# --- what a server repeats


@pytest.mark.parametrize(
    "echo",
    [
        TOKEN,
        TOKEN[5:13],
        TOKEN.upper(),
        XOAUTH2,
        XOAUTH2[60:80],
        base64.b64encode(f"x{TOKEN}".encode()).decode(),
    ],
    ids=["clear", "eight", "capitals", "response", "part of it", "another offset"],
)
def test_a_refusal_that_repeats_the_token_is_shown_by_its_code(scripted: StartScripted, echo: str) -> None:
    server = scripted(extensions=["AUTH XOAUTH2"])
    server.on("LINE", f"535 5.7.8 no: {echo} is wrong", match="AUTH")
    fault = refused(at(server, TOKEN))
    assert echo.lower() not in str(fault).lower()
    assert "is wrong" not in str(fault)


def test_a_status_that_is_the_token_is_not_repeated(scripted: StartScripted) -> None:
    token = "a" * 12 + "Zq9" * 8
    server = scripted(extensions=["AUTH XOAUTH2"])
    server.on("LINE", challenge(status=token), match="AUTH ")
    server.on("LINE", "535 5.7.8 no", match="", skip=1)
    assert token not in str(refused(at(server, token)))


def test_a_long_token_is_struck_in_a_moment_and_whole() -> None:
    token = base64.urlsafe_b64encode(bytes(range(256)) * 12).decode()
    struck = Credentials(USER, "", token).strike(f"your {token} was wrong")
    assert struck == "your [struck] was wrong"
