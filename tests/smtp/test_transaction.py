"""One mail transaction after another over one connection, going well and going wrong."""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroom.core.account import Security
from postroom.core.errors import FaultKind, LeaseLost
from postroom.core.outcome import Blame, Deferred, Failed, InDoubt, Reply, Sent
from postroom.mime.message import gate
from postroom.smtp.deliver import deliver, outcome_of
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.pieces import dot_stuff
from postroom.smtp.transcript import Envelope, Transcript
from tests.conftest import StartScripted
from tests.servers.scripted import Action, Also, Drop, HalfClose, Hang, Late, Reset, ScriptedServer
from tests.servers.scripted import Reply as Say
from tests.servers.waiting import eventually
from tests.smtp.dialog import (
    BOB,
    CAROL,
    DAVE,
    MIME,
    USER,
    body_of,
    endpoint,
    envelope,
    job,
    nothing,
    opened,
    run,
    verdict,
)
from tests.smtp.test_verbs import LONG, short_for

PIPELINED = ["PIPELINING", "8BITMIME", "SIZE 40000000", "SMTPUTF8"]
ONE_BY_ONE = ["8BITMIME", "SIZE 40000000", "SMTPUTF8"]

both_ways = pytest.mark.parametrize("extensions", [PIPELINED, ONE_BY_ONE], ids=["pipelined", "one-by-one"])


class Mailed:
    """A transcript, and whether the connection could be used again right after it."""

    def __init__(self, transcript: Transcript, usable: bool) -> None:
        self.transcript = transcript
        self.usable = usable

    def outcome(self, forward_path: str = BOB) -> tuple[type, Blame | None]:
        return verdict(outcome_of(self.transcript, forward_path))


def mail(
    where: Endpoint, *envelopes: Envelope, before_dot: Callable[[], Awaitable[None]] = nothing
) -> list[Mailed]:
    """Carry these over one connection; `usable` is asked without giving the loop a chance to notice anything."""

    async def dialogue() -> list[Mailed]:
        connection = await opened(where)
        mailed = []
        for each in envelopes:
            transcript = await connection.transact(each, before_dot)
            mailed.append(Mailed(transcript, connection.usable))
        await connection.quit()
        return mailed

    return run(dialogue())


# --- the good ways


@both_ways
def test_a_mail_arrives(scripted: StartScripted, extensions: list[str]) -> None:
    server = scripted(extensions=extensions)
    [mailed] = mail(endpoint(server), envelope(BOB, CAROL))
    assert mailed.usable
    assert mailed.transcript.final == Reply(250, "queued as 1", "2.0.0")
    assert mailed.transcript.dot_sent
    assert [mailed.outcome(path) for path in (BOB, CAROL)] == [(Sent, None), (Sent, None)]
    [message] = server.messages
    assert (message.reverse_path, message.forward_paths, message.data) == (USER, [BOB, CAROL], MIME)
    assert server.verbs == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]


@both_ways
def test_commands_are_pipelined_only_where_that_is_offered(
    scripted: StartScripted, extensions: list[str]
) -> None:
    server = scripted(extensions=extensions)
    server.on("MAIL", do=Hang())
    mail(endpoint(server, deadlines={"command": 2.0}), envelope())
    assert (b"\r\nRCPT TO:<" in server.plaintext) == (extensions is PIPELINED)
    assert (b"\r\nDATA\r\n" in server.plaintext) == (extensions is PIPELINED)


@pytest.mark.parametrize("code", [200, 250, 251, 252, 299])
def test_any_2xx_after_the_dot_counts(scripted: StartScripted, code: int) -> None:
    server = scripted()
    server.on("DOT", f"{code} taken")
    [mailed] = mail(endpoint(server), envelope())
    assert mailed.outcome() == (Sent, None)
    assert mailed.transcript.final == Reply(code, "taken")
    assert mailed.usable


def test_parameters_of_mail(scripted: StartScripted) -> None:
    server = scripted()
    mail(endpoint(server), envelope(), envelope("jürgen@example.net", smtputf8=True))
    mails = [command for command in server.commands if command.startswith("MAIL")]
    assert mails == [
        f"MAIL FROM:<{USER}> SIZE={len(MIME)}",
        f"MAIL FROM:<{USER}> SIZE={len(MIME)} SMTPUTF8 BODY=8BITMIME",
    ]
    assert [message.forward_paths for message in server.messages] == [[BOB], ["jürgen@example.net"]]


