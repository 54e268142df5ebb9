"""Servers that offer PIPELINING or CHUNKING and do not take it: all is sent, once, and no try is counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.conftest import StartScripted
from tests.servers.installation import Installation
from tests.servers.scripted import Ahead, Drop, ScriptedServer
from tests.servers.waiting import eventually

MESSAGES = 60


def servers(scripted: StartScripted) -> dict[str, ScriptedServer]:
    """Return one server for each way in which what is sent ahead can fail, by the name of its account."""
    found = {
        f"{way.name.lower()}-{'bdat' if chunking else 'data'}": scripted(ahead=way, chunking=chunking)
        for way in Ahead
        for chunking in (False, True)
    }
    for name, end, chunking in (("gone-data", "DOT", False), ("gone-bdat", "BDAT", True)):
        found[name] = scripted(chunking=chunking)
        found[name].on(end, do=Drop(None), match="LAST" if chunking else "")
    found["no-bdat"] = scripted(chunking=True)
    found["no-bdat"].on("LINE", "502 5.5.1 Command not implemented", match="BDAT ")
    return found


def test_all_is_sent_once_whatever_becomes_of_what_is_sent_ahead(
    tmp_path: Path, scripted: StartScripted
) -> None:
    there = servers(scripted)
    rows = ["key,email,app_password,host,port,security,connections"]
    rows += [
        f"key-{name},{name}@postroom.example,secret,127.0.0.1,{each.port},none,4"
        for name, each in there.items()
    ]
    with Installation(tmp_path, rows) as service:
        for number in range(MESSAGES):
            for name in there:
                service.post(key=f"key-{name}", subject=f"message {number}")
        sent = "SELECT count(*) FROM job WHERE kind = 'delivery' AND state = 'done'"
        eventually(lambda: service.query(sent) == [(MESSAGES * len(there),)], 100, "all to be sent")
        assert service.query("SELECT DISTINCT attempt FROM job WHERE kind = 'delivery'") == [(1,)], (
            "no try was counted"
        )
        kinds = service.query("SELECT DISTINCT kind FROM event ORDER BY kind")
        assert kinds == [("accepted",), ("sent",)]
        shown = {
            row["account"]: row["server_lacks"] for row in json.loads(service.command("accounts", "--json"))
        }
        log = service.log()
    for name, server in there.items():
        subjects = Counter(each.data.split(b"\r\n\r\n")[0] for each in server.messages)
        assert len(subjects) == MESSAGES, name
        assert set(subjects.values()) == {1}, name
        lacks = shown[f"{name}@postroom.example"]
        assert (lacks is None) == name.startswith("gone"), name
        warned = log.count(f"account {name}@postroom.example does without it")
        assert warned == (0 if lacks is None else len(lacks["extensions"])), name
