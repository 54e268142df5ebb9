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
from postroom.core.networks import is_public
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


async def peer(port: int, host: str = "smtp.example", *, is_confined: bool = False) -> str:
    """Connect to the name; return the address that was reached."""
    wire = await connect(host, port, PATIENCE, is_confined=is_confined)
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


class TestAnAccountThatIsConfined:
    """A key without the scope admin has named its host."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "::ffff:127.0.0.1"])
    def test_reaches_no_private_address_whatever_name_leads_there(self, run: Run, host: str) -> None:
        with listening("127.0.0.1") as port:
            with pytest.raises(SMTPFault, match="POSTROOM_SMTP_ALLOW_PRIVATE") as caught:
                run(peer(port, host, is_confined=True))
            assert caught.value.kind is FaultKind.PRIVATE
            assert run(peer(port, host)) in ("127.0.0.1", host)

    def test_reaches_the_public_ones_of_several_alone(
        self, run: Run, clock: Clock, resolved: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("postroom.smtp.connect.is_public", lambda address: address == SECOND)
        with listening(SECOND) as port, listening(FIRST, port):
            resolved(port, FIRST, SECOND)
            assert run(peer(port)) == FIRST
            assert run(peer(port, is_confined=True)) == SECOND


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True), ("2001:4860:4860::8888", True), ("::ffff:8.8.8.8", True), ("64:ff9b::808:808", True),
        ("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("2002:a00:1::", False),
        ("fe80::1%eth0", False), ("fd00::1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("::", False), ("224.0.0.1", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_an_address_is_public(address: str, expected: bool) -> None:
    assert is_public(address) is expected
