"""What is kept of a conversation: commands and replies as they went, no secret and no text."""

from __future__ import annotations

import ssl

import pytest

from postroom.core.account import Security
from postroom.core.dialogue import AttemptRecord, parse
from postroom.core.errors import SMTPFault
from postroom.smtp.client import Connection
from postroom.smtp.deliver import NotBegun, deliver
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.tape import Tape
from tests.conftest import StartScripted
from tests.servers.scripted import Drop, Hang
from tests.smtp.dialog import BOB, CAROL, MIME, PASSWORD, USER, body_of, endpoint, job, nothing, run
from tests.smtp.test_credentials import ECHOES, leaks


async def _sent(
    where: Endpoint, *mimes: bytes, forward_paths: tuple[str, ...] = (BOB,)
) -> list[AttemptRecord]:
    """Send messages over one connection; return the record of each."""
    connection = await Connection.open(where)
    records = []
    for mime in mimes:
        await deliver(connection, job(forward_paths, mime), nothing)
        records.append(connection.tape.take())
    await connection.quit()
    return records


def said(record: AttemptRecord) -> list[str]:
    return [f"{line.speaker}: {line.text}" for line in parse(record.dialogue or "")]


def test_the_first_message_has_the_session_and_the_next_its_own_commands(
    scripted: StartScripted, client_tls: ssl.SSLContext
) -> None:
    server = scripted(tls=True, extensions=["PIPELINING", "AUTH PLAIN"])
    where = endpoint(server, Security.STARTTLS, client_tls, host="localhost", password=PASSWORD)
    first, second = run(_sent(where, MIME, body_of(2_000_000)))
    lines = said(first)
    assert lines[0] == f"*: CONNECT localhost:{server.port}"
    assert lines[1].startswith("*: connected to ")
    assert [line for line in lines if line.startswith("C: ") and "EHLO" not in line] == [
        "C: STARTTLS",
        "C: AUTH PLAIN [struck]",
        f"C: MAIL FROM:<{USER}>",
        f"C: RCPT TO:<{BOB}>",
        "C: DATA",
        f"C: … {len(MIME)} octets",
        "C: .",
    ]
    assert any(line.startswith("*: TLSv1.") for line in lines)
    assert "S: 250-AUTH PLAIN" in lines or "S: 250 AUTH PLAIN" in lines
    assert (first.phase, second.phase) == ("DATA end", "DATA end")
    assert said(second)[0] == f"C: MAIL FROM:<{USER}>"
    assert f"C: … {len(body_of(2_000_000)):,} octets" in said(second)
    assert "Hello." not in f"{first}{second}"


def test_chunks_are_shown_by_their_commands(scripted: StartScripted) -> None:
    server = scripted(extensions=["PIPELINING", "CHUNKING"])
    [record] = run(_sent(endpoint(server), MIME))
    chunks = [line for line in said(record) if line.startswith("C: BDAT")]
    assert chunks[-1].endswith(" LAST")
    assert record.phase == "BDAT"
    assert "Hello." not in str(record)


def test_a_refused_recipient_names_the_step(scripted: StartScripted) -> None:
    server = scripted(extensions=["PIPELINING"])
    server.on("RCPT", reply="550 5.1.1 nobody\x07 here", match=CAROL)
    both, one = run(_sent(endpoint(server), MIME, MIME, forward_paths=(BOB, CAROL)))[0], None
    assert "S: 550 5.1.1 nobody\\x07 here" in said(both)
    assert both.phase == "RCPT"
    assert one is None


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
def test_a_server_that_leaves_or_says_nothing_is_noted(scripted: StartScripted, verb: str) -> None:
    server = scripted()
    server.on(verb, do=Hang())
    where = endpoint(pipelining=False, server=server, deadlines={"command": 0.3, "data": 0.3, "dot": 0.3})
    [record] = run(_sent(where, MIME))
    assert record.phase == ("DATA end" if verb == "DOT" else verb)
    assert said(record)[-1].startswith("*: no answer to ")


async def _cannot_open(where: Endpoint) -> list[str]:
    tape = Tape()
    with pytest.raises(SMTPFault) as caught:
        await Connection.open(where, tape)
    tape.failed(caught.value)
    return said(tape.take())


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("verb", ["EHLO", "AUTH", "MAIL", "DOT"])
def test_no_echo_of_the_log_in_is_kept(scripted: StartScripted, echo: str, verb: str) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    text = f"5.7.8 no: {ECHOES[echo]} is wrong"
    code = "535-" if "\r\n" in text else "535 "
    if verb == "DOT":
        server.on("DOT", code + text)
    else:
        server.on("LINE", code + text, match=verb)
    where = endpoint(server, password=PASSWORD)
    if verb in ("EHLO", "AUTH"):
        lines = run(_cannot_open(where))
    else:
        [record] = run(_sent(where, MIME))
        lines = said(record)
    assert not leaks(" ".join(lines)), lines
    assert any(line.startswith("S: 535") for line in lines)


def test_what_is_no_smtp_is_noted_without_the_log_in(scripted: StartScripted) -> None:
    server = scripted(extensions=["AUTH PLAIN"])
    server.on("LINE", f"you said {PASSWORD}", match="AUTH")
    lines = run(_cannot_open(endpoint(server, password=PASSWORD)))
    assert lines[-1].startswith("*: ")
    assert not leaks(" ".join(lines))


def test_a_connection_that_was_closed_before_a_message_keeps_what_was_said(scripted: StartScripted) -> None:
    server = scripted()
    server.on("MAIL", do=Drop(), skip=1)

    async def dialogue() -> list[str]:
        connection = await Connection.open(endpoint(server))
        await deliver(connection, job(), nothing)
        connection.tape.take()
        with pytest.raises(NotBegun):
            await deliver(connection, job(), nothing)
        return said(connection.tape.take())

    lines = run(dialogue())
    assert lines[0] == f"C: MAIL FROM:<{USER}> SIZE={len(MIME)}"
    assert lines[-1].startswith("*: ")


def test_a_name_that_is_not_found_and_a_port_that_is_closed_have_a_dialogue(scripted: StartScripted) -> None:
    server = scripted()
    server.on("GREETING", do=Drop())
    assert run(_cannot_open(endpoint(server, host="no-such-host.invalid")))[0] == (
        f"*: CONNECT no-such-host.invalid:{server.port}"
    )
    lines = run(_cannot_open(endpoint(server)))
    assert lines[-1].startswith("*: the server closed the connection")
