"""A database that is locked, a clock that jumps, descriptors that run out, a client that is gone: rows 5, 19, 20 and 22."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.conftest import StartScripted
from tests.servers.installation import KEY, ROOT, Installation, account_rows
from tests.servers.programs import end, free_port
from tests.servers.scripted import Late, ScriptedServer
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

SOAK = os.environ.get("POSTROOM_SOAK") == "1"
HOUR, YEAR = 3600, 365 * 24 * 3600


# --- Row 5: the database is locked


@contextlib.contextmanager
def locked(service: Installation, seconds: float) -> Iterator[None]:
    """Hold the write lock of the database, as a backup or a person at a prompt might, for so long at least."""
    connection = apsw.Connection(str(service.folder / "var/postroom.db"))
    connection.set_busy_timeout(10_000)
    connection.execute("BEGIN IMMEDIATE")
    until = time.monotonic() + seconds
    try:
        yield
        time.sleep(max(0.0, until - time.monotonic()))
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.timeout(300)
def test_a_locked_database_is_a_503_in_bounded_time_and_sessions_live_on(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    server.on("DOT", do=Late(2), times=1)
    rows = [account_rows(server.port)[0] + ",connections", account_rows(server.port)[1] + ",1"]
    with Installation(tmp_path, rows) as service:
        under_way = service.send()
        eventually(lambda: len(server.transactions) == 1, message="the dot")
        with locked(service, 60 if SOAK else 0):
            answer = service.post()
            assert answer.status == 503, "the wait is bounded: it was locked all the while"
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["content-type"] == "application/problem+json"
            assert service.status(under_way) == "sending", "reading goes on"
        service.wait_for(under_way)
        service.wait_for(service.send())
        assert len(server.transactions) == 2, "neither twice, and nothing of what was refused"
        if not SOAK:  # in a minute an idle session says QUIT
            assert sum(bool(each.transactions) for each in server.connections) == 1, "the session lived on"
        assert service.query("SELECT possible_duplicate FROM delivery") == [(0,), (0,)]


# --- Row 19: the clock jumps


class Clock:
    """The clock of an installation's processes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock-offset"
        self.settings = {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/servers/clock'}",
            "CLOCK_OFFSET_FILE": str(self.file),
        }

    def jump(self, seconds: int) -> None:
        """Set the clock to so many seconds beside the true time."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(str(seconds), encoding="ascii")
        fresh.rename(self.file)


def jumping(folder: Path, server: ScriptedServer, **settings: str) -> tuple[Clock, Installation]:
    clock = Clock(folder)
    return clock, Installation(folder / "service", account_rows(server.port), **clock.settings, **settings)


@pytest.mark.parametrize("jump", [-HOUR, -YEAR, HOUR, YEAR] if SOAK else [-HOUR, YEAR])
def test_a_clock_that_jumps_makes_no_living_worker_dead(
    jump: int, tmp_path: Path, scripted: StartScripted, long_database_settings: dict[str, str]
) -> None:
    """The lease of a worker at the dot is over by the clock of its neighbour, and its mail goes once all the same."""
    server = scripted()
    server.on("DOT", do=Late(5), times=1)
    clock, installation = jumping(tmp_path, server, **long_database_settings)
    with installation as service, neighbour(service):
        request_id = service.send()
        eventually(lambda: len(server.transactions) == 1, message="the dot")
        clock.jump(jump)
        service.wait_for(request_id)
        service.wait_for(service.send())
        assert len(server.transactions) == 2, "nothing was claimed twice"
        assert service.query("SELECT possible_duplicate FROM delivery") == [(0,), (0,)]
        assert service.query("SELECT count(*) FROM worker WHERE gone_at IS NULL") == [(2,)]


@contextlib.contextmanager
def neighbour(service: Installation) -> Iterator[None]:
    """A second worker, which takes the first for one of another host: it has only the lease to go by."""
    process = service.spawn_worker()
    try:
        living = "SELECT count(*) FROM worker WHERE gone_at IS NULL"
        eventually(lambda: service.query(living) == [(2,)], 20, "a second worker")
        service.change("UPDATE worker SET host = 'host ' || id")
        yield
    finally:
        end(process)


def test_a_clock_set_back_lets_nothing_go_early_and_nothing_wait_for_a_year(
    tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    server = scripted()
    server.on("DOT", reply="451 4.3.0 later", times=1)
    clock, installation = jumping(tmp_path, server, POSTROOM_RETRY_SCHEDULE="30s", **database_settings)
    with installation as service:
        clock.jump(YEAR)
        deferred = service.send()
        service.wait_for(deferred, "deferred")
        parked = service.query("SELECT due_at FROM job WHERE kind = 'delivery'")
        clock.jump(0)
        eventually(
            lambda: service.query("SELECT due_at FROM job WHERE kind = 'delivery'") < parked,
            25,
            "its time to be mended",
        )
        service.wait_for(deferred)
        service.wait_for(service.send())
        assert len(server.messages) == 2


def test_mail_accepted_while_the_clock_was_ahead_goes_at_once(
    tmp_path: Path, scripted: StartScripted, long_database_settings: dict[str, str]
) -> None:
    clock, installation = jumping(tmp_path, scripted(), **long_database_settings)
    with installation as service:
        [worker] = service.pids("-m", "postroom", "worker")
        service.wait_for(service.send())
        with service.stopped(worker):  # it sees the clock only after it has been set right
            clock.jump(HOUR)
            ahead = service.send()
            clock.jump(0)
        service.wait_for(ahead)


def test_a_deferred_mail_is_not_sent_before_its_time_when_the_clock_goes_back(
    tmp_path: Path, scripted: StartScripted, long_database_settings: dict[str, str]
) -> None:
    server = scripted()
    server.on("DOT", reply="451 4.3.0 later", times=1)
    clock, installation = jumping(tmp_path, server, POSTROOM_RETRY_SCHEDULE="2s,2h", **long_database_settings)
    with installation as service:
        deferred = service.send()
        service.wait_for(deferred, "deferred")
        clock.jump(-HOUR)
        time.sleep(5)  # by the clock that was, its time is over
        assert service.status(deferred).startswith("deferred"), "its time is in an hour by this clock"
        clock.jump(0)
        service.wait_for(deferred)


# --- Row 20: no file descriptors are left


@contextlib.contextmanager
def descriptors(pid: int, most: int) -> Iterator[None]:
    """Let a process open no file whose number would be `most` or more; what is open stays."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_worker_without_descriptors_keeps_its_mail_and_blames_nobody(
    tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    server, settings = scripted(), {"POSTROOM_RETRY_SCHEDULE": "300ms", **database_settings}
    rows = [*account_rows(server.port), account_rows(free_port(), "nobody-listens")[1]]
    with Installation(tmp_path, rows, **settings) as service:
        [worker] = service.pids("-m", "postroom", "worker")
        service.wait_for(service.send(key="nobody-listens"), "deferred")  # so all else is open by now
        with descriptors(worker, 3):
            kept = service.send()
            assert "Too many open files" in service.wait_for(kept, "deferred")
            assert service.query("SELECT DISTINCT state FROM account") == [("active",)]
        service.wait_for(kept)
        assert service.pids("-m", "postroom", "worker") == [worker]
        assert len(server.messages) == 1


