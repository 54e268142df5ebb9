"""`mail_server:app` under other people's WSGI servers, with `postroom worker` beside them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import logs
from tests.servers.installation import KEY, ROOT, Client, account_rows
from tests.servers.programs import end, free_port
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

SERVERS = {
    "gunicorn": ["gunicorn", "--workers=2", "--threads=4", "--preload", "--bind=127.0.0.1:{port}"],
    "waitress": ["waitress", "--listen=127.0.0.1:{port}"],
}
COUNT = 40


@contextmanager
def running(folder: Path, *command: str) -> Iterator[None]:
    log = folder / f"{command[0]}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "POSTROOM_RATE_LIMIT": ""},
            stdout=output,
            stderr=output,
        )
    logs.watch(log)
    try:
        yield
    finally:
        assert end(process, timeout=30) in (0, -15)


def answers(client: Client) -> bool:
    try:
        return client.call("GET", "/email-status/none").status == 404
    except OSError:
        return False


def wait_until_sent(client: Client, request_id: str) -> None:
    def is_sent() -> bool:
        return bool(client.call("GET", f"/email-status/{request_id}").document["status"] == "sent")

    eventually(is_sent, 60, f"{request_id} to be sent")


@pytest.mark.parametrize("server", SERVERS)
def test_accepts_under_another_server_what_a_worker_sends(server: str, tmp_path: Path, sink: Sink) -> None:
    (tmp_path / "data.csv").write_text("\n".join(account_rows(sink.port)) + "\n")
    port = free_port()
    command = [word.format(port=port) for word in SERVERS[server]]
    client = Client(port)
    with running(tmp_path, *command, "mail_server:app"):
        eventually(lambda: answers(client), 60, f"{server} to answer")
        with running(tmp_path, "postroom", "worker"):
            document = {"subject": "s", "recipient": "you@postroom.example", "body": "b", "key": KEY}
            posted = [client.call("POST", "/send-email", document) for _ in range(COUNT)]
            assert {answer.status for answer in posted} == {202}
            for answer in posted:
                wait_until_sent(client, answer.document["request_id"])
    client.close()
