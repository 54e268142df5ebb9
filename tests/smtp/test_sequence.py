"""One message after another over one connection: what each costs the other, whatever the server does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass

import pytest

from postroom.core.job import ClaimedJob
from postroom.core.outcome import Outcome
from postroom.smtp.deliver import NotBegun, deliver
from postroom.smtp.endpoint import Endpoint
from tests.conftest import StartScripted
from tests.servers.scripted import Drop, Held, ScriptedServer
from tests.servers.waiting import eventually
from tests.smtp.dialog import BOB, CAROL, MIME, endpoint, envelope, job, nothing, opened, run, verdict
from tests.smtp.test_verbs import (
    CONNECTION,
    IN_DOUBT,
    LONG,
    MISBEHAVIOURS,
    SENT,
    SOON,
    Verdict,
    expected_at_the_dot,
    expected_in_envelope,
    short_for,
)
from tests.soak import sample

FIRST, SECOND = job((BOB,)), job((CAROL,), MIME + b"The second.\r\n")

NOT_BEGUN = "not begun"


def start(scripted: StartScripted, *, chunking: bool) -> ScriptedServer:
    return scripted(chunking=chunking)


both = pytest.mark.parametrize("chunking", [False, True], ids=["data", "bdat"])


async def send_both(
    where: Endpoint, first: ClaimedJob = FIRST, second: ClaimedJob = SECOND
) -> list[Outcome | str]:
    """Deliver two jobs as a lane does; return their outcomes, or why there is none."""
    connection = await opened(where)
    found: list[Outcome | str] = [*(await deliver(connection, first, nothing)).values()]
    if not connection.usable:
        await connection.quit()
        return [*found, NOT_BEGUN]
    try:
        found += (await deliver(connection, second, nothing)).values()
    except NotBegun:
        found.append(NOT_BEGUN)
    await connection.quit()
    return found


@both
def test_two_messages_one_after_the_other(scripted: StartScripted, chunking: bool) -> None:
    server = start(scripted, chunking=chunking)
    outcomes = run(send_both(endpoint(server)))
    assert [verdict(outcome) for outcome in outcomes if not isinstance(outcome, str)] == [SENT, SENT]
    assert [(each.forward_paths, each.data, each.chunked) for each in server.messages] == [
        ([BOB], FIRST.mime, chunking),
        ([CAROL], SECOND.mime, chunking),
    ]
    text = ["BDAT"] if chunking else ["DATA"]
    assert server.verbs == ["EHLO", "MAIL", "RCPT", *text, "MAIL", "RCPT", *text, "QUIT"]


@both
def test_nothing_is_sent_ahead_of_the_answer(scripted: StartScripted, chunking: bool) -> None:
    """RFC 2920 §3.1 allows it; Haraka, Dovecot and others do not take it."""
    server = start(scripted, chunking=chunking)
    held = threading.Event()
    end = "BDAT" if chunking else "DOT"
    server.on(end, do=Held(held), times=1)

    async def dialogue() -> None:
        sending = asyncio.create_task(send_both(endpoint(server)))
        await asyncio.to_thread(eventually, lambda: server.transactions)
        await asyncio.sleep(0.05)  # what is sent ahead would come at once
        assert server.plaintext.count(b"MAIL FROM") == 1
        held.set()
        assert [verdict(outcome) for outcome in await sending if not isinstance(outcome, str)] == [SENT, SENT]

    run(dialogue())
    assert server.plaintext.count(b"MAIL FROM") == 2


@both
def test_recipients_are_told_apart_across_messages(scripted: StartScripted, chunking: bool) -> None:
    server = start(scripted, chunking=chunking)
    for number in range(30):
        server.on("RCPT", f"550 5.1.1 not {number}", match=f"<refused-{number}@")
    envelopes = [
        envelope(f"refused-{n}@x.example", *([] if n % 5 == 4 else [f"taken-{n}@x.example"]))
        for n in range(30)
    ]

    async def dialogue() -> None:
        connection = await opened(endpoint(server))
        queued = 0
        for number, each in enumerate(envelopes):
            transcript = await connection.transact(each, nothing)
            assert transcript.rcpt[f"refused-{number}@x.example"].text == f"not {number}"
            if number % 5 == 4:
                assert transcript.final is None
            else:
                queued += 1
                assert transcript.final is not None
                assert transcript.final.text.endswith(f"queued as {queued}")
            assert connection.usable
        await connection.quit()

    run(dialogue())
    assert len(server.connections) == 1
    assert [message.forward_paths for message in server.messages] == [
        [f"taken-{n}@x.example"] for n in range(30) if n % 5 != 4
    ]


@dataclass(frozen=True)
class Cell:
    which: int  # the message at whose verb the server misbehaves
    verb: str
    how: str
    chunking: bool

    def __str__(self) -> str:
        return f"{self.which}-{self.verb}-{self.how}-{'bdat' if self.chunking else 'data'}"


HOWS = [how for how in MISBEHAVIOURS if how != "early"]
CELLS = [
    Cell(which, verb, how, chunking)
    for chunking in (False, True)
    for which, verbs in ((1, ("END",)), (2, ("MAIL", "RCPT", "DATA", "END")))
    for verb in (("BDAT" if chunking else "DOT") if verb == "END" else verb for verb in verbs)
    for how in HOWS
    if not (chunking and verb == "DATA")
]


def expected_of_both(cell: Cell) -> tuple[set[Verdict], set[Verdict | str]]:
    plain = cell.how in ("2xx", "4xx", "5xx")
    if cell.which == 1:
        return expected_at_the_dot(cell.how), {SENT} if plain else {NOT_BEGUN}
    if cell.verb in ("DOT", "BDAT"):
        return {SENT}, {*expected_at_the_dot(cell.how)}
    if cell.verb == "MAIL" and cell.how in ("hang", "drop", "421", "drip", "4xx", "5xx"):
        return {SENT}, {NOT_BEGUN}  # refused, it is asked again on a fresh connection
    second: set[Verdict | str] = {*expected_in_envelope(cell.verb, cell.how)}
    if second == {CONNECTION} and cell.how in ("garbage", "nul", "endless"):
        second.add(NOT_BEGUN)  # where it came in one piece with the reply to the first one's end
    return {SENT}, second


# In `make test` each misbehaviour, and of each verb one cell of each result; in `make soak` all of them.
SAMPLED = sample(
    sorted(
        CELLS, key=lambda cell: (HOWS.index(cell.how) + 3 * len(cell.verb) + 5 * cell.chunking) % len(HOWS)
    ),
    lambda cell: cell.how,
    lambda cell: (cell.which, cell.verb, *(frozenset[object](each) for each in expected_of_both(cell))),
)


@pytest.mark.parametrize("cell", SAMPLED, ids=str)
def test_cell(scripted: StartScripted, cell: Cell) -> None:
    server = start(scripted, chunking=cell.chunking)
    server.on(cell.verb, do=MISBEHAVIOURS[cell.how], skip=cell.which - 1, times=1)
    with contextlib.ExitStack() as stack:
        if cell.how in ("hang", "drip"):
            stack.enter_context(short_for(cell.verb, skip=cell.which - 1))
        outcomes = run(send_both(endpoint(server, deadlines=LONG)), seconds=120)
    took = time.monotonic() - server.acted_at[0]
    assert took < SOON, f"the end came {took:.1f} s after the misbehaviour: another deadline was waited for"
    first, second = (each if isinstance(each, str) else verdict(each) for each in outcomes)
    expected_first, expected_second = expected_of_both(cell)
    assert first in expected_first
    assert second in expected_second
    eventually(lambda: server.open_connections == 0)
    for outcome, path in ((first, BOB), (second, CAROL)):
        taken = [each for each in server.messages if each.forward_paths == [path]]
        assert len(taken) == 1 if outcome == SENT else outcome == IN_DOUBT or not taken
        if outcome in (NOT_BEGUN, CONNECTION) and cell.verb not in ("DOT", "BDAT"):
            assert all(each.forward_paths != [path] for each in server.transactions)


@both
def test_a_connection_that_was_closed_meanwhile_costs_no_attempt(
    scripted: StartScripted, chunking: bool
) -> None:
    server = start(scripted, chunking=chunking)
    server.on("BDAT" if chunking else "DOT", do=Drop(None), times=1)
    outcomes = run(send_both(endpoint(server)))
    assert [verdict(outcome) for outcome in outcomes[:1] if not isinstance(outcome, str)] == [SENT]
    assert outcomes[1] == NOT_BEGUN
    assert [each.forward_paths for each in server.transactions] == [[BOB]]


def test_a_first_message_never_counts_as_not_begun(scripted: StartScripted) -> None:
    server = scripted()
    server.on("MAIL", do=Drop())

    async def dialogue() -> None:
        connection = await opened(endpoint(server))
        [outcome] = (await deliver(connection, FIRST, nothing)).values()
        assert verdict(outcome) == CONNECTION

    run(dialogue())
