"""A host with several addresses (RFC 8305), some of which swallow what is sent to them."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from postroom.core.account import Security
from postroom.core.errors import FaultKind, SMTPFault
from postroom.smtp.client import Connection
from postroom.smtp.connect import _Memory, _peer_of, connect
from postroom.smtp.endpoint import Endpoint, Timeouts
from tests.conftest import StartScripted
from tests.servers.waiting import eventually
from tests.smtp import dialog

FIRST, SECOND = "127.0.0.2", "127.0.0.1"
PATIENCE = 60.0  # far more than anything here takes

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    return lambda coroutine: dialog.run(coroutine, library=request.param, seconds=2 * PATIENCE)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What is remembered of servers is forgotten, and the ten minutes pass by this clock."""
    clock = Clock()
    monkeypatch.setattr("postroom.smtp.connect._memory", _Memory(clock))
    return clock


@contextlib.contextmanager
def listening(ip: str, port: int = 0) -> Iterator[int]:
    with socket.create_server((ip, port)) as listener:
        yield int(listener.getsockname()[1])


@contextlib.contextmanager
def mute(ip: str, port: int) -> Iterator[None]:
    """Answer no SYN, as the kernel does while the queue of those that wait to be accepted is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
        listener.listen(0)
        for _ in range(4):
            each = stack.enter_context(socket.socket())
            each.setblocking(False)
            assert each.connect_ex((ip, port)) in (0, errno.EINPROGRESS)
        yield


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have every name resolve to these addresses, in this order."""

    def resolve(port: int, *addresses: str) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    return resolve


async def peer(port: int) -> str:
    """Connect to the name; return the address that was reached."""
    wire = await connect("smtp.example", port, PATIENCE)
    assert wire.transport is not None
    address = wire.transport.get_extra_info("peername")[0]
    wire.abort()
    return str(address)


def test_an_address_that_swallows_what_is_sent_to_it_delays_little_and_once(
    run: Run, clock: Clock, resolved: Callable[..., None]
) -> None:
    """The one that answered is asked first for ten minutes, even when the other one is well again."""
    with listening(SECOND) as port:
        resolved(port, FIRST, SECOND)
        with mute(FIRST, port):
            assert run(peer(port)) == SECOND
        with listening(FIRST, port):
            clock.now += 599
            assert run(peer(port)) == SECOND
            clock.now += 601
            assert run(peer(port)) == FIRST


def test_an_address_that_refuses_makes_way_at_once(
    run: Run, clock: Clock, resolved: Callable[..., None]
) -> None:
    with listening(SECOND) as port:
        resolved(port, FIRST, SECOND)
        assert run(peer(port)) == SECOND


def test_an_address_that_lets_us_in_and_does_not_greet_is_asked_last(
    run: Run, clock: Clock, resolved: Callable[..., None], scripted: StartScripted
) -> None:
    server = scripted()
    resolved(server.port, FIRST, SECOND)
    where = Endpoint("smtp.example", server.port, Security.NONE, timeouts=Timeouts(greeting=0.2))

    async def dialogue() -> None:
        with pytest.raises(SMTPFault):
            await Connection.open(where)
        await (await Connection.open(where)).quit()

    with listening(FIRST, server.port):  # the kernel lets us in, and nobody greets
        run(dialogue())
    assert server.verbs == ["EHLO", "QUIT"]


def test_where_none_answers_the_reason_names_all_of_them(
    run: Run, clock: Clock, resolved: Callable[..., None]
) -> None:
    with listening(SECOND) as port:
        pass
    resolved(port, FIRST, SECOND)
    with pytest.raises(SMTPFault) as caught:
        run(connect("smtp.example", port, PATIENCE))
    assert caught.value.kind is FaultKind.DISCONNECTED
    assert FIRST in str(caught.value)
    assert SECOND in str(caught.value)
    assert "refused" in str(caught.value)
    assert "Errno" not in str(caught.value)


def test_all_addresses_share_one_deadline(run: Run, clock: Clock, resolved: Callable[..., None]) -> None:
    with listening(SECOND) as port:
        pass
    resolved(port, FIRST, SECOND)
    with mute(FIRST, port), mute(SECOND, port), pytest.raises(SMTPFault) as caught:
        run(connect("smtp.example", port, 0.6))
    assert caught.value.kind is FaultKind.TIMEOUT
    assert "no answer within 0.6 s" in str(caught.value)


def test_a_server_that_has_reset_before_we_look_is_said_to_have_reset() -> None:
    """getpeername() says ENOTCONN then, which tells nobody anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        with pytest.raises(ConnectionResetError):
            eventually(lambda: _peer_of(client) is None, message="the reset to arrive")
