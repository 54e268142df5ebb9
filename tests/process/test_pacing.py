"""An account's connections and log-ins hold over all workers, and what hangs in one account delays no other."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation
from tests.servers.programs import end
from tests.servers.scripted import Hang, Reply, ScriptedServer
from tests.servers.waiting import eventually

HEADER = "key,email,app_password,host,port,security,connections,logins_per_minute"


def row(server: ScriptedServer, name: str = "me", connections: str = "", logins: str = "") -> str:
    key = KEY if name == "me" else f"{name}-{KEY}"
    return f"{key},{name}@postroom.example,secret,127.0.0.1,{server.port},none,{connections},{logins}"


@contextlib.contextmanager
def second_worker(service: Installation) -> Iterator[None]:
    process = service.spawn_worker()
    try:
        living = "SELECT count(*) FROM worker WHERE gone_at IS NULL"
        eventually(lambda: service.query(living) == [(2,)], 30, "a second worker")
        yield
    finally:
        end(process)


def test_two_workers_have_no_more_connections_than_the_account(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    server.on("DOT", do=Reply(None, after=0.02))
    with (
        Installation(tmp_path, [HEADER, row(server, connections="2")]) as service,
        second_worker(service),
    ):
        for request_id in [service.send() for _ in range(100)]:
            service.wait_for(request_id)
        senders = service.query("SELECT DISTINCT worker_id FROM attempt")
    assert server.most_open in (1, 2), "a worker alone with the mail has its share of them"
    assert len(server.messages) == 100
    assert senders
    eventually(lambda: service.query("SELECT count(*) FROM connection") == [(0,)])


def test_the_connections_of_a_worker_that_died_come_back(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", do=Hang(), times=1)
    with Installation(tmp_path, [HEADER, row(server, connections="1")]) as service:
        first = service.send()
        eventually(lambda: len(server.transactions) == 1)
        [worker] = service.pids("worker")
        os.kill(worker, 9)
        service.wait_for(first)
        service.wait_for(service.send())
        assert service.query("SELECT count(*) FROM connection") == [(1,)]


def test_log_ins_are_spaced_and_the_mail_goes_meanwhile(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", do=Reply(None, after=0.1))
    rows = [HEADER, row(server, connections="16", logins="120")]
    with (
        Installation(tmp_path, rows) as service,
    ):
        for request_id in [service.send() for _ in range(120)]:
            service.wait_for(request_id)
    first, *more = sorted(login.at for login in server.logins)
    for count, at in enumerate(more, 2):
        assert count <= 4 + (at - first) / 0.5 + 1, f"{count} log-ins {at - first:.2f} s after the first"
    assert len(more) >= 4, "it goes on, spaced"


@pytest.mark.parametrize("size", [1_000, 3_000_000], ids=["small", "large"])
def test_accounts_whose_servers_hang_keep_nobody_else_waiting(
    tmp_path: Path, scripted: StartScripted, size: int
) -> None:
    silent, good = scripted(), scripted()
    silent.on("GREETING", do=Hang())
    stuck = [row(silent, name=f"stuck{number}") for number in range(4)]
    with Installation(tmp_path, [HEADER, *stuck, row(good)]) as service:
        for number in range(4):
            for _ in range(8):
                service.send(key=f"stuck{number}-{KEY}", body="x" * size)
        eventually(
            lambda: (
                service.query("SELECT count(*) > 3 FROM job WHERE kind = 'delivery' AND state = 'claimed'")
                == [(1,)]
            )
        )
        for _ in range(5):
            service.wait_for(service.send(), timeout=20)


@contextlib.contextmanager
def feeding(service: Installation, ids: list[str]) -> Iterator[None]:
    """See that there is always mail left to send; note the ids."""
    enough = threading.Event()

    def feed() -> None:
        while not enough.wait(0.05):
            waiting = "SELECT count(*) < 100 FROM job WHERE kind = 'delivery' AND state = 'queued'"
            if service.query(waiting) == [(1,)]:
                ids.extend(service.send() for _ in range(20))

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_a_second_worker_gets_its_share_of_the_connections(tmp_path: Path, scripted: StartScripted) -> None:
    """The first has all of them and enough to do; it gives up half, and goes on with the rest."""
    server = scripted()
    server.on("DOT", do=Reply(None, after=0.3))
    with Installation(tmp_path, [HEADER, row(server, connections="8")]) as service:
        ids = [service.send() for _ in range(100)]
        eventually(lambda: server.open_connections == 8, message="all connections to be open")
        with contextlib.ExitStack() as food:
            food.enter_context(feeding(service, ids))
            with second_worker(service):
                shares = "SELECT count(*) FROM connection GROUP BY worker_id ORDER BY 1"
                eventually(lambda: service.query(shares) == [(4,), (4,)], 60, "half of them each")
                food.close()
                for request_id in ids:
                    service.wait_for(request_id, timeout=60)
        assert len(service.query("SELECT DISTINCT worker_id FROM attempt")) == 2
        assert len(server.messages) == len(ids)