def test_no_parameters_where_none_are_offered(scripted: StartScripted) -> None:
    server = scripted(extensions=["HELP"])
    mail(endpoint(server), envelope())
    assert server.commands[1] == f"MAIL FROM:<{USER}>"


def test_fifty_mails_over_one_connection_each_with_its_own_replies(scripted: StartScripted) -> None:
    server = scripted()
    for number in range(50):
        server.on("RCPT", f"550 5.1.1 not {number}", match=f"<refused-{number}@")
    envelopes = [envelope(f"refused-{n}@x.example", f"taken-{n}@x.example") for n in range(50)]
    for number, mailed in enumerate(mail(endpoint(server), *envelopes)):
        transcript = mailed.transcript
        assert transcript.rcpt[f"refused-{number}@x.example"].text == f"not {number}"
        assert transcript.final == Reply(250, f"queued as {number + 1}", "2.0.0")
        assert mailed.usable
    assert len(server.connections) == 1
    assert [message.forward_paths for message in server.messages] == [
        [f"taken-{n}@x.example"] for n in range(50)
    ]


def test_deliver_gives_each_recipient_an_outcome(scripted: StartScripted) -> None:
    server = scripted()
    server.on("RCPT", "550 5.1.1 unknown", match=CAROL)
    server.on("RCPT", "452 4.5.3 too many", match=DAVE)

    async def dialogue() -> None:
        connection = await opened(endpoint(server))
        outcomes = await deliver(connection, job((BOB, CAROL, DAVE)), nothing)
        assert {id_: verdict(outcome) for id_, outcome in outcomes.items()} == {
            0: (Sent, None),
            1: (Failed, Blame.RECIPIENT),
            2: (Deferred, Blame.RECIPIENT),
        }
        await connection.quit()

    run(dialogue())


# --- dots


@pytest.fixture(scope="module")
def plain() -> Iterator[ScriptedServer]:
    """One server for all of hypothesis' examples."""
    with ScriptedServer() as server:
        yield server


lines = st.text(alphabet=".ab \t=", max_size=12) | st.sampled_from(
    [".", "..", "...", "", ". ", "QUIT", ".\t"]
)
bodies = st.lists(lines, min_size=1, max_size=20).map(lambda text: "\r\n".join([*text, ""]).encode())


@given(st.lists(bodies, min_size=1, max_size=5))
@example([b".\r\n", b"..\r\n", b"\r\n.\r\n", b"\r\n.\r\n.\r\n"])
@example([b"a\r\n.\r\nMAIL FROM:<mallory@example.net>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n"])
def test_what_arrives_is_what_was_given(plain: ScriptedServer, mimes: list[bytes]) -> None:
    """RFC 5321 §4.5.2, and no line of a mail ever ends it (SMTP smuggling)."""
    seen = len(plain.transactions)
    for each in mimes:
        gate(each, smtputf8=False)
    mailed = mail(endpoint(plain), *[envelope(mime=each) for each in mimes])
    assert all(one.outcome() == (Sent, None) and one.usable for one in mailed)
    came = plain.transactions[seen:]
    assert [message.data for message in came] == mimes
    assert [message.wire for message in came] == [dot_stuff(each) + b".\r\n" for each in mimes]
    assert all(message.wire.count(b"\r\n.\r\n") <= 1 for message in came)


# --- size


def test_five_megabytes_to_a_reader_that_pauses(scripted: StartScripted) -> None:
    server = scripted()
    server.on("BODY", do=Say("", after=0.4), at=500_000)
    mime = body_of(5_000_000)
    [mailed] = mail(endpoint(server, deadlines={"block": 5.0}), envelope(mime=mime))
    assert mailed.outcome() == (Sent, None)
    assert server.messages[0].data == mime


def test_a_reader_that_stops_is_given_up_at_the_deadline_for_a_block(scripted: StartScripted) -> None:
    """A zero window: nothing leaves us any more."""
    server = scripted()
    server.on("DATA", do=Hang(None, read=False))
    deadlines = {"block": 0.3, "data": 50.0, "dot": 50.0}
    [mailed] = mail(endpoint(server, deadlines=deadlines), envelope(mime=body_of(16_000_000)))
    took = time.monotonic() - server.acted_at[0]
    assert took < 40.0, f"it was given up after {took:.1f} s: another deadline was waited for"
    assert mailed.transcript.fault is not None
    assert mailed.transcript.fault.kind is FaultKind.TIMEOUT
    assert not mailed.transcript.dot_sent
    assert mailed.outcome() == (Deferred, Blame.CONNECTION)
    assert not mailed.usable


