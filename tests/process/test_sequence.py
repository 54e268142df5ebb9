"""Mail that follows mail on one connection: what the fate of one means for the next, seen from outside."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation
from tests.servers.scripted import Drop, Held, Leave, ScriptedServer
from tests.servers.waiting import eventually

POSTED = threading.Event()


def install(folder: Path, server: ScriptedServer, **columns: str) -> Installation:
    """One account with one connection, whose server greets no sooner than `send` is through: all waits in the lane."""
    server.on("GREETING", do=Held(POSTED), times=1)
    values = {
        "key": KEY,
        "email": "me@postroom.example",
        "app_password": "secret",
        "host": "127.0.0.1",
        "port": str(server.port),
        "security": "none",
        "connections": "1",
        **columns,
    }
    rows = [",".join(values), ",".join(values.values())]
    return Installation(folder, rows, POSTROOM_RETRY_SCHEDULE="300ms")


def send(service: Installation, count: int) -> list[str]:
    POSTED.clear()
    ids = [service.send() for _ in range(count)]
    enough = f"SELECT count(*) >= {min(count, 3)} FROM job WHERE kind = 'delivery' AND state = 'claimed'"
    eventually(lambda: service.query(enough) == [(1,)], message="mail to be in the lane")
    POSTED.set()
    return ids


def events(service: Installation) -> dict[str, int]:
    return dict(service.query("SELECT kind, count(*) FROM event GROUP BY kind"))


def test_an_account_may_go_without(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    answered = threading.Event()
    server.on("DOT", do=Held(answered), times=1)
    with install(tmp_path, server, pipelining="no", chunking="no") as service:
        ids = send(service, 3)
        eventually(lambda: len(server.transactions) == 1)
        assert server.plaintext.count(b"MAIL FROM") == 1
        answered.set()
        for request_id in ids:
            service.wait_for(request_id)
    assert not any(transaction.chunked for transaction in server.transactions)


def test_a_server_that_goes_after_every_message_costs_no_attempt(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    server.on("DOT", do=Drop(None))
    with install(tmp_path, server) as service:
        ids = send(service, 12)
        for request_id in ids:
            service.wait_for(request_id)
        assert events(service) == {"accepted": 12, "sent": 12}
        assert service.query("SELECT DISTINCT attempt FROM job WHERE kind = 'delivery'") == [(1,)]
        assert service.query("SELECT count(*) FROM delivery WHERE possible_duplicate = 1") == [(0,)]
    assert len(server.messages) == 12


@pytest.mark.parametrize("farewell", [b"", "421 4.4.2 idle for too long"], ids=["unsaid", "421"])
def test_a_server_that_leaves_an_idle_connection_costs_no_attempt(
    farewell: bytes | str, tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    idle = threading.Event()
    server.on("DOT", do=Leave(idle, farewell), times=1)
    with install(tmp_path, server) as service:
        [first] = send(service, 1)
        service.wait_for(first)
        assert service.query("SELECT count(*) FROM connection") == [(1,)], "it is kept for what comes"
        idle.set()
        eventually(lambda: server.open_connections == 0, message="the server to close it")
        service.wait_for(service.send())
        assert events(service) == {"accepted": 2, "sent": 2}
        assert service.query("SELECT attempt FROM job WHERE kind = 'delivery'") == [(1,), (1,)]
        assert service.query("SELECT outcome FROM attempt") == [("sent",), ("sent",)]
    left, fresh = server.connections
    assert left.verbs == ["EHLO", "AUTH", "MAIL", "RCPT", "DATA"], "nothing was said on it any more"
    assert [len(each.transactions) for each in (left, fresh)] == [1, 1]


def test_an_account_at_its_limit_leaves_the_rest_unsent(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", reply="550 5.4.5 Daily user sending limit exceeded.", times=1)
    with install(tmp_path, server) as service:
        send(service, 3)
        eventually(lambda: service.query("SELECT state FROM account") == [("parked",)])
        eventually(
            lambda: (
                service.query("SELECT DISTINCT attempt, state FROM job WHERE kind = 'delivery'")
                == [(0, "queued")]
            )
        )
        assert events(service) == {"accepted": 3, "deferred": 1}
    assert len(server.transactions) == 1


def test_a_worker_that_drains_leaves_the_rest_to_the_next(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    answered = threading.Event()
    server.on("DOT", do=Held(answered), times=1)
    with install(tmp_path, server) as service:
        ids = send(service, 3)
        eventually(lambda: len(server.transactions) == 1)
        os.kill(service.pid, signal.SIGTERM)
        given_back = "SELECT count(*) FROM job WHERE kind = 'delivery' AND state = 'queued'"
        eventually(lambda: service.query(given_back) == [(2,)], message="the worker to drain")
        answered.set()
        service.stop()
        assert service.query("SELECT state, attempt FROM job WHERE kind = 'delivery' ORDER BY id") == [
            ("done", 1), ("queued", 0), ("queued", 0)
        ]  # fmt: skip
        service.start()
        for request_id in ids:
            service.wait_for(request_id)
        assert events(service) == {"accepted": 3, "sent": 3}
    assert len(server.messages) == 3


def test_a_break_at_the_dot_puts_one_mail_in_doubt_and_not_the_next(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted(chunking=True)
    server.on("BDAT", do=Drop(""), match="LAST", times=1)
    with install(tmp_path, server) as service:
        ids = send(service, 3)
        for request_id in ids:
            service.wait_for(request_id)
        flagged = service.query("SELECT message_id FROM delivery WHERE possible_duplicate = 1")
        assert flagged == [(1,)]
        assert service.query("SELECT attempt FROM job WHERE kind = 'delivery' ORDER BY id") == [
            (2,),
            (1,),
            (1,),
        ]
    assert len(server.transactions) == 4
