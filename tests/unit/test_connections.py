"""Connections whose clients send no whole head, or do not read."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import apsw
import pytest

from postroom.runtime import web_process
from postroom.web.connections import READ_WITHIN_MS, Connections
from tests.servers.waiting import eventually

HALF = b"POST /send-email HTTP/1.1\r\nHost: x\r\n"
Open = Callable[[], tuple[socket.socket, str]]


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as found:
        found.bind((request.param, 0))
        found.listen()
        yield found


@pytest.fixture
def connect(listener: socket.socket) -> Iterator[Open]:
    """Return what opens a connection: the client's end, and its address as granian writes it."""
    with ExitStack() as stack:

        def connect() -> tuple[socket.socket, str]:
            client = stack.enter_context(socket.create_connection(listener.getsockname()[:2], 60))
            stack.enter_context(listener.accept()[0])
            host, port = client.getsockname()[:2]
            return client, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

        yield connect


@pytest.fixture
def time() -> list[float]:
    return [0.0]


@pytest.fixture
def connections(listener: socket.socket, time: list[float]) -> Iterator[Connections]:
    found = Connections(listener.getsockname()[1], 10, 1, clock=lambda: time[0])
    yield found
    found.close()


def is_over(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def send(client: socket.socket, octets: bytes) -> None:
    """Send, and return when the kernel has it: on loopback that is at once."""
    client.setblocking(True)
    client.sendall(octets)


def look(connections: Connections, time: list[float], seconds: int) -> None:
    for _ in range(seconds):
        time[0] += 1
        connections.look()


@pytest.mark.parametrize("sent", [b"", b"P", HALF])
def test_a_connection_without_a_whole_head_is_ended_in_time(
    connections: Connections, connect: Open, time: list[float], sent: bytes
) -> None:
    client, _ = connect()
    send(client, sent)
    look(connections, time, 10)
    assert not is_over(client)
    look(connections, time, 1)
    eventually(lambda: is_over(client), 5, "the connection to end")


def test_octet_by_octet_is_no_excuse(connections: Connections, connect: Open, time: list[float]) -> None:
    client, _ = connect()
    for _ in range(11):
        send(client, b"A")
        look(connections, time, 1)
    eventually(lambda: is_over(client), 5, "the connection to end")


def test_an_idle_connection_and_one_whose_request_is_in_hand_stay(
    connections: Connections, connect: Open, time: list[float]
) -> None:
    (idle, idle_name), (busy, busy_name) = connect(), connect()
    send(idle, HALF)
    send(busy, HALF)
    connections.has_begun(idle_name)
    connections.has_begun(busy_name)
    connections.has_ended(idle_name)
    look(connections, time, 25)
    send(busy, b"a piece of a body")
    look(connections, time, 25)
    assert not is_over(idle)
    assert not is_over(busy)


def test_the_next_head_has_its_time_from_its_first_octet(
    connections: Connections, connect: Open, time: list[float]
) -> None:
    client, name = connect()
    connections.has_begun(name)
    connections.has_ended(name)
    look(connections, time, 25)
    send(client, HALF)
    look(connections, time, 9)
    assert not is_over(client)
    look(connections, time, 2)
    eventually(lambda: is_over(client), 5, "the connection to end")


def test_nobody_is_late_while_we_stood_still(
    connections: Connections, connect: Open, time: list[float]
) -> None:
    client, _ = connect()
    look(connections, time, 1)
    time[0] += 1000
    connections.look()
    assert not is_over(client)


def test_another_ports_connections_are_left_alone(connect: Open, time: list[float]) -> None:
    client, _ = connect()
    connections = Connections(1, 10, 1, clock=lambda: time[0])
    look(connections, time, 25)
    assert not is_over(client)
    connections.close()


def test_connections_have_a_deadline_for_what_is_not_read(
    connections: Connections, listener: socket.socket, time: list[float]
) -> None:
    look(connections, time, 1)
    with socket.create_connection(listener.getsockname()[:2], 60), listener.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == READ_WITHIN_MS
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 131_072


@pytest.mark.parametrize("what", ["connections", "listener"])
def test_a_look_leaves_sqlite_its_locks(connections: Connections, tmp_path: Path, what: str) -> None:
    """Whoever closes the database last removes its log: another process must see that it is open here."""
    look: Callable[[], object] = {"connections": connections.look, "listener": web_process._listening}[what]
    path = tmp_path / "database"
    with closing(apsw.Connection(str(path))) as database:
        database.pragma("journal_mode", "wal")
        database.execute("CREATE TABLE it (x)")
        before = len(list(Path("/proc/self/fd").iterdir()))
        look()
        assert len(list(Path("/proc/self/fd").iterdir())) <= before, "it leaves no copy open either"
        use = "import apsw, sys; it = apsw.Connection(sys.argv[1]); it.pragma('user_version'); it.close()"
        subprocess.run([sys.executable, "-c", use, str(path)], check=True)
        assert Path(f"{path}-wal").exists()


def test_the_sockets_of_the_metrics_do_not_make_http_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """They listen before HTTP does."""
    with socket.socket() as of_metrics, socket.socket() as of_http:
        sockets = of_metrics.fileno(), of_http.fileno()
        monkeypatch.setattr(web_process, "open_descriptors", lambda: sockets)
        of_metrics.bind(("127.0.0.1", 0))
        of_metrics.listen()
        besides = web_process._listening()
        assert besides == {of_metrics.fileno()}
        assert not web_process._listens(besides)
        of_http.bind(("127.0.0.1", 0))
        of_http.listen()
        assert web_process._listens(besides)