def shortcoming(server: ScriptedServer, asked: Envelope) -> str | None:
    async def dialogue() -> str | None:
        connection = await opened(endpoint(server))
        await connection.quit()
        return connection.shortcoming(asked)

    return run(dialogue())


@pytest.mark.parametrize(
    ("offer", "fits"),
    [
        (f"SIZE {len(MIME)}", True),
        (f"SIZE {len(MIME) - 1}", False),
        (f"size {len(MIME) - 1}", False),
        ("SIZE 0", True),
        ("SIZE", True),
        ("SIZE lots", True),
        ("SIZE ²", True),
        ("SIZE ٣", True),
        (f"SIZE {'1' * 5_000}", True),
    ],
)
def test_the_servers_limit_of_size(scripted: StartScripted, offer: str, fits: bool) -> None:
    lack = shortcoming(scripted(extensions=[offer]), envelope())
    assert (lack is None) == fits
    assert fits or "bytes" in str(lack)


def test_a_server_without_smtputf8(scripted: StartScripted) -> None:
    server = scripted(extensions=["8BITMIME"])
    assert shortcoming(server, envelope()) is None
    assert "SMTPUTF8" in str(shortcoming(server, envelope(smtputf8=True)))


def test_a_shortcoming_fails_the_message_before_anything_is_said(scripted: StartScripted) -> None:
    server = scripted(extensions=["SIZE 10"])

    async def dialogue() -> None:
        connection = await opened(endpoint(server))
        outcomes = await deliver(connection, job((BOB, CAROL)), nothing)
        assert [verdict(outcome) for outcome in outcomes.values()] == [(Failed, Blame.MESSAGE)] * 2
        assert connection.usable
        await connection.quit()

    run(dialogue())
    assert server.verbs == ["EHLO", "QUIT"]


# --- refusals


@both_ways
def test_some_recipients_refused(scripted: StartScripted, extensions: list[str]) -> None:
    server = scripted(extensions=extensions)
    server.on("RCPT", "450 4.2.1 too fast", match=BOB)
    server.on("RCPT", "550 5.1.1 unknown", match=DAVE)
    [mailed] = mail(endpoint(server), envelope(BOB, CAROL, DAVE))
    assert mailed.transcript.rcpt == {
        BOB: Reply(450, "too fast", "4.2.1"),
        CAROL: Reply(250, "Recipient OK", "2.1.5"),
        DAVE: Reply(550, "unknown", "5.1.1"),
    }
    assert mailed.outcome(BOB) == (Deferred, Blame.RECIPIENT)
    assert mailed.outcome(CAROL) == (Sent, None)
    assert mailed.outcome(DAVE) == (Failed, Blame.RECIPIENT)
    assert server.messages[0].forward_paths == [CAROL]
    assert mailed.usable


@pytest.mark.parametrize(
    ("extensions", "data"),
    [(ONE_BY_ONE, None), (PIPELINED, None), (PIPELINED, "354 go on all the same")],
)
def test_all_recipients_refused_and_the_connection_goes_on(
    scripted: StartScripted, extensions: list[str], data: str | None
) -> None:
    server = scripted(extensions=extensions)
    server.on("RCPT", "550 5.1.1 unknown", times=2)
    if data:
        server.on("DATA", data, times=1)
        server.on("DOT", "554 5.5.1 no valid recipients", times=1)
    first, second = mail(endpoint(server), envelope(BOB, CAROL), envelope(DAVE))
    assert [first.outcome(path) for path in (BOB, CAROL)] == [(Failed, Blame.RECIPIENT)] * 2
    assert not first.transcript.dot_sent
    assert first.usable
    assert second.outcome(DAVE) == (Sent, None)
    assert len(server.connections) == 1
    assert [message.forward_paths for message in server.messages] == [[DAVE]]
    assert ("RSET" in server.verbs) == (data is None)


