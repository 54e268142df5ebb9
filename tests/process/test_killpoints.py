"""A process killed at every point of a message's way: nothing lost, and every duplicate known.

`POSTROOM_KILLS` says how often each point kills (1 in `make test`, 25 in `make soak`).
"""

from __future__ import annotations

import http.client
import os
import threading
from pathlib import Path

import pytest
import trustme

from postroom.failpoint import POINTS, VARIABLE
from tests.servers.installation import KEY, Installation, account_rows
from tests.servers.ledger import all_ended, check_ledger, held_mails
from tests.servers.scripted import ScriptedServer
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

KILLS = int(os.environ.get("POSTROOM_KILLS", "1"))
CLIENTS = 4
SENDING = [
    point
    for point in POINTS
    if point not in ("recover.inside", "migrate.inside", "move.copied", "session.tls", "session.auth")
]


class Posting:
    """Clients that post until told to end, and note each id that got its 202."""

    def __init__(self, service: Installation, size: int) -> None:
        self._service = service
        self._body = "x" * size
        self._ended = threading.Event()
        self.accepted: list[str] = []
        self._threads = [threading.Thread(target=self._post) for _ in range(CLIENTS)]

    def __enter__(self) -> Posting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _post(self) -> None:
        while not self._ended.wait(0.01):
            try:
                self.accepted.append(self._service.send(body=self._body))
            except (OSError, http.client.HTTPException):
                continue


def deaths(note: Path) -> int:
    return len(note.read_text().splitlines()) if note.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * KILLS)
@pytest.mark.parametrize("point", SENDING)
def test_a_kill_at(point: str, tmp_path: Path, database_settings: dict[str, str]) -> None:
    note, folder = tmp_path / "deaths", tmp_path / "service"
    size = 600_000 if point == "send.body" else 500  # one body of several blocks, killed between them
    every = 1 if point == "session.connect" else 7
    with Sink(ledger=tmp_path / "ledger") as sink:
        armed = Installation(
            folder, account_rows(sink.port), **database_settings, **{VARIABLE: f"{point}:{every}:{note}"}
        )
        with armed, Posting(armed, size) as posting:
            eventually(lambda: posting.accepted, 60, "a first mail")
            early = deaths(note)  # a start commits too: a process may die before it has taken any mail
            eventually(lambda: deaths(note) - early >= KILLS, 60 + 15 * KILLS, f"{KILLS} deaths at {point}")
        with Installation(folder, account_rows(sink.port), **database_settings) as service:
            eventually(lambda: all_ended(service), 60, "the queue to empty")
            held = held_mails(service)
            assert len(held) <= max(0, deaths(note) - 2), (
                "each death from the third on sets aside one mail at most"
            )
            for request_id in held:
                service.command("release", request_id)
            eventually(lambda: all_ended(service), 60, "what was released to be sent")
            twice = check_ledger(service, sink, posting.accepted)
            print(
                f"{point}: {len(posting.accepted)} mails, {deaths(note)} deaths, {len(twice)} twice, {len(held)} held"
            )
            assert not (twice and point.startswith(("accept.", "session."))), (
                f"a kill at {point} sends nothing twice"
            )


@pytest.mark.parametrize("point", ["session.tls", "session.auth"])
def test_a_kill_while_the_session_is_made(point: str, tmp_path: Path, ca: trustme.CA, ca_file: Path) -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    server = ScriptedServer(tls=context)
    server.start()
    note = tmp_path / "deaths"
    rows = ["key,email,app_password,host,port", f"{KEY},me@postroom.example,secret,localhost,{server.port}"]
    settings = {"POSTROOM_SMTP_CA_FILE": str(ca_file)}
    try:
        armed = Installation(tmp_path / "service", rows, **settings, **{VARIABLE: f"{point}:1:{note}"})
        with armed:
            request_id = armed.send()
            eventually(lambda: deaths(note) >= KILLS, 60 + 15 * KILLS, f"{KILLS} deaths at {point}")
        with Installation(tmp_path / "service", rows, **settings) as service:
            service.wait_for(request_id)
            assert len(server.messages) == 1
    finally:
        server.stop()


def test_a_kill_while_dead_workers_are_buried(tmp_path: Path, database_settings: dict[str, str]) -> None:
    note, folder = tmp_path / "deaths", tmp_path / "service"
    with Sink(ledger=tmp_path / "ledger") as sink:
        rows = account_rows(sink.port)
        with Installation(folder, rows, **database_settings, **{VARIABLE: f"send.marked:5:{note}"}) as armed:
            with Posting(armed, 500) as posting:
                eventually(lambda: deaths(note) >= 1, 60)
            armed.stop(9)
        with Installation(
            folder, rows, **database_settings, **{VARIABLE: f"recover.inside:1:{note}"}
        ) as armed:
            eventually(lambda: deaths(note) >= 2, 60)
            armed.stop(9)
        with Installation(folder, rows, **database_settings) as service:
            eventually(lambda: all_ended(service), 60, "the queue to empty")
            check_ledger(service, sink, posting.accepted)


def test_a_kill_inside_a_migration_leaves_all_of_it_or_nothing(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    import subprocess
    import sys

    note = tmp_path / "deaths"
    command = [sys.executable, "-m", "postroom", "migrate"]
    environment = {**os.environ, **database_settings}
    armed = {**environment, VARIABLE: f"migrate.inside:1:{note}"}
    killed = subprocess.run(command, cwd=tmp_path, env=armed, capture_output=True, check=False)
    assert killed.returncode == -9
    assert deaths(note) == 1
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "applied 0001_initial" in again.stderr
