"""Thirty accounts with messages that wait, four of which cannot log in: log and `postroom accounts` name those four."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conftest import StartScripted
from tests.servers.installation import Installation
from tests.servers.waiting import eventually

REFUSED = "535 5.7.8 Username and Password not accepted"
HEADER = "key,email,app_password,host,port,security"
WRONG = ("wrong0@x.example", "wrong1@x.example", "wrong2@x.example")  # they never worked
CHANGED = "changed@x.example"
WELL = tuple(f"well{number}@x.example" for number in range(26))
EACH = 3  # messages


def test_the_four_that_cannot_log_in_are_named_and_nothing_is_lost(
    tmp_path: Path, scripted: StartScripted
) -> None:
    well, ill, changing = scripted(), scripted(), scripted()
    ill.on("AUTH", reply=REFUSED)
    servers = {CHANGED: changing, **dict.fromkeys(WRONG, ill)}
    mailboxes = (*WELL, *WRONG, CHANGED)
    rows = [
        f"key of {name},{name},secret,127.0.0.1,{servers.get(name, well).port},none" for name in mailboxes
    ]
    service = Installation(tmp_path, [HEADER, *rows])
    with service:
        service.wait_for(service.send(key=f"key of {CHANGED}"))
    changing.on("AUTH", reply=REFUSED)  # the stop has closed its connection
    (tmp_path / "serve.log").unlink()
    with service:
        ids = {name: [service.send(key=f"key of {name}") for _ in range(EACH)] for name in mailboxes}
        eventually(lambda: set(_in_trouble(service)) == {*WRONG, CHANGED}, 60, "the four to be named")
        found = _in_trouble(service)
        eventually(lambda: all(_warnings(service, name) for name in (*WRONG, CHANGED)), 60, "the warnings")
        for name in WELL:
            assert _warnings(service, name) == []
            for id_ in ids[name]:
                service.wait_for(id_)
        for name in WRONG:
            assert found[name]["state"] == "failing"
            assert REFUSED in _warnings(service, name)[0]
            reasons = {service.wait_for(id_, "failed") for id_ in ids[name]}
            assert all(REFUSED in reason for reason in reasons), "each says why"
        assert found[CHANGED]["state"] == "paused"
        for id_ in ids[CHANGED]:
            assert REFUSED in service.wait_for(id_, "deferred (account paused: ")
        for row in found.values():
            assert REFUSED in row["reason"]
            assert "app password" in row["reason"], "with the fix"
        counts = {row["account"]: row["messages"] for row in _accounts(service)}
    assert counts == {
        **{name: _counts(sent=EACH) for name in WELL},
        **{name: _counts(failed=EACH) for name in WRONG},
        CHANGED: _counts(sent=1, waiting=EACH),
    }


def _counts(**some: int) -> dict[str, int]:
    return {"waiting": 0, "held": 0, "sent": 0, "failed": 0, "cancelled": 0} | some


def _accounts(service: Installation) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(service.command("accounts", "--json"))
    return rows


def _in_trouble(service: Installation) -> dict[str, dict[str, Any]]:
    return {row["account"]: row for row in _accounts(service) if row["state"] != "active"}


def _warnings(service: Installation, mailbox: str) -> list[str]:
    return [
        line for line in service.log().splitlines() if " WARNING " in line and f"account {mailbox}" in line
    ]
