"""Every verb × every misbehaviour against the table of docs/design.md §5.

In each cell only the deadline of the verb in question is short. What must hold in all of them: no exception but
SMTPFault, an end that waits for no other deadline, doubt only where the dot has gone out, no message taken by
the server that we do not call sent or in doubt, no use of a connection after anything but a plain reply, and of a reply
that does not end no more than 5 MB kept.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias
from unittest.mock import patch

import pytest

from postroom.core.account import Security
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.job import ClaimedJob
from postroom.core.outcome import Blame, Deferred, Failed, InDoubt, Outcome, Sent
from postroom.core.outcome import Reply as Answer
from postroom.smtp.client import Connection
from postroom.smtp.content import Mark
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.stream import Wire
from tests.conftest import StartScripted
from tests.servers.scripted import (
    PRECEDES,
    Action,
    Also,
    Drip,
    Drop,
    Endless,
    Garbage,
    Hang,
    Held,
    Reply,
    ScriptedServer,
)
from tests.servers.waiting import eventually
from tests.smtp.dialog import BOB, PASSWORD, attempt, body_of, endpoint, job, nothing, run, verdict
from tests.soak import sample

Verdict: TypeAlias = tuple[type[Outcome], Blame | None]

SHORT = 0.3
# Long, and each another, so that a wrong one is found out. `SOON` is before any of them.
LONG = {
    "connect": 75.0,
    "greeting": 10.0,  # the client's own first one; a longer one it does not take
    "command": 55.0,
    "data": 60.0,
    "block": 65.0,
    "dot": 70.0,
    "quit": 80.0,
}
SOON = 40.0
MOST_MEMORY = 5_000_000

SENT: Verdict = (Sent, None)
IN_DOUBT: Verdict = (InDoubt, None)
CONNECTION: Verdict = (Deferred, Blame.CONNECTION)
ACCOUNT: Verdict = (Failed, Blame.ACCOUNT)
LATER: Verdict = (Deferred, Blame.MESSAGE)
NEVER: Verdict = (Failed, Blame.MESSAGE)
RECIPIENT_LATER: Verdict = (Deferred, Blame.RECIPIENT)
RECIPIENT_NEVER: Verdict = (Failed, Blame.RECIPIENT)

MISBEHAVIOURS: dict[str, Action] = {
    "hang": Hang(),
    "drop": Drop(),
    "421": Reply("421 4.3.2 closing"),
    "4xx": Reply("450 4.3.0 later"),
    "5xx": Reply("550 5.7.1 no"),
    "3xx": Reply("399 what"),
    "2xx": Reply("299 as you like"),
    "garbage": Garbage(),
    "endless": Endless(),
    "drip": Drip("250 " + "x" * 40, every=0.05),
    "early": Reply(),  # see `misbehave`
    "nul": Reply(b"250 2.0.0 \0\r\n"),
}

SESSION = ("GREETING", "EHLO", "STARTTLS", "EHLO again", "AUTH")
ENVELOPE = ("MAIL", "RCPT", "DATA", "BODY")
VERBS = (*SESSION, *ENVELOPE, "DOT", "BDAT", "RSET", "QUIT")

# The reply that is sent too early, in the same segment as the one before it.
EARLY = {
    "EHLO": "250 early.example",
    "STARTTLS": "220 2.0.0 go",
    "EHLO again": "250 early.example",
    "AUTH": "235 2.7.0 welcome",
    "MAIL": "250 2.1.0 OK",
    "RCPT": "250 2.1.5 OK",
    "DATA": "354 go on",
    "DOT": "250 2.0.0 queued",
    "BDAT": "250 2.0.0 queued",
    "RSET": "250 2.0.0 OK",
    "QUIT": "221 2.0.0 bye",
}

# Which deadline is the verb's.
DEADLINES = {"GREETING": "greeting", "DATA": "data", "DOT": "dot", "BDAT": "dot", "QUIT": "quit"}

IMPOSSIBLE = {
    ("GREETING", "early"): "nothing comes before it",
    ("BODY", "early"): "that is DOT, early",
}


ACCOUNT_LATER: Verdict = (Deferred, Blame.ACCOUNT)


def expected_in_session(verb: str, how: str) -> set[Verdict]:
    if how == "5xx":
        return {ACCOUNT}
    if (verb, how) == ("EHLO again", "2xx"):
        return {ACCOUNT}  # the same: no AUTH for the password
    if (verb, how) == ("EHLO again", "early"):
        return {ACCOUNT}  # plain text injected before TLS
    if how == "2xx" and verb != "STARTTLS":
        return {SENT}
    return {CONNECTION}


def expected_in_envelope(verb: str, how: str) -> set[Verdict]:
    if how == "4xx":
        return {{"RCPT": RECIPIENT_LATER, "MAIL": ACCOUNT_LATER}.get(verb, LATER)}
    if how == "5xx":
        return {RECIPIENT_NEVER if verb == "RCPT" else NEVER}
    if how == "2xx" and verb in ("MAIL", "RCPT"):
        return {SENT}
    return {CONNECTION}


def expected_at_the_dot(how: str) -> set[Verdict]:
    plain = {"4xx": LATER, "5xx": NEVER, "2xx": SENT, "early": CONNECTION}
    return {plain.get(how, IN_DOUBT)}


def expected(verb: str, how: str) -> set[Verdict]:
    if verb == "RSET":
        return {RECIPIENT_NEVER}  # whatever comes of it, the recipient's own reply stands
    if verb == "QUIT":
        return {SENT}
    if verb in ("DOT", "BDAT"):
        return expected_at_the_dot(how)
    return expected_in_session(verb, how) if verb in SESSION else expected_in_envelope(verb, how)


def stays_usable(verb: str, how: str) -> bool:
    """Only plain replies in their turn leave a connection usable."""
    plain = {"2xx", "4xx", "5xx"}
    if verb == "RSET":
        return how == "2xx"
    if verb in ("DATA", "BODY"):
        return verb == "DATA" and how in ("4xx", "5xx")
    if verb in SESSION:
        return how == "2xx" and verb not in ("STARTTLS", "EHLO again")
    if verb == "QUIT":
        return how != "early"
    return how in plain


@dataclass(frozen=True)
class Cell:
    verb: str
    how: str
    pipelining: bool = True

    def __str__(self) -> str:
        return f"{self.verb}-{self.how}{'' if self.pipelining else '-one_by_one'}".replace(" ", "_")

    @property
    def name(self) -> str:
        return self.verb.removesuffix(" again")

    @property
    def in_tls(self) -> bool | None:
        return {"EHLO": False, "EHLO again": True}.get(self.verb)


CELLS = [
    Cell(verb, how, pipelining)
    for pipelining in (True, False)
    for verb in VERBS
    for how in MISBEHAVIOURS
    if (verb, how) not in IMPOSSIBLE and (pipelining or verb not in (*SESSION, "QUIT"))
]


def by_turns(cell: Cell) -> int:
    """The order in which the cells of a verb are looked at: each verb begins with another misbehaviour."""
    return (list(MISBEHAVIOURS).index(cell.how) + 5 * VERBS.index(cell.verb) + 3 * (not cell.pipelining)) % 12


# In `make test` each misbehaviour in both ways, and of each verb one cell of each result; in `make soak` all of them.
SAMPLED = sample(
    sorted(CELLS, key=by_turns),
    lambda cell: (cell.how, cell.pipelining),
    lambda cell: (
        cell.verb,
        cell.pipelining,
        frozenset(expected(cell.verb, cell.how)),
        stays_usable(cell.verb, cell.how),
    ),
)


def misbehave(server: ScriptedServer, cell: Cell) -> None:
    """Have the server do what the cell says."""
    if cell.verb == "RSET" and (cell.how != "early" or cell.pipelining):
        server.on("RCPT", "550 5.1.1 unknown")
    if cell.how == "early":
        _speak_early(server, cell)
    elif cell.verb == "BODY" and cell.how == "hang":
        server.on("BODY", do=Hang(read=False), at=1)
    else:
        server.on(cell.name, do=MISBEHAVIOURS[cell.how], tls=cell.in_tls)


def _speak_early(server: ScriptedServer, cell: Cell) -> None:
    if cell.verb == "RSET" and not cell.pipelining:  # no DATA comes before it
        server.on("RCPT", do=Also(EARLY["RSET"], "550 5.1.1 unknown"))
        return
    previous = {"EHLO again": "STARTTLS", "AUTH": "EHLO", "RSET": "DATA"}.get(
        cell.verb, PRECEDES.get(cell.verb)
    )
    assert previous is not None
    in_tls = {"STARTTLS": False, "AUTH": True}.get(cell.verb)
    server.on(previous, do=Also(EARLY[cell.verb]), tls=in_tls)


def prepare(
    scripted: StartScripted, client_tls: ssl.SSLContext, cell: Cell
) -> tuple[ScriptedServer, Endpoint]:
    server = scripted(tls=True, chunking=cell.verb == "BDAT")
    misbehave(server, cell)
    deadlines = dict(LONG)
    if cell == Cell("STARTTLS", "2xx"):
        deadlines["connect"] = 2.0  # that of the handshake, which nobody answers
    if cell.verb == "BODY" and cell.how in ("hang", "drip"):
        deadlines["block"] = 1.0
    where = endpoint(
        server,
        Security.STARTTLS,
        client_tls,
        password=PASSWORD,
        deadlines=deadlines,
        pipelining=cell.pipelining,
    )
    return server, where


@contextlib.contextmanager
def short_for(verb: str, skip: int = 0, in_tls: bool | None = None) -> Iterator[None]:
    """Shorten the deadline for the reply to this verb, after so many, and to no other: see `LONG`."""
    reply, seen = Wire.reply, 0

    async def shortened(wire: Wire, asked: str, seconds: float) -> Answer:
        nonlocal seen
        if asked.upper() == verb and in_tls in (None, wire.transport is not wire._tcp):
            assert seconds == LONG[DEADLINES.get(verb, "command")]
            seen += 1
            seconds = SHORT if seen > skip else seconds
        return await reply(wire, asked, seconds)

    with patch.object(Wire, "reply", shortened):
        yield


@contextlib.contextmanager
def little_memory(allowed: int = MOST_MEMORY) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < allowed


def conditions(cell: Cell, text: int) -> contextlib.ExitStack:
    """What the cell is run under: a short deadline where it is to run out, a count of memory where it might not end."""
    stack = contextlib.ExitStack()
    if cell.how in ("hang", "drip") and cell.verb != "BODY":
        stack.enter_context(short_for(cell.name, in_tls=cell.in_tls))
    if cell.how == "endless":
        stack.enter_context(little_memory(MOST_MEMORY + 3 * text))  # the text, its dots stuffed, less its end
    return stack


def heard(connection: Connection) -> Mark:
    """A mark before the dot that takes until the server has said something."""

    async def mark() -> None:
        if not connection._wire.has_unread:
            await connection._wire._wait("DATA", LONG["data"])

    return mark


def work(cell: Cell) -> ClaimedJob:
    """A large body where the server is to speak, or to stop reading, before we are through with it."""
    return job((BOB,), body_of(16_000_000)) if cell.verb == "BODY" else job((BOB,))


@pytest.mark.parametrize("cell", SAMPLED, ids=str)
def test_cell(scripted: StartScripted, client_tls: ssl.SSLContext, cell: Cell) -> None:
    server, where = prepare(scripted, client_tls, cell)
    claimed = work(cell)
    # The real 354 comes before the dot, as it does while the mark is committed.
    before_dot = heard if (cell.verb, cell.how) == ("DATA", "early") else lambda _: nothing

    async def dialogue() -> tuple[Outcome, bool, float]:
        [outcome], connection = await attempt(where, claimed, before_dot)
        usable = connection is not None and connection.usable
        if connection is not None:
            await connection.quit()
            assert not connection.usable
        return outcome, usable, time.monotonic()

    with conditions(cell, len(claimed.mime)):
        outcome, usable, ended = run(dialogue(), seconds=120)
    assert verdict(outcome) in expected(cell.verb, cell.how)
    assert usable == stays_usable(cell.verb, cell.how)
    # A client that gave up first need not have waited for the server's thread.
    eventually(lambda: len(server.acted_at) > 0)
    took = ended - server.acted_at[0]
    assert took < SOON, f"the end came {took:.1f} s after the misbehaviour: another deadline was waited for"
    if (cell.verb, cell.how) != ("BODY", "hang"):  # that server looks at nothing any more
        eventually(lambda: server.open_connections == 0)
    if isinstance(outcome, Sent):
        assert len(server.messages) == 1
    else:
        assert outcome.reason.isprintable()
        assert isinstance(outcome, InDoubt) or server.messages == []
        assert isinstance(outcome, InDoubt) or cell.verb in ("DOT", "BDAT") or server.transactions == []
    if cell.verb in SESSION[:4] and cell.how != "2xx":
        assert server.logins == []
    assert not server.auth_in_plain_text


def test_a_354_too_many_after_the_dot_leaves_the_message_in_doubt(
    scripted: StartScripted, client_tls: ssl.SSLContext
) -> None:
    """The other order of DATA-early: the real 354 takes the place of the dot's own reply."""
    server, where = prepare(scripted, client_tls, Cell("DATA", "early"))
    dot_sent = threading.Event()
    server.on("DATA", do=Held(dot_sent))
    write = Wire.write

    async def note(wire: Wire, data: bytes, verb: str, seconds: float) -> None:
        await write(wire, data, verb, seconds)
        if verb == "dot":
            dot_sent.set()

    async def dialogue() -> Outcome:
        [outcome], connection = await attempt(where, job((BOB,)))
        assert connection is not None
        assert not connection.usable
        return outcome

    with patch.object(Wire, "write", note):
        outcome = run(dialogue())
    assert verdict(outcome) == IN_DOUBT


CLOSED = [cell for cell in SAMPLED if cell.verb in SESSION and SENT not in expected(cell.verb, cell.how)]


@pytest.mark.parametrize("cell", CLOSED, ids=str)
def test_opening_raises_smtp_fault_and_nothing_else(
    scripted: StartScripted, client_tls: ssl.SSLContext, cell: Cell
) -> None:
    server, where = prepare(scripted, client_tls, cell)

    async def dialogue() -> SMTPFault:
        with pytest.raises(SMTPFault) as caught:
            await Connection.open(where)
        return caught.value

    with conditions(cell, 0):
        fault = run(dialogue())
    # A second EHLO whose answer names no extensions offers no log-in either.
    blamed = {cell.name, "STARTTLS"} | ({"AUTH"} if str(cell).startswith("EHLO_again-2xx") else set())
    assert fault.verb.upper() in blamed
    assert fault.kind is not FaultKind.REFUSED or fault.reply is not None
    eventually(lambda: server.open_connections == 0)
