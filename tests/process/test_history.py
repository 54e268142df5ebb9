"""The history of messages: what is recorded of each attempt, on both engines, and that no secret is."""

from __future__ import annotations

import json
from pathlib import Path

from postroom.core.dialogue import parse
from tests.conftest import StartScripted
from tests.servers.installation import Installation
from tests.servers.programs import free_port
from tests.servers.scripted import Hang
from tests.servers.waiting import eventually

CANARY = "canary pass word"
SCREEN = 24  # lines
HEAD = "key,email,app_password,host,port,security"
ATTEMPTS = """\
SELECT account.email, attempt.outcome, attempt.blame, attempt.phase, attempt.dialogue
FROM attempt JOIN job ON job.id = attempt.job_id JOIN account ON account.id = job.lane ORDER BY attempt.id"""


def test_each_attempt_says_at_which_step_it_ended_and_what_was_said(
    tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    takes, refuses, asks = scripted(users={"takes@x.example": CANARY}), scripted(), scripted()
    refuses.on("AUTH", reply=f"535 5.7.8 no: {CANARY}\x1b[31m")
    asks.on("RCPT", reply="550 5.1.1 nobody here")
    ports = {"takes": takes.port, "refuses": refuses.port, "asks": asks.port, "closed": free_port()}
    rows = [f"key-{name},{name}@x.example,{CANARY},127.0.0.1,{port},none" for name, port in ports.items()]
    rows.append(f"key-lost,lost@x.example,{CANARY},no-such-host.invalid,25,starttls")
    with Installation(tmp_path, [HEAD, *rows], **database_settings) as service:
        for name in (*ports, "lost"):
            service.send(key=f"key-{name}")
        eventually(lambda: len(service.query(ATTEMPTS)) >= 5, 60, "an attempt of each")
        ids = dict(
            service.query(
                "SELECT account.email, request_id FROM message JOIN account ON account_id = account.id"
            )
        )
        refused = service.run("status", ids["refuses@x.example"])
        assert refused.returncode == 1
        assert " failed at AUTH, by the account" in refused.stdout
        assert "the server does not accept this user name and password" in refused.stdout
        assert len(refused.stdout.splitlines()) <= SCREEN
        assert CANARY not in refused.stdout
        first = {row[0].partition("@")[0]: row[1:] for row in reversed(service.query(ATTEMPTS))}
    assert {name: row[:3] for name, row in first.items()} == {
        "takes": ("sent", None, "DATA end"),
        "refuses": ("failed", "account", "AUTH"),
        "asks": ("failed", "recipient", "RCPT"),
        "closed": ("deferred", "connection", "CONNECT"),
        "lost": ("failed", "account", "CONNECT"),
    }
    said = {name: [f"{line.speaker}: {line.text}" for line in parse(row[3])] for name, row in first.items()}
    assert all(lines[0].startswith("*: CONNECT ") for lines in said.values())
    assert "C: AUTH PLAIN [struck]" in said["takes"]
    assert said["refuses"][-1] == "S: 535 5.7.8", "the refusal held the password"
    assert "S: 550 5.1.1 nobody here" in said["asks"]
    assert "no such host" in said["lost"][-1]
    assert not [word for word in ("canary", "\x1b") for lines in said.values() if word in str(lines)]


def test_one_screen_says_why_a_message_has_not_arrived(
    tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    silent, takes = scripted(), scripted()
    silent.on("MAIL", do=Hang())
    rows = [
        f"key-silent,silent@x.example,,127.0.0.1,{silent.port},none,",
        f"key-limited,limited@x.example,,127.0.0.1,{takes.port},none,1",
    ]
    settings = {"POSTROOM_SMTP_TIMEOUT": "500ms", **database_settings}
    service = Installation(tmp_path, [f"{HEAD},daily_limit", *rows], **settings)
    with service:
        silent_id = service.send(key="key-silent")
        service.wait_for(service.send(key="key-limited"))
        limited_id = service.send(key="key-limited")
        service.wait_for(silent_id, "deferred")
        eventually(
            lambda: "which is parked until" in service.run("status", limited_id).stdout, 30, "the limit"
        )
        shown = {"silent": service.run("status", silent_id), "limited": service.run("status", limited_id)}
        document = json.loads(service.run("status", silent_id, "--json").stdout)
    shown["stopped"] = service.run("status", limited_id)
    lines = {name: run.stdout.splitlines() for name, run in shown.items()}
    assert all(0 < len(each) <= SCREEN for each in lines.values())
    assert any("deferred at MAIL, by the connection" in line for line in lines["silent"])
    assert any("* no answer to MAIL within 0.5 s" in line for line in lines["silent"])
    assert any("waits for its next try at" in line for line in lines["silent"])
    assert any("limit of 1 recipients" in line for line in lines["limited"])
    assert not any("no worker runs" in line for line in lines["limited"])
    assert any("no worker runs" in line and "postroom serve" in line for line in lines["stopped"])
    assert document["attempts"][0]["dialogue"][-1]["text"].startswith("no answer to MAIL")
