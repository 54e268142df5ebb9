"""What an operator sees is the same after a restore and after a move to PostgreSQL: lists, dialogues, counters, notices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation
from tests.servers.postgres import Postgres
from tests.servers.receiver import Receiver
from tests.servers.scrape import check_totals, said_totals, scrape
from tests.servers.scripted import ScriptedServer
from tests.servers.waiting import eventually

MAILBOX = "me@postroom.example"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def url(postgres_server: Postgres) -> Iterator[str]:
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.mark.parametrize("how", ["restore", "move"])
def test_all_looks_are_the_same_afterwards(
    how: str, tmp_path: Path, scripted: StartScripted, url: str
) -> None:
    server = scripted()
    rows = [
        "key,email,app_password,host,port,security",
        f"{KEY},{MAILBOX},secret,127.0.0.1,{server.port},none",
    ]
    with Receiver() as receiver:
        settings = {"POSTROOM_NOTIFY": receiver.url, "POSTROOM_NOTIFY_GATHER": "200ms"}
        service = Installation(tmp_path / "service", rows, **settings)
        with service:
            _live(service, server)
            told, failed = receiver.wait_for("paused", "alert"), receiver.wait_for("failed", "alert")
            before = eventually(lambda: _settled(service), 30, "lists and statistics to be noted")
            service.command("backup", str(tmp_path / "backup.tar"))
            if how == "restore":
                service.command("cancel", service.send())  # which the backup does not know
        if how == "restore":
            service.command("restore", str(tmp_path / "backup.tar"))
        else:
            service = Installation(tmp_path / "service", rows, DATABASE_URL=url, **settings)
            service.command("migrate-store", "var/postroom.db", url)
        server.clear()
        with service:
            after = eventually(lambda: _settled(service), 30, "lists and statistics")
            assert after == before
            service.command("accounts", "resume", MAILBOX)
            assert told["notice_id"] in receiver.wait_for("paused", "recovery")["message"]
            assert [each["event"] for each in receiver.documents("paused")] == ["alert", "recovery"]
            assert receiver.documents("failed") == [failed], "what was told is not told again"
            service.wait_for(service.send())
            assert len(_ask(service, "/v1/emails?status=sent")["data"]) == 3
            check_totals(service, lambda: scrape(service.port, _token(service)))


def _live(service: Installation, server: ScriptedServer) -> None:
    """Send two messages, have two fail, and one whose account is paused; it is cancelled."""
    for number in range(2):
        answer = service.client.call(
            "POST",
            "/send-email",
            {"subject": f"Number {number}", "recipient": "you@postroom.example", "body": "b", "key": KEY},
            {"traceparent": TRACE},
        )
        service.wait_for(answer.document["request_id"])
    server.on("RCPT", reply="550 5.1.1 No such user", times=2)
    for _ in range(2):
        service.wait_for(service.send(recipient="gone@postroom.example"), "failed")
    server.on("AUTH", reply="535 5.7.8 Username and Password not accepted", times=None)
    server.on("MAIL", reply="421 4.7.0 Log in again", times=1)
    waiting = service.send()
    paused = "SELECT 1 FROM account WHERE state = 'paused'"
    eventually(lambda: service.query(paused), 30, "the account to be paused")
    service.command("cancel", waiting)


def _settled(service: Installation) -> Mapping[str, Any] | None:
    """Return everything that is looked at; None while a worker has not noted all of it."""
    stats = _ask(service, "/v1/stats")["data"]
    counts = {name: sum(day[name] for day in stats) for name in ("accepted", "sent", "failed", "cancelled")}
    if counts != {"accepted": 5, "sent": 2, "failed": 2, "cancelled": 1}:
        return None
    everything = _ask(service, "/v1/emails?limit=100")
    assert len(everything["data"]) == 5
    filters = ("status=failed", "to=gone@postroom.example", "subject=number", f"account={MAILBOX}")
    said = said_totals(scrape(service.port, _token(service)))
    histories = [_ask(service, f"/v1/emails/{each['id']}") for each in everything["data"]]
    assert sum("RCPT TO" in str(each) for each in histories) >= 4, "the dialogues are kept"
    return {
        "all": everything,
        "stats": stats,
        "histories": histories,
        "totals": said,
        **{each: _ask(service, f"/v1/emails?{each}") for each in filters},
    }


def _token(service: Installation) -> str:
    return (service.folder / "var/admin.token").read_text(encoding="utf-8").strip()


def _ask(service: Installation, path: str) -> Any:
    headers = {"Authorization": f"Bearer {_token(service)}"}
    answer = service.client.call("GET", path, headers=headers)
    assert answer.status == 200, answer
    return answer.document
