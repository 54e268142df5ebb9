"""`postroom log`, `stats` and `top`: what they show, as lines and as JSON, and how they end."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from postroom.core.clock import DAY, rfc3339, system_clock
from postroom.store.store import open_store
from postroom.web.admin.email_lists import ListedEmail
from postroom.web.admin.stats import DayAnswer
from postroom.worker.listings import ListingRunner
from tests.process.test_cli import POSTROOM, Folder, environment


@pytest.fixture
def ids(folder: Folder) -> dict[str, str]:
    """Two accounts with a message each, of which alice's is cancelled."""
    folder.accounts("the-key-of-alice,alice@example.com,,inbox", "key-of-bob,bob@example.com,,inbox")
    folder.prepare()
    made = {}
    for sender, to in (("alice@example.com", "ada@example.org"), ("bob@example.com", "Bo@example.net")):
        mail = ("--from", sender, "--to", to, "--subject", "Invoice 7", "--body", "x")
        made[sender] = folder.run("send", *mail).stdout.strip()
    folder.run("cancel", made["alice@example.com"])
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def documents(folder: Folder, *words: str) -> list[dict[str, Any]]:
    done = folder.run(*words, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- log


def test_log_shows_messages_by_each_filter(folder: Folder, ids: dict[str, str]) -> None:
    alice, bob = ids.values()
    lines = folder.run("log").stdout.splitlines()
    assert [line.split()[1:3] for line in lines] == [["cancelled", alice], ["queued", bob]]
    assert lines[1].endswith("bob@example.com -> Bo@example.net")
    tomorrow = rfc3339(system_clock() + DAY)
    for words, found in (
        ((), [alice, bob]),
        (("-n", "1"), [bob]),
        (("-n", "0"), []),
        (("--account", "alice@example.com"), [alice]),
        (("--to", "bo@EXAMPLE.net"), [bob]),
        (("--to", "@example.org"), [alice]),
        (("--status", "cancelled"), [alice]),
        (("--status", "sent"), []),
        (("--subject", "inv 7"), [alice, bob]),
        (("--subject", "inv 8"), []),
        (("--since", "1h"), [alice, bob]),
        (("--until", "1h"), []),
        (("--since", tomorrow), []),
    ):
        assert [each["id"] for each in documents(folder, "log", *words)] == found, words


def test_log_shows_events(folder: Folder, ids: dict[str, str]) -> None:
    alice, bob = ids.values()
    events = documents(folder, "log", "--events")
    assert [(each["event"], each["id"]) for each in events] == [
        ("accepted", alice),
        ("cancelled", alice),
        ("accepted", bob),
    ]
    assert [line.split()[1] for line in folder.run("log", "--events").stdout.splitlines()] == [
        "accepted",
        "cancelled",
        "accepted",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("log", "--to", "nobody"), "--to"),
        (("log", "--status", "delivered"), "--status"),
        (("log", "--since", "yesterday"), "no duration such as 7d"),
        (
            ("log", "--since", "2027-01-02", "--until", "2027-01-02"),
            "'--until': the end is not after the beginning",
        ),
        (
            ("stats", "--since", "2027-01-02", "--until", "2027-01-01"),
            "'--until': the end is not after the beginning",
        ),
        (("log", "--since", ""), "--since"),
        (("log", "--status", ""), "--status"),
        (("log", "--account", ""), "'--account': it is empty: give a value, or leave it out"),
        (("keys", "list", "--account", ""), "'--account': it is empty: give a value, or leave it out"),
        (("export", "folder", "--account", ""), "'--account': it is empty: give a value, or leave it out"),
        (
            ("export", "folder", "--recipient", ""),
            "'--recipient': it is empty: give a value, or leave it out",
        ),
        (("log", "--subject", " "), "'--subject': it is empty"),
        (("log", "--to", ""), "'--to': it is empty"),
        (("list", "--account", ""), "'--account': it is empty"),
        (("stats", "--account", ""), "'--account': it is empty"),
        (("export", "--recipient", "nobody", "out"), "--recipient"),
        (("stats", "--since", "2027-02-30"), "no duration such as 7d"),
        (("top", "--every", "0"), "--every"),
    ],
)
def test_what_cannot_be_understood_is_wrong_usage(folder: Folder, words: tuple[str, ...], said: str) -> None:
    folder.prepare()
    done = folder.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["log", "stats"])
def test_an_unknown_account_is_refused(folder: Folder, command: str) -> None:
    folder.prepare()
    done = folder.run(command, "--account", "nobody@example.com")
    assert (done.returncode, done.stderr) == (1, "postroom: there is no account 'nobody@example.com'\n")


