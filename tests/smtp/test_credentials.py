"""Servers that repeat what we logged in with: nothing of it is kept."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.credentials import STRUCK, Credentials
from postroom.deliver import deliver
from postroom.errors import FaultKind, SMTPFault
from postroom.model import Deferred, Failed, Outcome, Reply
from postroom.session import Endpoint
from postroom.smtp import Connection
from postroom.status import classify_fault
from tests.conftest import StartScripted
from tests.smtp.dialog import PASSWORD, USER, endpoint, job, nothing, run


def in_base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


PLAIN = in_base64(f"\0{USER}\0{PASSWORD}".encode())
WORD = in_base64(PASSWORD.encode())
ECHOES = {
    "PLAIN response": PLAIN,
    "its end": PLAIN[-14:],
    "LOGIN response": WORD,
    "in clear": PASSWORD,
    "eight characters": PASSWORD[3:11],
    "in capitals": PASSWORD.upper(),
    "over two lines": f"{PLAIN[:30]}\r\n535 5.7.8 {PLAIN[30:]}",
    "the password over two lines": f"{PASSWORD[:6]}\r\n535 5.7.8 {PASSWORD[6:]}",
    "within other base64": in_base64(f"xy{PASSWORD} was wrong".encode()),
}


def reason_of(fault: SMTPFault) -> str:
    outcome = classify_fault(fault)
    assert isinstance(outcome, Deferred | Failed)
    return f"{fault} {fault.reply} {outcome.reason}"


async def _refused(where: Endpoint) -> SMTPFault:
    with pytest.raises(SMTPFault) as caught:
        await Connection.open(where)
    return caught.value


def leaks(text: str) -> set[str]:
    """Return each run of eight characters of what we sent that is in the text."""
    flat = "".join(text.split()).lower()
    forms = ["".join(form.split()).lower() for form in (PASSWORD, WORD, PLAIN)]
    return {form[at : at + 8] for form in forms for at in range(len(form) - 7) if form[at : at + 8] in flat}


@pytest.mark.parametrize("echo", ECHOES)
def test_a_refusal_that_repeats_the_log_in_is_shown_by_its_code(scripted: StartScripted, echo: str) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    text = f"5.7.8 no: {ECHOES[echo]} is wrong"
    server.on("LINE", f"535-{text}" if "\r\n" in text else f"535 {text}", match="AUTH")
    fault = run(_refused(endpoint(server, password=PASSWORD)))
    assert fault.kind is FaultKind.REFUSED
    assert fault.reply == Reply(535, "", "5.7.8")
    shown = reason_of(fault)
    assert not leaks(shown), shown
    assert "is wrong" not in shown
    assert "535 5.7.8 [" in shown, "our explanation is there"


def test_a_refusal_that_names_the_user_alone_is_kept(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    server.on("LINE", f"535 5.7.8 {USER} is not known here", match="AUTH")
    fault = run(_refused(endpoint(server, password=PASSWORD)))
    assert f"{USER} is not known here" in reason_of(fault)


def test_what_is_not_smtp_is_shown_without_the_password(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    server.on("LINE", f"you said {PLAIN} {PASSWORD}", match="AUTH")
    fault = run(_refused(endpoint(server, password=PASSWORD)))
    assert fault.kind is FaultKind.GARBLED
    assert STRUCK in str(fault)
    assert not leaks(str(fault))


def test_any_other_reply_keeps_its_other_words() -> None:
    credentials = Credentials(USER, PASSWORD)
    reply = Reply(550, f"no, {PASSWORD}\nfrom {USER}", "5.7.1")
    assert credentials.strike_reply(reply, "MAIL") == Reply(550, f"no, {STRUCK}\nfrom {USER}", "5.7.1")
    assert credentials.strike_reply(Reply(550, "no"), "AUTH") == Reply(550, "no")


WORDS_OF_SMTP = ("plain", "login", "pipelining", "Username1", "Password1", "cGFzc3dvcmQ")


@pytest.mark.parametrize("password", WORDS_OF_SMTP)
def test_what_is_acted_on_is_read_whole(scripted: StartScripted, password: str) -> None:
    """A password may be a word of SMTP: what the server offers and asks for is neither kept nor shown."""
    server = scripted(extensions=["PIPELINING", "AUTH LOGIN"])
    server.on("LINE", f"334 {in_base64(b'Password:')}", match="AUTH LOGIN")
    server.on("LINE", f"334 {in_base64(b'Username:')}", match=in_base64(password.encode()))
    server.on("LINE", "235 2.7.0 ok", match=in_base64(USER.encode()))

    async def dialogue() -> bool:
        connection = await Connection.open(endpoint(server, password=password))
        await connection.quit()
        return connection.authenticated and connection._pipelines

    assert run(dialogue())
    assert server.commands[1:4] == ["AUTH LOGIN", in_base64(password.encode()), in_base64(USER.encode())]


def test_a_prompt_that_ought_not_to_come_is_shown_without_the_password(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    server.on("LINE", f"334 you are {PASSWORD}", match=PLAIN)
    server.on("LINE", "334 ", match="AUTH PLAIN")
    fault = run(_refused(endpoint(server, password=PASSWORD)))
    assert STRUCK in str(fault)
    assert not leaks(str(fault))


ASCII = st.characters(min_codepoint=32, max_codepoint=126)


@given(st.text(ASCII, min_size=8, max_size=40), st.text(ASCII), st.text(ASCII), st.data())
def test_no_run_of_a_password_stays(password: str, before: str, after: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(password) - 8))
    said = password[start : start + data.draw(st.integers(8, 40))]
    struck = Credentials("user", password).strike(before + said + after)
    if len("".join(said.split())) >= 4:
        assert said.strip() not in struck.replace(STRUCK, "\0")


@pytest.mark.parametrize(
    ("verb", "code"), [("MAIL", 354), ("RCPT", 550), ("DATA", 250), ("DOT", 250), ("DOT", 451)]
)
def test_what_comes_later_keeps_no_password_either(scripted: StartScripted, verb: str, code: int) -> None:
    """Also a reply out of turn."""
    server = scripted(extensions=["AUTH PLAIN"])
    server.on(verb, f"{code} you are {PASSWORD}")

    async def dialogue() -> list[Outcome]:
        connection = await Connection.open(endpoint(server, password=PASSWORD))
        outcomes = await deliver(connection, job(), nothing)
        connection.abort()
        return list(outcomes.values())

    [outcome] = run(dialogue())
    assert not leaks(repr(outcome)), outcome
    assert STRUCK in repr(outcome)