def test_an_empty_mail_that_ends_a_transaction_may_close_the_connection(scripted: StartScripted) -> None:
    server = scripted()
    server.on("RCPT", "550 5.1.1 unknown")
    server.on("DATA", "354 go on all the same")
    server.on("DOT", "421 4.7.0 enough")
    [mailed] = mail(endpoint(server), envelope())
    assert mailed.outcome() == (Failed, Blame.RECIPIENT)
    assert not mailed.usable


@both_ways
@pytest.mark.parametrize(
    ("text", "expected"),
    [("550 5.7.1 not you", (Failed, Blame.MESSAGE)), ("451 4.3.0 later", (Deferred, Blame.MESSAGE))],
)
@pytest.mark.parametrize("verb", ["MAIL", "DATA", "DOT"])
def test_a_message_refused(
    scripted: StartScripted,
    extensions: list[str],
    verb: str,
    text: str,
    expected: tuple[type, Blame],
) -> None:
    server = scripted(extensions=extensions)
    server.on(verb, text, times=1)
    first, second = mail(endpoint(server), envelope(BOB, CAROL), envelope(DAVE))
    if verb == "MAIL" and text.startswith("4"):
        expected = (Deferred, Blame.ACCOUNT)  # before any message: it takes nothing from this account
    assert [first.outcome(path) for path in (BOB, CAROL)] == [expected] * 2
    assert first.usable
    assert second.outcome(DAVE) == (Sent, None)
    assert len(server.messages) == len(server.connections) == 1


@pytest.mark.parametrize("reset", ["500 what", "421 bye", "250 OK"])
def test_data_refused_and_what_comes_of_rset_is_not_the_messages_fault(
    scripted: StartScripted, reset: str
) -> None:
    server = scripted()
    server.on("DATA", "554 5.7.1 spam")
    server.on("RSET", reset)
    [mailed] = mail(endpoint(server), envelope())
    assert mailed.outcome() == (Failed, Blame.MESSAGE)
    assert mailed.usable == (reset == "250 OK")


def test_recipients_taken_although_mail_was_refused(scripted: StartScripted) -> None:
    """No mail goes out, not even an empty one, and the connection is not to be trusted."""
    server = scripted()
    server.on("MAIL", "550 5.7.1 not you")
    server.on("RCPT", "250 but I take these")
    server.on("DATA", "354 and the text")
    [mailed] = mail(endpoint(server), envelope())
    assert not isinstance(mailed.outcome()[0], Sent)
    assert not mailed.usable
    eventually(lambda: server.open_connections == 0)
    assert server.transactions == []


@both_ways
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
def test_421_ends_the_connection_at_any_verb(
    scripted: StartScripted, extensions: list[str], verb: str
) -> None:
    server = scripted(extensions=extensions)
    server.on(verb, "421 4.3.2 closing")
    [mailed] = mail(endpoint(server), envelope())
    assert mailed.outcome() == ((InDoubt, None) if verb == "DOT" else (Deferred, Blame.CONNECTION))
    assert not mailed.usable
    assert server.messages == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("421 4.3.2 mail.postroom.example Shutting down", (InDoubt, None)),
        ("421 closing", (InDoubt, None)),
        ("421 4.4.2 time-out", (InDoubt, None)),
        ("451 4.4.2 lost connection with the next server", (InDoubt, None)),
        ("421 4.7.0 Try again later", (Deferred, Blame.CONNECTION)),
        ("421 4.7.28 an unusual rate of unsolicited mail", (Deferred, Blame.ACCOUNT)),
        ("421 4.3.2 Too many messages from you, slow down", (Deferred, Blame.ACCOUNT)),
        ("451 4.3.0 queue file write error", (Deferred, Blame.MESSAGE)),
        ("550 5.4.2 no", (Failed, Blame.MESSAGE)),
    ],
)
def test_a_farewell_at_the_dot_leaves_the_message_in_doubt(
    scripted: StartScripted, text: str, expected: tuple[type, Blame | None]
) -> None:
    """As Dovecot's submission service says it when it is stopped: the server behind it may have the message."""
    server = scripted()
    server.on("DOT", text)
    [mailed] = mail(endpoint(server), envelope())
    assert mailed.outcome() == expected


# --- before the dot