def test_log_follows_what_comes_and_changes(folder: Folder, ids: dict[str, str]) -> None:
    def waits_for(*words: str) -> tuple[list[str], int]:
        following = subprocess.Popen(
            [sys.executable, *POSTROOM, "log", "--follow", "--json", "-n", "1", *words],
            cwd=folder.path,
            env=environment({}),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert following.stdout is not None
            lines = [following.stdout.readline()]
            mail = ("--from", "alice@example.com", "--to", "carol@example.org", "--body", "x")
            request_id = folder.run("send", *mail).stdout.strip()
            lines.append(following.stdout.readline())
            folder.run("cancel", request_id)
            lines.append(following.stdout.readline())
            following.send_signal(signal.SIGINT)
            status = following.wait(60)
            lines += following.stdout.readlines()
        finally:
            following.kill()
            following.communicate()
        found = [json.loads(line) for line in lines]
        assert {each["id"] for each in found[1:]} == {request_id}
        return [each.get("event") or each["status"] for each in found[1:]], status

    assert waits_for("--account", "alice@example.com") == (["queued", "cancelled"], 0)


# --- stats


def _note(folder: Folder) -> None:
    with closing(open_store(f"sqlite:///{folder.path / 'var' / 'postroom.db'}")) as store:
        ListingRunner(store, lambda: False).run()


def test_stats(folder: Folder, ids: dict[str, str]) -> None:
    assert folder.run("stats").stderr == "nothing was accepted or sent in that time\n"
    _note(folder)
    found = documents(folder, "stats")
    for account, counts in (("alice@example.com", (1, 1)), ("bob@example.com", (1, 0))):
        of_one = [each for each in found if each["mailbox"] == account]
        assert tuple(sum(each[name] for each in of_one) for name in ("accepted", "cancelled")) == counts
    head, *lines = folder.run("stats").stdout.splitlines()
    assert head.split() == [
        "day",
        "account",
        "accepted",
        "sent",
        "deferred",
        "failed",
        "cancelled",
        "median",
        "p95",
    ]
    (of_bob,) = [line.split() for line in lines if "bob" in line]
    assert of_bob[1:] == ["bob@example.com", "1", "0", "0", "0", "0", "-", "-", of_bob[-1]]
    assert of_bob[-1] in ("█" * 24, "#" * 24)
    assert [each["mailbox"] for each in documents(folder, "stats", "--account", "bob@example.com")] == [
        "bob@example.com"
    ]
    assert documents(folder, "stats", "--until", "2000-01-01", "--since", "1999-01-01") == []


def test_list_log_and_stats_have_the_names_of_the_api(folder: Folder, ids: dict[str, str]) -> None:
    _note(folder)
    names = [
        each.alias or each.serialization_alias or name for name, each in ListedEmail.model_fields.items()
    ]
    listed, logged = documents(folder, "list"), documents(folder, "log")
    assert listed == logged
    assert [each["id"] for each in listed] == list(ids.values())
    assert list(listed[0]) == names
    [by_id] = documents(folder, "log", "--account", listed[1]["account"])
    assert by_id == listed[1]
    assert list(documents(folder, "stats")[0]) == list(DayAnswer.model_fields)
    assert documents(folder, "list", "--account", listed[1]["account"]) == [by_id]


def test_top_and_accounts_call_an_account_by_one_word(folder: Folder, ids: dict[str, str]) -> None:
    with closing(sqlite3.connect(folder.path / "var" / "postroom.db")) as database, database:
        database.execute("UPDATE delivery SET reason = '550 no' WHERE state = 'pending'")
    [found] = [json.loads(folder.run("accounts", "--json").stdout)]
    told = {each["account"]: (each["state"], each["reason"]) for each in found}
    assert told == {"alice@example.com": ("active", None), "bob@example.com": ("failing", "550 no")}
    [now] = documents(folder, "top")
    assert {each["account"]: (each["state"], each["reason"]) for each in now["accounts"]} == told
    shown = {line.split()[0]: line.split()[1] for line in folder.run("top").stdout.splitlines()[5:]}
    assert shown == {account: state for account, (state, _) in told.items()}


# --- top


def test_top_is_one_look_where_there_is_no_terminal(folder: Folder, ids: dict[str, str]) -> None:
    lines = folder.run("top").stdout.splitlines()
    assert lines[0].endswith("1 message waiting, 0 held")
    assert re.fullmatch("last minute: [0-2] accepted, 0 sent, 0 deferred, 0 failed", lines[1])
    assert lines[2] == "workers: none is alive: nothing is sent"
    assert sorted(line.split()[:4] for line in lines[5:]) == [
        ["alice@example.com", "active", "0", "0"],
        ["bob@example.com", "active", "1", "0"],
    ]
    assert "\x1b" not in "".join(lines)


def test_top_as_json(folder: Folder, ids: dict[str, str]) -> None:
    [found] = documents(folder, "top")
    assert (found["waiting"], found["held"], found["workers"]) == (1, 0, [])
    assert list(found["per_minute"]) == ["accepted", "sent", "deferred", "failed"]
    by_account = {each["account"]: each for each in found["accounts"]}
    assert by_account["alice@example.com"]["cancelled"] == 1
    assert by_account["bob@example.com"]["waiting"] == 1


@contextmanager
def _in_a_terminal(folder: Folder, columns: int = 100) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, *POSTROOM, "top", "--every", "0.1"],
        cwd=folder.path,
        env=environment({"TERM": "xterm", "LINES": "24", "COLUMNS": str(columns)}),
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    try:
        shown = b""
        while b"q ends it" not in shown:
            shown += os.read(ours, 65536)
        assert b"bob@example.com" in shown
        yield process, ours
        assert termios.tcgetattr(theirs) == before, "the terminal is as it was"
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
        os.close(theirs)


def test_one_look_fits_a_narrow_terminal(folder: Folder, ids: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, *POSTROOM, "top", "--once"],
            cwd=folder.path,
            env=environment({"TERM": "xterm", "LINES": "24", "COLUMNS": "76"}),
            stdout=theirs,
            timeout=60,
        )
        assert done.returncode == 0
        shown = os.read(ours, 65536).decode().splitlines()[4:]
        assert "bob" in "".join(shown)
        assert max(map(len, shown)) <= 76
    finally:
        os.close(ours)
        os.close(theirs)


def test_q_ends_top(folder: Folder, ids: dict[str, str]) -> None:
    with _in_a_terminal(folder) as (process, terminal):
        os.write(terminal, b"q")
        assert process.wait(60) == 0


def test_ctrl_c_ends_top(folder: Folder, ids: dict[str, str]) -> None:
    with _in_a_terminal(folder) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == b"postroom: interrupted"
