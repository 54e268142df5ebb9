"""One key cannot fill the disk up to the reserve: what is left stays for others."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from postroom.cli.main import main
from postroom.intake import disk_share
from postroom.runtime.installation import Service
from postroom.store.sqlite.engine import SQLiteEngine

ALICE, BOB = "alice-key-0123456789", "bob-key-9876543210"
ROOM = 100_000


def test_a_key_takes_no_more_of_the_disk_than_its_share(
    service: Service,
    make_app: Callable[..., Flask],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(disk_share, "ALWAYS", 0)
    service.store._engine._space = math.inf, ROOM, 10 * ROOM  # type: ignore[attr-defined]
    client = make_app(disk_reserve=0).test_client()

    def post(key: str, size: int) -> TestResponse:
        document = {"subject": "s", "recipient": "a@example.org", "body": "x\n" * (size // 2), "key": key}
        return client.post("/send-email", json=document)

    answers = [post(ALICE, ROOM * 7 // 10) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [202] * 3 + [429] * 3
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert answers[-1].get_json()["type"] == "urn:problem:postroom:quota-exceeded"
    assert "share of the disk" in answers[-1].get_json()["detail"]
    assert "alice@example.com has used up its share of the disk" in caplog.text
    assert post(BOB, ROOM // 2).status_code == 202


def test_the_command_is_held_to_it_too(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk_share, "ALWAYS", 0)
    monkeypatch.setattr(SQLiteEngine, "_look_at_space", lambda engine: (0.0, ROOM, 10 * ROOM))
    monkeypatch.setenv("POSTROOM_DISK_RESERVE", "0")
    body = "x\n" * (ROOM * 7 // 20)
    words = ["send", "--from", "alice@example.com", "--to", "a@example.org", "--body", body]
    statuses = []
    for _ in range(5):
        monkeypatch.setattr(sys, "argv", ["postroom", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        statuses.append(ended.value.code)
    assert statuses == [0, 0, 0, 75, 75]
    assert "share of the disk" in capsys.readouterr().err


def test_an_account_always_has_some_room(service: Service, make_app: Callable[..., Flask]) -> None:
    service.store._engine._space = math.inf, 1, disk_share.ALWAYS  # type: ignore[attr-defined]
    client = make_app(disk_reserve=0).test_client()
    document = {"subject": "s", "recipient": "a@example.org", "body": "b", "key": ALICE}
    assert client.post("/send-email", json=document).status_code == 202