class Mark:
    """Stands for the worker's mark in the database before the dot."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [LeaseLost(), RuntimeError("a bug"), KeyboardInterrupt()])
def test_without_the_mark_the_server_never_sees_the_dot(
    scripted: StartScripted, error: BaseException
) -> None:
    server = scripted()

    async def dialogue() -> None:
        connection = await opened(endpoint(server))
        with pytest.raises(type(error)) as raised:
            await connection.transact(envelope(), Mark(error))
        assert raised.value is error
        assert not connection.usable
        await connection.quit()

    run(dialogue())
    eventually(lambda: server.open_connections == 0)
    assert server.transactions == []
    assert b"\r\n.\r\n" not in server.plaintext


def test_the_mark_comes_after_the_body_and_before_the_dot(scripted: StartScripted) -> None:
    server = scripted()
    marks = 0

    async def mark() -> None:
        nonlocal marks
        marks += 1
        assert server.transactions == []
        assert b"\r\n.\r\n" not in server.plaintext

    [mailed] = mail(endpoint(server), envelope(), before_dot=mark)
    assert mailed.outcome() == (Sent, None)
    assert marks == 1


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("text", ["550 5.0.0 no", "450 4.0.0 no", "421 4.0.0 no", "399 what"])
def test_there_is_no_mark_where_there_is_no_dot(scripted: StartScripted, verb: str, text: str) -> None:
    server = scripted()
    server.on(verb, text)
    mark = Mark()
    mail(endpoint(server), envelope(), before_dot=mark)
    assert mark.calls == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("552 5.3.4 too large", (Failed, Blame.MESSAGE)),
        ("452 4.3.1 disk full", (Deferred, Blame.MESSAGE)),
        ("421 4.3.2 closing", (Deferred, Blame.CONNECTION)),
        ("250 2.0.0 taken", (Deferred, Blame.CONNECTION)),
        ("354 go on", (Deferred, Blame.CONNECTION)),
    ],
)
def test_a_reply_before_the_dot(scripted: StartScripted, text: str, expected: tuple[type, Blame]) -> None:
    server = scripted()
    server.on("BODY", text, at=100_000)
    mark = Mark()
    [mailed] = mail(endpoint(server), envelope(mime=body_of(16_000_000)), before_dot=mark)
    assert mailed.outcome() == expected
    assert not mailed.transcript.dot_sent
    assert not mailed.usable
    assert mark.calls == 0
    assert server.transactions == []


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Say("552 5.3.4 too large"), (Failed, Blame.MESSAGE)),
        (Say("250 2.0.0 taken"), (Deferred, Blame.CONNECTION)),
        (Drop(), (Deferred, Blame.CONNECTION)),
        (Drop("421 4.3.2 closing"), (Deferred, Blame.CONNECTION)),
    ],
)
def test_a_reply_while_the_mark_is_made(
    scripted: StartScripted, action: Action, expected: tuple[type, Blame]
) -> None:
    """The commit takes a while, and of the text only the beginning has left: there is no doubt about it."""
    server = scripted()
    server.on("BODY", do=action)

    async def dialogue() -> None:
        connection = await opened(endpoint(server))

        async def mark() -> None:
            await connection._wire._wait("DATA", 5)

        transcript = await connection.transact(envelope(mime=body_of(100_000)), mark)
        assert verdict(outcome_of(transcript, BOB)) == expected
        assert not transcript.dot_sent
        assert not connection.usable
        await connection.quit()

    run(dialogue())
    eventually(lambda: server.open_connections == 0)
    assert server.transactions == []


@both_ways
@pytest.mark.parametrize("action", [Drop(), Reset(), HalfClose()])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_a_server_that_goes_before_the_dot(
    scripted: StartScripted, extensions: list[str], verb: str, action: Action
) -> None:
    server = scripted(extensions=extensions)
    server.on(verb, do=action)
    [mailed] = mail(endpoint(server), envelope())
    assert mailed.outcome() == (Deferred, Blame.CONNECTION)
    assert not mailed.transcript.dot_sent
    assert not mailed.usable


def test_a_server_that_goes_in_mid_body_leaves_no_doubt(
    scripted: StartScripted, client_tls: ssl.SSLContext
) -> None:
    """A TLS transport swallows what is written after the end; the dot must not count as sent."""
    server = scripted(tls=True)
    server.on("BODY", do=Drop(), at=1)
    where = endpoint(server, Security.STARTTLS, client_tls)
    for _ in range(8):
        [mailed] = mail(where, envelope(mime=body_of(12_000_000)))
        assert not mailed.transcript.dot_sent
        assert mailed.outcome() == (Deferred, Blame.CONNECTION)


# --- in doubt


@pytest.mark.parametrize("action", [Drop(), Reset(), HalfClose(), Drop(b"250 2.0.0 que"), Say("354 go on")])
def test_a_server_that_goes_after_the_dot(scripted: StartScripted, action: Action) -> None:
    server = scripted()
    server.on("RCPT", "550 5.1.1 unknown", match=CAROL)
    server.on("DOT", do=action)
    [mailed] = mail(endpoint(server), envelope(BOB, CAROL))
    assert mailed.transcript.dot_sent
    assert mailed.transcript.final is None
    assert mailed.outcome(BOB) == (InDoubt, None)
    assert mailed.outcome(CAROL) == (Failed, Blame.RECIPIENT)
    assert not mailed.usable


def test_the_reason_of_a_doubt_is_printable(scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", "399 what\x1b[2J\x07 \u2028 now")
    [mailed] = mail(endpoint(server), envelope())
    outcome = outcome_of(mailed.transcript, BOB)
    assert isinstance(outcome, InDoubt)
    assert outcome.reason.isprintable()
    assert "399 what" in outcome.reason


@pytest.mark.parametrize("verb", ["MAIL", "DATA", "DOT"])
def test_a_late_reply_never_reaches_the_next_message(scripted: StartScripted, verb: str) -> None:
    server = scripted()
    server.on(verb, do=Late(1.5), times=1)
    where = endpoint(server, deadlines=LONG)
    with short_for(verb):
        late, dead = mail(where, envelope(BOB), envelope(CAROL))
    assert late.transcript.fault is not None
    assert late.transcript.fault.kind is FaultKind.TIMEOUT
    assert late.outcome() == ((InDoubt, None) if verb == "DOT" else (Deferred, Blame.CONNECTION))
    assert not late.usable
    assert dead.outcome(CAROL) == (Deferred, Blame.CONNECTION)
    assert dead.transcript.mail is None
    eventually(lambda: server.open_connections == 0)
    [fresh] = mail(where, envelope(DAVE))
    assert fresh.outcome(DAVE) == (Sent, None)
    assert CAROL not in "".join(server.commands)


# --- replies that nobody asked for


@pytest.mark.parametrize("extra", ["250 2.0.0 again", "421 4.4.2 idle too long", "550 5.0.0 no", b"25"])
def test_a_reply_between_transactions(scripted: StartScripted, extra: str | bytes) -> None:
    server = scripted()
    server.on("DOT", do=Also(extra), times=1)
    first, second = mail(endpoint(server, deadlines={"command": 2.0}), envelope(BOB), envelope(CAROL))
    assert first.outcome() == (Sent, None)
    assert not first.usable
    assert second.outcome(CAROL) == (Deferred, Blame.CONNECTION)
    assert CAROL not in "".join(server.commands)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
@pytest.mark.parametrize("extra", ["250 2.0.0 again", "550 5.0.0 no", "450 4.0.0 no", "354 go on"])
def test_a_reply_too_many_within_a_transaction_decides_nothing(
    scripted: StartScripted, verb: str, extra: str
) -> None:
    """From there on every reply may belong to another command: no recipient fails by it, none is sent to."""
    server = scripted(extensions=ONE_BY_ONE)
    server.on(verb, do=Also(extra))
    mailed = mail(endpoint(server), envelope(BOB, CAROL))[0]
    assert [mailed.outcome(path) for path in (BOB, CAROL)] == [(Deferred, Blame.CONNECTION)] * 2
    assert not mailed.usable
    assert server.transactions == []


@pytest.mark.parametrize("extra", ["550 5.0.0 no", "450 4.0.0 no", "250 2.0.0 again"])
def test_a_reply_too_many_in_a_pipeline_decides_nothing(scripted: StartScripted, extra: str) -> None:
    server = scripted()
    server.on("MAIL", do=Also(extra))
    [mailed] = mail(endpoint(server), envelope(BOB, CAROL))
    assert [mailed.outcome(path) for path in (BOB, CAROL)] == [(Deferred, Blame.CONNECTION)] * 2
    assert not mailed.usable
    assert server.transactions == []
