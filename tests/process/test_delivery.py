"""A whole installation against a server that misbehaves: what a person sees of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from postroom import setup
from postroom.accept import accept
from postroom.deliver import deliver
from postroom.model import MessageState, Submission
from postroom.worker import Worker
from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation
from tests.servers.scripted import Drop, ScriptedServer
from tests.servers.waiting import eventually


def install(folder: Path, server: ScriptedServer, connections: int = 2, **settings: str) -> Installation:
    rows = [
        "key,email,app_password,host,port,security,connections",
        f"{KEY},me@postroom.example,secret,127.0.0.1,{server.port},none,{connections}",
    ]
    return Installation(folder, rows, **{"POSTROOM_RETRY_SCHEDULE": "300ms", **settings})


def test_a_lost_answer_to_the_dot_is_sent_again_and_says_so(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", do=Drop(""), times=1)
    with install(tmp_path, server) as service:
        request_id = service.send()
        service.wait_for(request_id)
        answer = service.client.call("GET", f"/email-status/{request_id}").document
        assert answer == {"request_id": request_id, "status": "sent", "possible_duplicate": True}
        assert len(server.transactions) == 2
        assert server.transactions[0].data == server.transactions[1].data, (
            "a second copy is the same to the byte"
        )
        other = service.send()
        service.wait_for(other)
        answer = service.client.call("GET", f"/email-status/{other}").document
        assert answer == {"request_id": other, "status": "sent"}


def test_a_lost_answer_can_fail_the_mail_instead(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", do=Drop(""))
    with install(tmp_path, server, POSTROOM_IN_DOUBT="fail") as service:
        assert "did not say whether it took the message" in service.wait_for(service.send(), "failed")
        assert len(server.transactions) == 1


def test_a_lost_answer_can_hold_the_mail(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", do=Drop(""), times=1)
    with install(tmp_path, server, POSTROOM_IN_DOUBT="hold") as service:
        held = service.send()
        service.wait_for(held, "deferred")
        service.wait_for(service.send(), "sent")  # the retry of the first would have come before
        service.wait_for(service.send(), "sent")
        assert service.query("SELECT held FROM job WHERE state = 'queued'") == [(1,)]
        assert len(server.transactions) == 3


def test_many_mails_use_few_connections_and_logins(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    with install(tmp_path, server, connections=3) as service:
        for request_id in [service.send() for _ in range(60)]:
            service.wait_for(request_id)
    assert len(server.messages) == 60
    assert len(server.connections) <= 3
    assert len(server.logins) <= 3


@pytest.mark.parametrize(
    ("verb", "reply"),
    [
        ("AUTH", "454 4.7.0 Too many login attempts, please try again later."),
        ("MAIL", "550 5.4.5 Daily user sending limit exceeded."),
        ("DOT", "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException"),
    ],
)
def test_an_account_at_its_limit_is_parked_and_keeps_its_mail(
    tmp_path: Path, scripted: StartScripted, verb: str, reply: str
) -> None:
    server = scripted()
    server.on(verb, reply=reply)
    with install(tmp_path, server) as service:
        request_id = service.send()
        assert reply[:9] in service.wait_for(request_id, "deferred")
        eventually(lambda: service.query("SELECT state FROM account") == [("parked",)])
        assert service.query("SELECT attempt, state FROM job") == [(0, "queued")], "it burns no attempt"
        later = service.send()
        assert service.status(later) == "queued"


def test_what_is_deferred_for_too_long_fails(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("RCPT", reply="450 4.2.1 too fast")
    with install(tmp_path, server, POSTROOM_RETRY_FOR="1s") as service:
        status = service.wait_for(service.send(), "failed")
        assert status.startswith("failed (given up after too many tries: 450 4.2.1 too fast")
        eventually(lambda: len(service.log_lines()) == 1)


def test_a_surprise_of_our_own_costs_one_attempt_and_no_mail(
    tmp_path: Path,
    scripted: StartScripted,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = scripted()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTROOM_RETRY_SCHEDULE", "100ms")
    (tmp_path / "data.csv").write_text(
        f"key,email,app_password,host,port,security\n{KEY},me@x.example,,127.0.0.1,{server.port},none\n",
        encoding="utf-8",
    )
    service = setup.open_service(migrate=True)
    setup.read_accounts_file(service)
    account = service.store.accounts()[0].account
    request_id = accept(
        service.store, Submission(account, ("you@x.example",), "s", "b"), most_bytes=10_000
    ).request_id
    surprises = [RuntimeError("a bug")]

    async def surprising(*arguments: Any) -> Any:
        if surprises:
            raise surprises.pop()
        return await deliver(*arguments)

    monkeypatch.setattr("postroom.worker.lane.deliver", surprising)

    async def main() -> None:
        worker = Worker(service.settings, service.store, service.vault, var=tmp_path / "var")
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(eventually, lambda: _state(service, request_id) is MessageState.SENT)
        worker.stop()
        await running

    asyncio.run(main())
    kinds = [event.kind for event in service.store.events(request_id)]
    assert kinds == ["accepted", "deferred", "sent"]
    assert "a fault in Postroom" in capsys.readouterr().err
    assert len(server.messages) == 1
    service.store.close()


def _state(service: setup.Service, request_id: str) -> MessageState:
    status = service.store.status(request_id)
    assert status is not None
    return status.state