def test_a_web_process_without_descriptors_recovers_by_itself(
    tmp_path: Path, sink: Sink, database_settings: dict[str, str]
) -> None:
    with (
        Installation(tmp_path, account_rows(sink.port), **database_settings) as service,
        contextlib.ExitStack() as stack,
    ):
        service.wait_for(service.send())
        for pid in service.pids("-m", "postroom", "web"):
            stack.enter_context(descriptors(pid, 64))
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port))) for _ in range(150)
        ]
        for _ in range(20):  # over the connection that was open before
            assert service.post().status in (202, 503)
        for each in crowd:
            each.close()
        eventually(lambda: answers_anew(service), message="a new connection to be served")
        service.wait_for(service.send())


def answers_anew(service: Installation) -> bool:
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as fresh:
        fresh.sendall(b"GET /email-status/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            return fresh.recv(100).startswith(b"HTTP/1.1 404")
        except OSError:
            return False


# --- Row 22: the client is gone before the 202


def post_and_reset(service: Installation, document: dict[str, Any], key: str, pause: float) -> None:
    """Send a whole request, and an RST after it."""
    body = json.dumps(document).encode()
    head = (
        f"POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(head.encode() + body)
        time.sleep(pause)


def test_a_client_that_is_gone_before_the_202_finds_its_mail_by_its_idempotency_key(
    tmp_path: Path, sink: Sink, database_settings: dict[str, str]
) -> None:
    document = {"subject": "A subject", "recipient": "you@postroom.example", "body": "A body", "key": KEY}
    pauses = range(0, 40, 1 if SOAK else 4)
    with Installation(tmp_path, account_rows(sink.port), **database_settings) as service:
        for number in pauses:
            key = f"request-{number}"
            post_and_reset(service, document, key, pause=number * 0.0005)
            answer = service.client.call("POST", "/send-email", document, {"Idempotency-Key": key})
            assert answer.status == 202
            service.wait_for(answer.document["request_id"])
        assert service.query("SELECT count(*), count(DISTINCT request_id) FROM message") == [
            (len(pauses), len(pauses))
        ]
