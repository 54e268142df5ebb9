"""What the SMTP tests share: a loop to run in, an endpoint, an envelope and a claimed job."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from unittest.mock import patch

import uvloop

from postroom.core.account import Secret, Security
from postroom.core.classify import classify_fault
from postroom.core.errors import SMTPFault
from postroom.core.job import ClaimedJob, PendingDelivery
from postroom.core.outcome import Blame, Deferred, Failed, Outcome
from postroom.smtp.client import Connection
from postroom.smtp.content import Mark
from postroom.smtp.deliver import deliver, for_all
from postroom.smtp.endpoint import Endpoint, Timeouts
from postroom.smtp.stream import Wire
from postroom.smtp.transcript import Envelope, ServerTraits
from tests.servers.scripted import ScriptedServer

T = TypeVar("T")

USER, PASSWORD = "alice@postroom.example", "alice's secret"
BOB, CAROL, DAVE = "bob@example.net", "carol@example.net", "dave@example.net"
MIME = b"Subject: hello\r\n\r\nHello.\r\n"


def run(coroutine: Coroutine[Any, Any, T], *, library: str = "uvloop", seconds: float = 120.0) -> T:
    """Run to the end in a fresh loop, of the kind that the worker uses unless `library` is asyncio.

    Fails when a connection was left open, and closes those that a failing test leaves: uvloop waits for them.
    """
    new_loop = uvloop.new_event_loop if library == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_and_tidy_up(coroutine, seconds))


async def _and_tidy_up(coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
    wires: list[Wire] = []
    connection_made = Wire.connection_made

    def note(wire: Wire, transport: asyncio.BaseTransport) -> None:
        wires.append(wire)
        connection_made(wire, transport)

    with patch.object(Wire, "connection_made", note):
        try:
            result = await asyncio.wait_for(coroutine, seconds)
        finally:
            left_open = await _close(wires)
    assert not left_open, "a connection was left open"
    return result


async def _close(wires: Sequence[Wire]) -> int:
    left_open = sum(not wire.closing for wire in wires)
    for wire in wires:
        if wire.transport is not None:
            wire.transport.abort()
    for _ in range(4):  # turns of the loop, for TLS and the TCP below it
        await asyncio.sleep(0)
    return left_open


def endpoint(
    server: ScriptedServer,
    security: Security = Security.NONE,
    tls: ssl.SSLContext | None = None,
    *,
    host: str = "127.0.0.1",
    password: str = "",
    deadlines: Mapping[str, float] | None = None,
    pipelining: bool = True,
    chunking: bool = True,
) -> Endpoint:
    """Where a scripted server is; each deadline that is not given is 30 s."""
    timeouts = deadlines or {}
    names = ("connect", "greeting", "command", "data", "block", "dot", "quit")
    return Endpoint(
        host=host,
        port=server.port,
        security=security,
        username=USER if password else None,
        password=Secret(password),
        tls=tls,
        timeouts=Timeouts(**{name: timeouts.get(name, 30.0) for name in names}),
        pipelining=pipelining,
        chunking=chunking,
    )


def envelope(*forward_paths: str, mime: bytes = MIME, smtputf8: bool = False) -> Envelope:
    return Envelope(USER, forward_paths or (BOB,), mime, smtputf8)


def body_of(size: int) -> bytes:
    """Return a mail of at least so many bytes."""
    line = b"." + b"x" * 97 + b"\r\n"
    return MIME + line * (size // len(line) + 1)


async def nothing() -> None:
    """The mark before the dot, where a test is not about it."""


def job(forward_paths: Sequence[str] = (BOB,), mime: bytes = MIME) -> ClaimedJob:
    return ClaimedJob(
        id=1,
        token=1,
        attempt=1,
        message_id=1,
        request_id="00000000-0000-0000-0000-000000000001",
        account_id=1,
        reverse_path=USER,
        deliveries=tuple(PendingDelivery(id_, path) for id_, path in enumerate(forward_paths)),
        mime=mime,
        smtputf8=False,
        accepted_at=0,
    )


async def attempt(
    where: Endpoint, claimed: ClaimedJob, before_dot: Callable[[Connection], Mark] = lambda _: nothing
) -> tuple[list[Outcome], Connection | None]:
    """Open a connection and deliver a job, as the worker does; return the outcomes and the connection."""
    try:
        connection = await opened(where)
    except SMTPFault as fault:
        return list(for_all(claimed, classify_fault(fault)).values()), None
    return list((await deliver(connection, claimed, before_dot(connection))).values()), connection


async def opened(where: Endpoint) -> Connection:
    """Open a connection to a server that has shown before that it takes commands in groups, and chunks."""
    connection = await Connection.open(where)
    connection.traits = ServerTraits(took_group=True, took_chunks=True)
    return connection


def verdict(outcome: Outcome) -> tuple[type[Outcome], Blame | None]:
    """Return kind and blame."""
    return type(outcome), outcome.blame if isinstance(outcome, Deferred | Failed) else None
