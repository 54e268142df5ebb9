"""A person is erased: the address and what was written to it are found in no file of the installation afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation
from tests.servers.keys import issue_key
from tests.servers.waiting import eventually

TOKEN = "an-admin-token-of-more-than-thirty-two-characters"
CANARY = "canary.person@Private.example"
OTHER = "somebody.else@private.example"
MARK = "canary-of-the-text"
GIVEN = {"subject": f"For {MARK}", "body": f"Dear {MARK}"}


def rows(port: int) -> list[str]:
    at = f"127.0.0.1,{port},none"
    return [
        "key,email,app_password,host,port,security",
        f"{KEY},me@postroom.example,,{at}",
        f"{KEY}-of-the-inbox,box@postroom.example,,inbox,,",
        f"{KEY}-of-the-slow,slow@postroom.example,,{at}",
    ]


def found_in_files(service: Installation) -> list[str]:
    """Return the files of the installation in which the person is named, in whatever case."""
    marks = (CANARY.lower().encode(), MARK.encode())
    files = [*service.folder.glob("var/**/*"), *service.folder.glob("email_log.txt*")]
    return [
        f"{mark.decode()} in {path.relative_to(service.folder)}"
        for path in files
        if path.is_file()
        for mark in marks
        if mark in path.read_bytes().lower()
    ]


def erase(service: Installation, *words: str, status: int = 0) -> dict[str, object]:
    done = service.run("erase", CANARY, "--json", *words)
    assert done.returncode == status, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


@pytest.mark.timeout(180)
def test_nothing_of_a_person_is_left(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("RCPT", reply=f"550 5.1.1 <{CANARY}>: nobody of this name", match="Private", times=1)
    server.on("RCPT", reply="250 2.1.5 it is taken")
    home = tmp_path / "service"
    settings = {"POSTROOM_ADMIN_TOKEN": TOKEN, "POSTROOM_RETRY_SCHEDULE": "1h"}
    with Installation(home, rows(server.port), **settings) as service:
        test_key = issue_key(service, "me@postroom.example", is_test=True)
        failed = service.send(recipient=CANARY, **GIVEN)
        service.wait_for(failed, "failed")
        sent = [
            service.send(recipient=CANARY, key=key, **GIVEN) for key in (KEY, f"{KEY}-of-the-inbox", test_key)
        ]
        for request_id in sent:
            service.wait_for(request_id)
        large = service.send(recipient=CANARY, subject=MARK, body=f"{MARK} " * 100_000)
        service.wait_for(large)
        call = service.client.call
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        [slow] = [
            each["id"] for each in call("GET", "/v1/accounts", None, bearer).document["data"]
            if each["email"] == "slow@postroom.example"
        ]  # fmt: skip
        call("POST", f"/v1/accounts/{slow}/pause", {}, bearer)
        waits = service.send(recipient=CANARY, key=f"{KEY}-of-the-slow", **GIVEN)
        others = service.send(recipient=OTHER)
        service.wait_for(others)
        allowed = call(
            "POST",
            f"/v1/accounts/{slow}/keys",
            {"name": "for one", "allowed_recipients": [CANARY, OTHER]},
            bearer,
        )
        assert allowed.status == 201
        eventually(lambda: len(service.log_lines()) == 6, message="a line for each message that has ended")
        assert found_in_files(service)

        looked = erase(service, "--dry-run")
        assert (looked["inbox_messages"], looked["log_lines"]) == (1, 5)
        assert looked["messages"] == {
            "erased": 5, "cancelled": 1, "spared": 0, "sending": 0, "held": 0
        }  # fmt: skip
        assert service.status(waits) == "queued" or service.status(waits).startswith("deferred")
        done = erase(service)
        assert done["complete"] is True
        assert done["inbox_messages"] == 1
        assert done["log_lines"] == 5
        eventually(
            lambda: len(service.log_lines()) == 7, message="the line of the message that was cancelled"
        )
        assert service.status(failed).startswith("failed (")
        assert CANARY not in service.status(failed)
        assert service.status(waits) == "cancelled"
        assert [service.status(request_id) for request_id in (*sent, large, others)] == ["sent"] * 5
        assert service.contents().keys() == {others}
        # The address is nobody's now: a repetition finds nothing.
        assert erase(service)["messages"] == dict.fromkeys(
            ("erased", "cancelled", "spared", "sending", "held"), 0
        )
        audit = service.command("audit", "--json")
        assert "person.erase" in audit
        assert not found_in_files(service)
    assert not found_in_files(service)
    assert any(OTHER in line for line in service.log_lines())


def test_an_account_is_not_erased_as_a_person(tmp_path: Path) -> None:
    with Installation(tmp_path / "service", rows(1)) as service:
        done = service.run("erase", "ME@postroom.example")
        assert done.returncode == 1
        assert "is an account of this installation" in done.stderr
        done = service.run("erase", "nobody")
        assert done.returncode == 2
        assert "has no @" in done.stderr


def test_what_went_to_a_person_is_exported(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    home = tmp_path / "service"
    with Installation(home, rows(server.port)) as service:
        ids = [service.send(recipient=CANARY, **GIVEN), service.send(recipient=CANARY, body="x" * 700_000)]
        other = service.send(recipient=OTHER)
        for request_id in (*ids, other):
            service.wait_for(request_id)
        contents = service.contents()
        service.command("export", "--recipient", CANARY, "theirs")
        lines = [json.loads(line) for line in (home / "theirs/messages.ndjson").read_text().splitlines()]
        assert [line["id"] for line in lines] == ids[::-1]
        assert {line["status"] for line in lines} == {"sent"}
        for request_id in ids:
            assert (home / f"theirs/{request_id}.eml").read_bytes() == contents[request_id]
        assert (home / "theirs").stat().st_mode & 0o777 == 0o700
        service.command("export", "--account", "me@postroom.example", "all")
        assert len(list((home / "all").glob("*.eml"))) == 3
        assert service.command("audit", "--json").count("messages.export") == 2
        again = service.run("export", "--recipient", CANARY, "theirs")
        assert (again.returncode, "not empty" in again.stderr) == (75, True)
        entries = service.command("audit", "--json")
        assert entries.count("messages.export") == 2  # what is refused is no export
        assert str(home.resolve() / "theirs") in entries
        assert service.run("export", "--account", "nobody@postroom.example", "none").returncode == 1
