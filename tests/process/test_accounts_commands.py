"""`postroom accounts` as a person types it, alone and beside a service that runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import StartScripted
from tests.process.test_cli import Folder
from tests.servers.forked import forker
from tests.servers.installation import Installation

REFUSED = "535 5.7.8 Authentication failed"
HEADER = "key,email,app_password,host,port,security"
MAILBOX = "ann@x.example"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.prepare()
    return made


def fails(folder: Folder, status: int, words: str, *arguments: str, stdin: str = "") -> None:
    done = folder.run(*arguments, stdin=stdin)
    assert done.returncode == status, done
    assert words in done.stderr


def works(folder: Folder, *arguments: str, stdin: str = "") -> str:
    done = folder.run(*arguments, stdin=stdin)
    assert done.returncode == 0, done
    return done.stdout


def test_an_account_lives_and_ends(folder: Folder) -> None:
    fails(folder, 2, "--password-stdin", "accounts", "add", MAILBOX, "--host", "inbox")
    at_gmail = ("--host", "smtp.gmail.com", "--no-password")
    fails(folder, 2, "password is empty", "accounts", "add", MAILBOX, *at_gmail)
    [uid] = works(
        folder,
        "accounts",
        "add",
        MAILBOX,
        "--host",
        "inbox",
        "--no-password",
        "--alias",
        "a@x.example",
        "--daily-limit",
        "5",
    ).split()
    fails(folder, 1, "there is an account", "accounts", "add", MAILBOX, "--host", "inbox", "--no-password")
    shown = json.loads(works(folder, "accounts", "show", MAILBOX, "--json"))
    assert shown["id"] == uid
    assert (shown["source"], shown["daily_limit"]) == ("api", 5)
    assert shown["aliases"] == [{"email": "a@x.example", "verified_at": None, "verified_by": None}]
    assert "a@x.example (not verified)" in works(folder, "accounts", "show", MAILBOX)
    fails(folder, 1, "no such alias", "accounts", "verify", MAILBOX, "--alias", "b@x.example")
    works(folder, "accounts", "verify", MAILBOX, "--alias", "A@x.example")
    assert "a@x.example (verified by admin at " in works(folder, "accounts", "show", MAILBOX)
    works(folder, "accounts", "set", uid, "--daily-limit", "", "--name", "Ann", "--no-alias")
    shown = json.loads(works(folder, "accounts", "show", uid, "--json"))
    assert (shown["name"], shown["daily_limit"], shown["aliases"]) == ("Ann", None, [])
    fails(folder, 2, "port must be", "accounts", "set", uid, "--port", "99999")
    fails(folder, 2, "--hold: must be true or false", "accounts", "set", uid, "--hold", "maybe")
    fails(folder, 2, "say what to change", "accounts", "set", uid)
    works(folder, "accounts", "pause", MAILBOX)
    [row] = json.loads(works(folder, "accounts", "--json"))
    assert (row["state"], row["reason"].split()[:3]) == ("paused", ["paused", "by", "user"])
    works(folder, "send", "--from", MAILBOX, "--to", "you@example.com", "--body", "it waits")
    works(folder, "send", "--from", uid, "--to", "you@example.com", "--body", "it waits too")
    works(folder, "accounts", "resume", MAILBOX)
    refused = (
        "2 messages of the account have not ended (2 queued, 0 scheduled): delete it with --queued finish to "
    )
    fails(folder, 1, refused + "have them sent first, or --queued cancel", "accounts", "remove", MAILBOX)
    works(folder, "accounts", "remove", MAILBOX, "--queued", "finish")
    [row] = json.loads(works(folder, "accounts", "--json"))
    assert row["state"] == "closing"
    fails(folder, 2, "--from names none", "send", "--from", MAILBOX, "--to", "you@example.com", "--body", "x")
    works(folder, "accounts", "remove", MAILBOX, "--queued", "cancel")
    assert json.loads(works(folder, "accounts", "--json")) == []
    actions = [json.loads(line)["action"] for line in works(folder, "audit", "--json").splitlines()][::-1]
    assert actions == [
        "account.create",
        "alias.verify",
        "account.change",
        "account.pause",
        "account.resume",
        "account.delete",
        "account.delete",
    ]


def test_a_mailbox_at_two_servers_is_named_by_its_id(folder: Folder) -> None:
    ids = {
        works(folder, "accounts", "add", MAILBOX, "--host", host, "--password-stdin", stdin="x\n").strip()
        for host in ("one.x.example", "two.x.example")
    }
    done = folder.run("accounts", "show", MAILBOX)
    assert done.returncode == 1
    assert all(uid in done.stderr for uid in ids)
    for uid in ids:
        assert works(folder, "accounts", "show", uid)


def test_a_stored_password_is_for_its_server_and_is_never_shown(folder: Folder) -> None:
    (folder.path / "password").write_text("canary-password\n")
    works(folder, "accounts", "add", MAILBOX, "--host", "one.x.example", "--password-file", "password")
    fails(folder, 2, "for its server alone", "accounts", "set", MAILBOX, "--host", "two.x.example")
    fails(folder, 2, "without TLS", "accounts", "set", MAILBOX, "--security", "none")
    works(
        folder, "accounts", "set", MAILBOX, "--host", "two.x.example", "--password-stdin", stdin="canary-two"
    )
    shown = [
        works(folder, *words)
        for words in (("accounts", "show", MAILBOX), ("audit",), ("accounts", "export"), ("accounts",))
    ]
    assert "canary" not in "".join(shown)
    old_mask = os.umask(0)
    try:
        works(folder, "accounts", "export", "out.csv", "--with-passwords")
    finally:
        os.umask(old_mask)
    assert "canary-two" in (folder.path / "out.csv").read_text()
    assert (folder.path / "out.csv").stat().st_mode & 0o777 == 0o600
    assert folder.run("accounts", "export", "out.csv").returncode == 1, "a file that is there stays"


def test_a_changed_password_is_mended_by_one_command(tmp_path: Path, scripted: StartScripted) -> None:
    names = [f"user{number}@x.example" for number in range(30)]
    users = dict.fromkeys(names, "secret")
    server = scripted(users=users)
    rows = [f"key of {name},{name},secret,127.0.0.1,{server.port},none" for name in names]
    service = Installation(tmp_path, [HEADER, *rows])
    changed = names[1]
    with service:
        dry = service.command("accounts", "import", "data.csv", "--dry-run").splitlines()
        assert [line.split("  ")[0] for line in dry] == ["taken over"] * 30
        assert {row["source"] for row in json.loads(service.command("accounts", "--json"))} == {"csv"}
        service.command("accounts", "import", "data.csv")
        assert {row["source"] for row in json.loads(service.command("accounts", "--json"))} == {"api"}
        for name in names:
            service.wait_for(service.send(key=f"key of {name}"))
    users[changed] = "another"
    with service:  # the old file changes nothing
        waiting = [service.send(key=f"key of {changed}") for _ in range(3)]
        for request_id in waiting:
            assert REFUSED in service.wait_for(request_id, "deferred (account paused: ")
        _set_password(service, changed, "another")
        for request_id in waiting:
            service.wait_for(request_id)
        assert service.command("accounts", "verify", changed).startswith("ok")
        assert "stopped working, 30 rows taken over" not in service.log(), "the same file is not even read"
        with (tmp_path / "data.csv").open("a") as file:
            file.write("# as another host has it\n")
        service.command("accounts", "import")
        service.wait_for(service.send(key=f"key of {changed}"))
        assert len(server.messages) == 30 + 3 + 1


def _set_password(service: Installation, mailbox: str, password: str) -> None:
    words = ("accounts", "set", mailbox, "--password-stdin")
    done = forker().run(*words, cwd=service.folder, environment=service.environment, stdin=f"{password}\n")
    assert done.returncode == 0, done


def test_no_first_file_is_written_where_there_are_accounts(folder: Folder) -> None:
    works(folder, "accounts", "add", MAILBOX, "--host", "inbox", "--no-password")
    (folder.path / "data.csv").unlink(missing_ok=True)
    service = Installation(folder.path, [])
    (folder.path / "data.csv").unlink()
    with service:
        [key] = service.command("keys", "add", "--account", MAILBOX).split()
        service.wait_for(service.send(key=key))
        assert not (folder.path / "data.csv").exists()


def test_a_file_with_a_row_that_is_refused_is_taken_over_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    """The key of such a row would stop working with the rest of its account's."""
    folder = Folder(tmp_path)
    rows = f"key,email,app_password,host\nthe-key-of-ann-1234,{MAILBOX},,inbox\n"
    (tmp_path / "data.csv").write_text(rows)
    folder.prepare()
    (tmp_path / "data.csv").write_text(f"{rows}another-key-of-ann-1,{MAILBOX},,no host\n")
    for words in (("data.csv", "--dry-run"), ("data.csv",)):
        done = folder.run("accounts", "import", *words)
        assert done.returncode == 1, done
        assert "line 3: host" in done.stderr
    assert '"source": "csv"' in works(folder, "accounts", "--json")
