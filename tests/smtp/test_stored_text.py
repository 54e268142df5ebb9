"""A text that is read from the database while it is sent: the same octets as one in memory, and never all of it."""

from __future__ import annotations

import random
from zlib import crc32

import pytest

from postroom.core.errors import ContentDamaged, StoreUnavailable
from postroom.core.outcome import Blame, Failed, Outcome, Sent
from postroom.core.stored_text import StoredText
from postroom.smtp.client import Connection
from postroom.smtp.deliver import deliver
from postroom.smtp.stream import Wire
from postroom.smtp.transcript import ServerTraits
from tests.conftest import StartScripted
from tests.servers.scripted import ScriptedServer
from tests.smtp.dialog import BOB, endpoint, job, run

KNOWN = ServerTraits(took_group=True, took_chunks=True)

ways = pytest.mark.parametrize(
    ("chunking", "pipelining", "known"),
    [
        (False, True, True),
        (False, False, False),
        (True, True, True),
        (True, True, False),
        (True, False, False),
    ],
    ids=["DATA", "DATA one by one", "BDAT", "BDAT to a new server", "BDAT one by one"],
)


def text_of(size: int, seed: int = 1) -> bytes:
    """Return lines that begin with dots, of so many octets or a few more."""
    chance, lines, length = random.Random(seed), [], 0
    while length < size:
        line = chance.choice([b"", b".", b"..", b"a", b".b" * 30, b"c" * 900]) + b"\r\n"
        lines.append(line)
        length += len(line)
    return b"".join(lines)


class Stored:
    """Pieces in a database, read one by one; `reads` are the numbers asked for."""

    def __init__(self, pieces: list[bytes], checksum: int | None = None) -> None:
        self.pieces = pieces
        self.reads: list[int] = []
        whole = b"".join(pieces)
        self.text = StoredText(len(whole), crc32(whole) if checksum is None else checksum, self.read)

    async def read(self, number: int) -> bytes:
        self.reads.append(number)
        return self.pieces[number] if number < len(self.pieces) else b""


def in_pieces(text: bytes, size: int) -> list[bytes]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def sent(
    server: ScriptedServer,
    text: StoredText,
    *,
    pipelining: bool = True,
    known: bool = True,
) -> tuple[Outcome, bool, int]:
    """Deliver a job with this text; return its outcome, whether the connection was usable then, and the marks made."""
    marks = 0

    async def note() -> None:
        nonlocal marks
        marks += 1

    async def dialogue() -> tuple[Outcome, bool]:
        connection = await Connection.open(endpoint(server, pipelining=pipelining))
        connection.traits = KNOWN if known else ServerTraits()
        try:
            outcomes = await deliver(connection, job([BOB], b""), note, text=text)
            usable = connection.usable
        finally:
            await connection.quit()
        [outcome] = outcomes.values()
        return outcome, usable

    return (*run(dialogue()), marks)


@ways
@pytest.mark.parametrize("piece", [65_537, 100_000, 262_144])
def test_what_arrives_is_what_was_accepted(
    scripted: StartScripted, chunking: bool, pipelining: bool, known: bool, piece: int
) -> None:
    server, text = scripted(chunking=chunking), text_of(600_000)
    stored = Stored(in_pieces(text, piece))
    outcome, usable, marks = sent(server, stored.text, pipelining=pipelining, known=known)
    assert (type(outcome), usable, marks) == (Sent, True, 1)
    assert server.messages[0].data == text
    assert stored.reads == list(range(len(stored.pieces)))


@pytest.mark.parametrize("at", range(1, 8))
def test_no_cut_of_a_piece_changes_the_text(scripted: StartScripted, at: int) -> None:
    """The first piece ends before, within and behind a CRLF with a dot behind it."""
    line = b"ab\r\n.c\r\n"
    text = line * 20_000
    stored = Stored([text[: 80_000 + at], text[80_000 + at :]])
    server = scripted()
    outcome, *_ = sent(server, stored.text)
    assert isinstance(outcome, Sent)
    assert server.messages[0].data == text


@ways
@pytest.mark.parametrize("fault", ["altered", "missing", "too long", "none at all"])
def test_what_was_altered_goes_to_nobody(
    scripted: StartScripted, chunking: bool, pipelining: bool, known: bool, fault: str
) -> None:
    text = text_of(300_000)
    stored = Stored(in_pieces(text, 100_000))
    match fault:
        case "altered":
            stored.pieces[-1] = stored.pieces[-1][:-3] + b"x\r\n"
        case "missing":
            del stored.pieces[1]
        case "too long":
            stored.pieces[-1] += b"x\r\n"
        case _:
            stored.pieces.clear()
    server = scripted(chunking=chunking)
    outcome, usable, marks = sent(server, stored.text, pipelining=pipelining, known=known)
    assert isinstance(outcome, Failed)
    assert (outcome.blame, usable, marks) == (Blame.MESSAGE, False, 0)
    assert "not what was accepted" in outcome.reason
    assert server.transactions == []


@ways
def test_a_database_that_is_away_ends_the_connection_before_the_dot(
    scripted: StartScripted, chunking: bool, pipelining: bool, known: bool
) -> None:
    stored = Stored(in_pieces(text_of(300_000), 100_000))

    async def read(number: int) -> bytes:
        if number == 2:
            raise StoreUnavailable("away")
        return stored.pieces[number]

    text = StoredText(len(stored.text), None, read)
    server = scripted(chunking=chunking)
    with pytest.raises(StoreUnavailable, match="away"):
        sent(server, text, pipelining=pipelining, known=known)
    assert server.transactions == []


def test_one_piece_is_in_memory_at_a_time(scripted: StartScripted, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, written, most_ahead = Stored(in_pieces(text_of(3_000_000), 100_000)), 0, 0
    write, read = Wire.write, stored.read

    async def noted(wire: Wire, data: bytes, verb: str, seconds: float) -> None:
        nonlocal written
        await write(wire, data, verb, seconds)
        written += len(data) if verb == "DATA" else 0

    async def watched(number: int) -> bytes:
        nonlocal most_ahead
        octets = await read(number)
        most_ahead = max(most_ahead, 100_000 * (number + 1) - written)
        return octets

    monkeypatch.setattr(Wire, "write", noted)
    outcome, *_ = sent(scripted(), StoredText(len(stored.text), None, watched))
    assert isinstance(outcome, Sent)
    assert most_ahead < 300_000, "the piece that was read, and what is held back for the end"


def test_the_checksum_is_looked_at_before_the_last_piece_is_given() -> None:
    stored = Stored([b"a", b"b", b"c"], checksum=4711)
    given: list[bytes] = []

    async def into_a_list() -> None:
        async for piece in stored.text.pieces():
            given.append(piece)  # noqa: PERF401  # those before the fault count

    with pytest.raises(ContentDamaged):
        run(into_a_list())
    assert given == [b"a", b"b"]
