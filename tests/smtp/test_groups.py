"""What leaves together: how a server shows that it takes groups and chunks, and the message that leaves in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from postroom.core.outcome import Blame, Deferred, Failed, InDoubt, Sent
from postroom.smtp.client import Connection
from postroom.smtp.deliver import NotBegun, deliver, outcome_of
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.transcript import Extension, ServerTraits, Suspicion, Transcript
from tests.conftest import StartScripted
from tests.servers.scripted import Action, Ahead, Also, Drop, Garbage, Hang, Reset, ScriptedServer
from tests.servers.scripted import Reply as Say
from tests.servers.waiting import eventually
from tests.smtp.dialog import BOB, CAROL, MIME, body_of, endpoint, envelope, job, nothing, run, verdict

PIPELINING, CHUNKING = Extension.PIPELINING, Extension.CHUNKING


def known() -> ServerTraits:
    return ServerTraits(took_group=True, took_chunks=True, goes_on=True)


chunked = pytest.mark.parametrize("chunking", [False, True], ids=["data", "bdat"])


async def opened(where: Endpoint, traits: ServerTraits) -> Connection:
    connection = await Connection.open(where)
    connection.traits = traits
    return connection


# --- a server of which nothing is known


def ask(
    server: ScriptedServer,
    traits: ServerTraits,
    doubted: Suspicion | None = None,
    *,
    within: float = 30.0,
    **more: Any,
) -> Transcript:
    """Carry one message over a new connection; an answer is awaited for so many seconds."""

    async def dialogue() -> Transcript:
        connection = await opened(endpoint(server, deadlines={"command": within, "data": within}), traits)
        transcript = await connection.transact(envelope(**more), nothing, doubted)
        await connection.quit()
        return transcript

    return run(dialogue())


@chunked
@pytest.mark.parametrize("way", list(Ahead), ids=lambda way: way.name)
def test_what_was_sent_ahead_is_asked_again_one_at_a_time(
    scripted: StartScripted, way: Ahead, chunking: bool
) -> None:
    server = scripted(ahead=way, chunking=chunking)
    lacks: list[Suspicion] = []
    traits = ServerTraits(on_lack=lacks.append)
    while True:
        first = ask(server, traits, within=1.5)
        if first.suspicion is None:
            break
        assert not first.dot_sent or (first.final is not None and not first.final.positive), "it is in doubt"
        assert server.messages == []
        again = ask(server, traits, first.suspicion)
        assert verdict(outcome_of(again, BOB)) == (Sent, None)
        assert again.suspicion is None
        server.connections.clear()
    assert verdict(outcome_of(first, BOB)) == (Sent, None)
    assert [each.extension for each in lacks][-1] is PIPELINING
    assert len(lacks) <= 2
    assert not traits.pipelining
    assert not traits.chunking


@pytest.mark.parametrize(
    "action",
    [Say("502 5.5.1 what?"), Say("554 5.5.1 no"), Drop(), Hang(), Garbage(), Say("354 go on")],
    ids=["502", "554", "drop", "hang", "garbage", "354"],
)
@pytest.mark.parametrize("extensions", [["CHUNKING", "PIPELINING"], ["CHUNKING"]], ids=" ".join)
def test_a_chunk_that_is_not_taken_leaves_no_doubt(
    scripted: StartScripted, action: Action, extensions: list[str]
) -> None:
    """The first chunk is not the last, so whatever the server does with it, the message is not sent."""
    server = scripted(extensions=extensions)
    server.on("BDAT", do=action)
    traits = ServerTraits()
    transcript = ask(server, traits, within=1.5)
    assert transcript.suspicion is not None
    assert transcript.suspicion.extension is CHUNKING
    assert not transcript.dot_sent
    assert verdict(outcome_of(ask(server, traits, transcript.suspicion), BOB)) == (Sent, None)
    assert (traits.pipelining, traits.chunking) == (True, False)
    assert verdict(outcome_of(ask(server, traits), BOB)) == (Sent, None)
    assert not any(each.chunked for each in server.messages)


def test_the_marks_of_a_message_that_is_asked_again(scripted: StartScripted) -> None:
    """There is none before the server has taken the envelope."""
    server = scripted(ahead=Ahead.REFUSE, chunking=True)
    marks = 0

    async def mark() -> None:
        nonlocal marks
        marks += 1

    async def dialogue() -> None:
        connection = await opened(endpoint(server), ServerTraits())
        with pytest.raises(NotBegun) as raised:
            await deliver(connection, job(), mark)
        assert raised.value.doubted is not None
        assert "503 5.5.0 Bad sequence" in str(raised.value)
        assert not connection.usable

    run(dialogue())
    assert marks == 0


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
def test_the_same_answer_to_one_command_at_a_time_is_believed(scripted: StartScripted, verb: str) -> None:
    server = scripted()
    server.on(verb, "554 5.7.1 spam")
    traits = ServerTraits()
    doubted = ask(server, traits).suspicion
    assert doubted is not None
    again = ask(server, traits, doubted)
    outcome = outcome_of(again, BOB)
    assert verdict(outcome) == (Failed, Blame.RECIPIENT if verb == "RCPT" else Blame.MESSAGE)
    assert traits.pipelining
    assert ask(server, traits).suspicion is None, "the next is not asked twice"


@pytest.mark.parametrize("code", [450, 451, 452, 550, 552, 553])
@pytest.mark.parametrize("verb", ["RCPT", "DATA", "DOT"])
def test_other_refusals_are_the_messages(scripted: StartScripted, verb: str, code: int) -> None:
    server = scripted()
    server.on(verb, f"{code} x.7.1 no")
    assert ask(server, ServerTraits()).suspicion is None


def test_a_server_that_has_taken_a_group_is_believed(scripted: StartScripted) -> None:
    server = scripted()
    traits = ServerTraits()
    ask(server, traits)
    server.on("RCPT", "554 5.7.1 no")
    assert ask(server, traits).suspicion is None
    server.clear()
    server.on("RCPT", "503 5.5.1 sequence")  # never right after a MAIL that was accepted
    assert ask(server, traits).suspicion is not None


def test_a_slow_server_takes_groups(scripted: StartScripted) -> None:
    """It is silent within the group, and as silent when asked one command at a time."""
    server = scripted()
    server.on("RCPT", do=Say(None, after=0.4))
    lacks: list[Suspicion] = []
    traits = ServerTraits(on_lack=lacks.append)
    with patch("postroom.smtp.suspicion.SILENCE_S", 0.2):
        doubted = ask(server, traits).suspicion
        assert doubted is not None
        assert ask(server, traits, doubted).final is not None
    assert lacks == []
    assert ask(server, traits).suspicion is None


def test_one_of_several_recipients_refused_for_the_group(scripted: StartScripted) -> None:
    """None is sent to before all are asked again: the message goes to all that are taken, once."""
    server = scripted()
    server.on("RCPT", "503 5.5.1 not now", match=CAROL, times=1)
    traits = ServerTraits()

    async def send(doubted: Suspicion | None) -> Transcript:
        connection = await opened(endpoint(server), traits)
        transcript = await connection.transact(envelope(BOB, CAROL), nothing, doubted)
        await connection.quit()
        return transcript

    doubted = run(send(None)).suspicion
    assert doubted is not None
    assert server.transactions == []
    run(send(doubted))
    assert [each.forward_paths for each in server.messages] == [[BOB, CAROL]]


@pytest.mark.parametrize("where", ["GREETING", "EHLO"])
def test_exim_gets_data(scripted: StartScripted, where: str) -> None:
    server = scripted(chunking=True)
    greeting = "220 mx.example ESMTP Exim 4.96 Fri, 27 Nov 2026 10:00:00 +0000"
    ehlo = "250-mx.example Exim 4.96\r\n250-PIPELINING\r\n250 CHUNKING"
    server.on(where, greeting if where == "GREETING" else ehlo)
    assert ask(server, ServerTraits()).final is not None
    assert not server.messages[0].chunked


# --- a message in one write


@pytest.fixture
def far() -> Iterator[None]:
    """Any server counts as far away, and a connection as in use."""
    with patch("postroom.smtp.client._FAR_S", 0.0), patch("postroom.smtp.client._IN_FLOW_S", 60.0):
        yield


pytestmark = pytest.mark.usefixtures("far")

Mark = Callable[[], Awaitable[None]]


def second(
    server: ScriptedServer,
    *paths: str,
    mark: Mark = nothing,
    mime: bytes = MIME,
    deadlines: dict[str, float] | None = None,
) -> tuple[Transcript, bool, ServerTraits]:
    """Carry a message over after another; return its transcript, and whether the connection is usable then."""

    async def dialogue() -> tuple[Transcript, bool, ServerTraits]:
        connection = await opened(endpoint(server, deadlines=deadlines), known())
        await connection.transact(envelope(), nothing)
        transcript = await connection.transact(envelope(*(paths or (BOB,)), mime=mime), mark)
        usable = connection.usable
        await connection.quit()
        return transcript, usable, connection.traits

    return run(dialogue())


def test_a_message_leaves_in_one_write_after_its_mark(scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    seen: list[bytes] = []

    async def mark() -> None:
        seen.append(server.plaintext)

    server.on("MAIL", do=Hang(), skip=1)

    async def dialogue() -> None:
        connection = await opened(endpoint(server), known())
        await connection.transact(envelope(), nothing)
        sending = asyncio.create_task(connection.transact(envelope(CAROL), mark))
        await asyncio.to_thread(
            eventually, lambda: server.plaintext.endswith(MIME) and CAROL.encode() in server.plaintext
        )
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    run(dialogue())
    [before] = seen
    assert CAROL.encode() not in before
    assert (
        server.plaintext[len(before) :]
        == (
            f"MAIL FROM:<alice@postroom.example> SIZE={len(MIME)}\r\nRCPT TO:<{CAROL}>\r\nBDAT {len(MIME)} LAST\r\n"
        ).encode()
        + MIME
    )


def test_messages_one_after_the_other(scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    server.on("RCPT", "550 5.1.1 unknown", match="refused")
    sizes = [10, 60_000, 70_000, 10, 300_000, 10, 10]
    bodies = [body_of(size) for size in sizes]

    async def dialogue() -> None:
        connection = await opened(endpoint(server), ServerTraits())
        for number, mime in enumerate(bodies):
            paths = ("refused@x.example",) if number == 5 else (BOB, "refused@x.example")
            transcript = await connection.transact(envelope(*paths, mime=mime), nothing)
            assert verdict(outcome_of(transcript, "refused@x.example")) == (Failed, Blame.RECIPIENT)
            assert number == 5 or verdict(outcome_of(transcript, BOB)) == (Sent, None)
            assert connection.usable
        await connection.quit()

    run(dialogue())
    assert [each.data for each in server.messages] == bodies[:5] + bodies[6:]
    assert len(server.connections) == 1


@pytest.mark.parametrize("lack", ["took_group", "took_chunks", "goes_on", "calm"])
def test_not_before_the_server_has_shown_the_rest(scripted: StartScripted, lack: str) -> None:
    server = scripted(chunking=True)
    marked_at: list[bytes] = []

    async def mark() -> None:
        marked_at.append(server.plaintext)

    async def dialogue() -> None:
        traits = known()
        connection = await opened(endpoint(server), traits)
        await connection.transact(envelope(), nothing)
        if lack == "calm":
            traits.broke_at = asyncio.get_running_loop().time()
        else:
            setattr(traits, lack, False)
        await connection.transact(envelope(CAROL), mark)
        await connection.quit()

    run(dialogue())
    assert CAROL.encode() in marked_at[0], "the envelope had left before the mark"


def test_not_to_a_server_that_is_near(scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    marked_at: list[bytes] = []

    async def mark() -> None:
        marked_at.append(server.plaintext)

    with patch("postroom.smtp.client._FAR_S", 60.0):
        second(server, CAROL, mark=mark)
    assert CAROL.encode() in marked_at[0]


@pytest.mark.parametrize(
    ("verb", "action", "expected"),
    [
        pytest.param("MAIL", Drop(), (InDoubt, None), id="MAIL drop"),
        pytest.param("MAIL", Reset(), (InDoubt, None), id="MAIL reset"),
        pytest.param("RCPT", Drop(), (InDoubt, None), id="RCPT drop"),
        pytest.param("RCPT", Garbage(), (InDoubt, None), id="RCPT garbage"),
        pytest.param("RCPT", Say("399 what"), (InDoubt, None), id="RCPT 399"),
        pytest.param("BDAT", Also("250 2.0.0 again"), (InDoubt, None), id="BDAT 250 too many"),
        pytest.param("BDAT", Drop(), (InDoubt, None), id="BDAT drop"),
        pytest.param("BDAT", Say("354 go on"), (InDoubt, None), id="BDAT 354"),
        pytest.param("BDAT", Say("451 4.3.0 later"), (Deferred, Blame.MESSAGE), id="BDAT 451"),
        pytest.param("BDAT", Say("552 5.3.4 too big"), (Failed, Blame.MESSAGE), id="BDAT 552"),
        pytest.param("BDAT", Say("421 4.3.2 closing"), (InDoubt, None), id="BDAT 421"),
        pytest.param("BDAT", Say("421 4.7.0 later"), (Deferred, Blame.CONNECTION), id="BDAT 421 4.7.0"),
        pytest.param("RCPT", Say("421 4.3.2 closing"), (Deferred, Blame.CONNECTION), id="RCPT 421"),
        pytest.param("RCPT", Say("550 5.1.1 unknown"), (Failed, Blame.RECIPIENT), id="RCPT 550"),
    ],
)
def test_what_may_go_wrong(
    scripted: StartScripted, verb: str, action: Action, expected: tuple[type, Blame | None]
) -> None:
    server = scripted(chunking=True)
    server.on(verb, do=action, skip=1)
    transcript, usable, traits = second(server, CAROL)
    outcome = outcome_of(transcript, CAROL)
    assert verdict(outcome) == expected
    assert transcript.suspicion is None
    assert usable == (isinstance(action, Say) and verdict(outcome)[1] in (Blame.MESSAGE, Blame.RECIPIENT))
    is_doubt = isinstance(outcome, InDoubt)
    is_break = is_doubt and (verb != "BDAT" or action == Drop())
    assert (traits.broke_at > 0) == is_break, "a break makes it cautious"


def test_a_sender_that_is_refused_leaves_no_doubt(scripted: StartScripted) -> None:
    """Whatever comes then: here the server leaves before it has answered all."""
    server = scripted(chunking=True)
    server.on("MAIL", "550 5.7.1 not you", skip=1)
    server.on("RCPT", do=Drop(), skip=1)
    transcript, usable, _ = second(server)
    assert not transcript.dot_sent
    assert not usable


def test_recipients_that_are_all_refused_leave_no_doubt(scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    server.on("RCPT", "550 5.1.1 unknown", skip=1)
    server.on("LINE", do=Drop(), match="BDAT", skip=2)
    transcript, _, _ = second(server)
    assert not transcript.dot_sent
    assert verdict(outcome_of(transcript, BOB)) == (Failed, Blame.RECIPIENT)


def test_a_server_that_says_that_it_leaves_has_not_begun(scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    server.on("MAIL", "421 4.7.0 Too many messages in this connection", skip=1)
    transcript, usable, _ = second(server)
    assert transcript.not_begun
    assert not usable


def test_a_server_that_left_while_the_mark_was_made_has_not_begun(scripted: StartScripted) -> None:
    server = scripted(chunking=True)

    async def dialogue() -> None:
        connection = await opened(endpoint(server), known())
        await connection.transact(envelope(), nothing)

        async def mark() -> None:
            connection._wire.abort()

        transcript = await connection.transact(envelope(CAROL), mark)
        assert transcript.not_begun
        assert not transcript.dot_sent

    run(dialogue())
    assert CAROL not in server.plaintext.decode()


def test_an_acceptance_after_a_refused_sender_is_trusted_by_nobody(scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    server.on("MAIL", "550 5.7.1 not you", skip=1)
    server.on("RCPT", "250 but I take these", skip=1)
    server.on("LINE", "250 2.0.0 taken", match="BDAT", skip=1)
    transcript, usable, _ = second(server, mime=b"x: y\r\n")
    assert transcript.dot_sent
    assert transcript.final is None
    assert not usable


# --- a connection that has done enough


@pytest.mark.parametrize(
    "text",
    ["452 4.5.3 Too many recipients: Too many messages sent", "451 4.7.0 enough", "550 5.7.0 enough"],
    ids=lambda text: text[:3],
)
@chunked
def test_a_refusal_of_mail_after_other_messages_is_the_connections(
    scripted: StartScripted, text: str, chunking: bool
) -> None:
    server = scripted(chunking=chunking)
    server.on("MAIL", text, skip=1)

    async def dialogue() -> None:
        connection = await opened(endpoint(server), known())
        await deliver(connection, job(), nothing)
        with pytest.raises(NotBegun) as raised:
            await deliver(connection, job(), nothing)
        assert text in str(raised.value)
        assert raised.value.doubted is None
        await connection.quit()

    run(dialogue())
    assert server.verbs[-1] == "QUIT"


def test_a_refusal_of_mail_on_a_connection_that_has_carried_nothing_is_not(scripted: StartScripted) -> None:
    server = scripted()
    server.on("MAIL", "550 5.7.1 not you")

    async def dialogue() -> None:
        connection = await opened(endpoint(server), known())
        for _ in range(3):
            [outcome] = (await deliver(connection, job(), nothing)).values()
            assert isinstance(outcome, Failed)
        await connection.quit()

    run(dialogue())
    assert len(server.connections) == 1
