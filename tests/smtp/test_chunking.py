"""CHUNKING (RFC 3030): the text in counted chunks, the mark before the last of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroom.core.outcome import Reply
from postroom.smtp.transcript import Transcript
from tests.conftest import StartScripted
from tests.servers.scripted import Drop, ScriptedServer
from tests.smtp.dialog import BOB, CAROL, MIME, body_of, endpoint, envelope, nothing, opened, run
from tests.smtp.test_transaction import bodies

KIB = 1024


def mail(
    server: ScriptedServer, mime: bytes = MIME, *paths: str, pipelining: bool = True, chunking: bool = True
) -> tuple[Transcript, bool, int]:
    """Carry one message over; return its transcript, whether the connection was usable then, and the marks made."""
    marks = 0

    async def mark() -> None:
        nonlocal marks
        marks += 1

    async def dialogue() -> tuple[Transcript, bool]:
        connection = await opened(endpoint(server, pipelining=pipelining, chunking=chunking))
        transcript = await connection.transact(envelope(*paths, mime=mime), mark)
        usable = connection.usable
        await connection.quit()
        return transcript, usable

    return (*run(dialogue()), marks)


def test_a_small_text_is_one_chunk(scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    transcript, usable, marks = mail(server)
    assert (transcript.final, usable, marks) == (Reply(250, "queued as 1", "2.0.0"), True, 1)
    assert transcript.data is None
    assert transcript.dot_sent
    assert server.commands[-2] == f"BDAT {len(MIME)} LAST"
    [message] = server.messages
    assert (message.data, message.chunked) == (MIME, True)


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(
    ("size", "chunks"),
    [(64 * KIB, 1), (64 * KIB + 100, 2), (320 * KIB, 2), (320 * KIB + 100, 3), (2000 * KIB, 9)],
)
def test_a_large_text_is_several(scripted: StartScripted, size: int, chunks: int, pipelining: bool) -> None:
    server = scripted(chunking=True)
    mime = body_of(size)[: size - 2] + b"\r\n"
    transcript, usable, marks = mail(server, mime, pipelining=pipelining)
    assert (transcript.final, usable, marks) == (Reply(250, "queued as 1", "2.0.0"), True, 1)
    assert server.messages[0].data == mime
    commands = [command for command in server.commands if command.startswith("BDAT")]
    assert len(commands) == chunks
    assert all(int(command.split()[1]) <= 256 * KIB for command in commands)
    assert [command.endswith(" LAST") for command in commands] == [False] * (chunks - 1) + [True]


@pytest.mark.parametrize("how", ["switched off", "not offered"])
def test_without_it_the_text_is_data(scripted: StartScripted, how: str) -> None:
    server = scripted(chunking=how == "switched off")
    transcript, *_ = mail(server, chunking=how != "switched off")
    assert transcript.final is not None
    assert "BDAT" not in server.verbs
    assert server.messages[0].data == MIME


def test_nobody_to_go_to(scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    server.on("RCPT", "550 5.1.1 unknown")
    transcript, usable, marks = mail(server, MIME, BOB, CAROL)
    assert (transcript.final, transcript.dot_sent, usable, marks) == (None, False, True, 0)
    assert server.verbs == ["EHLO", "MAIL", "RCPT", "RCPT", "RSET", "QUIT"]


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("code", [452, 552])
def test_an_early_chunk_refused_ends_the_message_and_not_the_connection(
    scripted: StartScripted, code: int, pipelining: bool
) -> None:
    server = scripted(chunking=True)
    server.on("BDAT", f"{code} 5.3.4 too big", times=1)
    transcript, usable, marks = mail(server, body_of(1000 * KIB), pipelining=pipelining)
    assert transcript.final == Reply(code, "too big", "5.3.4")
    assert (transcript.dot_sent, usable, marks) == (False, True, 0)
    assert "LAST" not in " ".join(server.commands)
    assert server.transactions == []
    assert server.verbs[-2:] == ["RSET", "QUIT"]


@pytest.mark.parametrize("skip", range(4))
def test_a_server_that_goes_between_chunks_leaves_no_doubt(scripted: StartScripted, skip: int) -> None:
    server = scripted(chunking=True)
    server.on("BDAT", do=Drop(), skip=skip, times=1)
    transcript, usable, _ = mail(server, body_of(1000 * KIB))
    assert transcript.final is None
    assert not transcript.dot_sent
    assert not usable
    assert server.transactions == []


@pytest.fixture(scope="module")
def both_ways() -> Iterator[tuple[ScriptedServer, ScriptedServer]]:
    with ScriptedServer() as data, ScriptedServer(chunking=True) as chunks:
        yield data, chunks


@given(st.lists(bodies, min_size=1, max_size=4))
@example([b".\r\n", b"..\r\n", b"\r\n.\r\n", b"a\r\n.\r\nMAIL FROM:<m@x.example>\r\n"])
def test_the_same_arrives_as_data_and_in_chunks(
    both_ways: tuple[ScriptedServer, ScriptedServer], mimes: list[bytes]
) -> None:
    async def send(server: ScriptedServer) -> list[bytes]:
        seen = len(server.transactions)
        connection = await opened(endpoint(server))
        for mime in mimes:
            transcript = await connection.transact(envelope(mime=mime), nothing)
            assert transcript.final is not None
            assert transcript.final.positive
        await connection.quit()
        return [each.data for each in server.transactions[seen:]]

    data, chunks = both_ways
    assert run(send(data)) == run(send(chunks)) == mimes
