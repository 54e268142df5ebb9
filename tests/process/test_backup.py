"""`postroom backup` and `postroom restore`: nothing is lost, and nothing goes out twice by itself."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_cli import ROW, Folder, check_failed, folder_with_messages
from tests.servers.installation import ROOT, Installation, account_rows
from tests.servers.programs import free_port
from tests.servers.sink import Sink
from tests.servers.waiting import eventually


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An installation with two messages that wait."""
    return folder_with_messages(tmp_path / "home", 2)


def _saved(folder: Folder, path: Path) -> Path:
    done = folder.run("backup", str(path))
    assert done.returncode == 0, done
    return path


def _leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(".postroom")]


def test_a_backup_holds_the_installation_and_is_its_owners_alone(folder: Folder, tmp_path: Path) -> None:
    (folder.path / ".env").write_text("POSTROOM_LOG_LEVEL=WARNING\n")
    path = _saved(folder, tmp_path / "backup.tar")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        assert archive.getnames()[0] == "manifest.json"
        assert set(archive.getnames()[1:]) == {"postroom.db", "secret.key", "admin.token", "data.csv", ".env"}
        content = archive.extractfile("secret.key")
        assert content is not None
        assert content.read() == (folder.path / "var/secret.key").read_bytes()
    assert _leftovers(tmp_path) == []


def test_the_secret_of_the_variable_is_saved_too(folder: Folder, tmp_path: Path) -> None:
    key = (folder.path / "var/secret.key").read_text(encoding="ascii").strip()
    (folder.path / "var/secret.key").unlink()
    done = folder.run("backup", str(tmp_path / "backup.tar"), POSTROOM_SECRET_KEY=key)
    assert done.returncode == 0, done
    with tarfile.open(tmp_path / "backup.tar") as archive:
        content = archive.extractfile("secret.key")
        assert content is not None
        assert content.read().decode() == key + "\n"
    check_failed(
        folder.run("restore", str(tmp_path / "backup.tar"), POSTROOM_SECRET_KEY="another secret altogether"),
        1,
        "POSTROOM_SECRET_KEY",
    )


def test_a_new_machine_has_everything_and_sends_nothing_by_itself(folder: Folder, tmp_path: Path) -> None:
    path = _saved(folder, tmp_path / "backup.tar")
    new = Folder(tmp_path / "new")
    new.path.mkdir()
    done = new.run("restore", str(path))
    assert done.returncode == 0, done
    assert "2 messages are held" in done.stdout
    for name in ("data.csv", "var/secret.key", "var/postroom.db"):
        assert stat.S_IMODE((new.path / name).stat().st_mode) == 0o600
    rows = json.loads(new.run("accounts", "--json").stdout)
    assert [row["account"] for row in rows] == ["alice@example.com"]
    assert _leftovers(new.path) == []


def test_the_admin_token_works_on_the_new_machine(folder: Folder, tmp_path: Path) -> None:
    token = folder.run("keys", "admin", "--new").stdout.strip()
    assert token
    path = _saved(folder, tmp_path / "backup.tar")
    new = Folder(tmp_path / "new")
    new.path.mkdir()
    assert new.run("restore", str(path)).returncode == 0
    assert stat.S_IMODE((new.path / "var/admin.token").stat().st_mode) == 0o600
    assert new.run("keys", "admin").stdout.strip() == token


@pytest.mark.parametrize(("command", "done"), [("release", "released"), ("cancel", "cancelled")])
def test_all_that_is_held_is_decided_by_one_command(
    folder: Folder, tmp_path: Path, command: str, done: str
) -> None:
    path = _saved(folder, tmp_path / "backup.tar")
    after = folder.accept()
    assert "2 messages are held" in folder.run("restore", str(path)).stdout
    assert "no message with the id" in folder.run("status", after).stderr
    later = folder.accept()
    assert folder.run(command, "--held").stdout == f"2 messages are {done}\n"
    assert folder.run(command, "--held").stdout == f"0 messages are {done}\n"
    assert folder.run("status", later).stdout.startswith(f"{later}  queued"), "it was never held"
    check_failed(folder.run(command), 2, "--held")
    check_failed(folder.run(command, later, "--held"), 2, "--held")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_takes_nothing_that_holds_a_key(folder: Folder, tmp_path: Path) -> None:
    """A clone that is used where it lies, after two restores: its .env and data.csv are kept under other names."""
    (folder.path / ".env").write_text("POSTROOM_LOG_LEVEL=WARNING\n")
    path = _saved(folder, tmp_path / "backup.tar")
    assert folder.run("restore", str(path)).returncode == 0
    (folder.path / ".env.before-20261128T172115Z").write_text("POSTROOM_SECRET_KEY=a former one\n")
    assert list(folder.path.glob("data.csv.before-*"))
    shutil.copy(ROOT / ".gitignore", folder.path)
    for command in (("init", "--quiet"), ("add", ".")):
        subprocess.run(["git", *command], cwd=folder.path, check=True)
    added = subprocess.run(
        ["git", "ls-files"], cwd=folder.path, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert added == [".gitignore"]


def test_what_was_there_before_is_kept(folder: Folder, tmp_path: Path) -> None:
    path = _saved(folder, tmp_path / "backup.tar")
    after = folder.accept()
    (folder.path / "data.csv").write_text("changed")
    done = folder.run("restore", str(path))
    assert done.returncode == 0, done
    (old,) = folder.path.glob("data.csv.before-*")
    assert old.read_text() == "changed"
    assert ROW in (folder.path / "data.csv").read_text()
    (database,) = folder.path.glob("var/postroom.db.before-*Z")
    back = folder.run("status", after, DATABASE_URL=f"sqlite:///{database}")
    assert back.stdout.startswith(f"{after}  queued"), back


@pytest.mark.parametrize("what", ["cut off", "an octet", "a member", "text", "another format", "a stranger"])
def test_a_damaged_backup_changes_nothing(folder: Folder, tmp_path: Path, what: str) -> None:
    path = _saved(folder, tmp_path / "backup.tar")
    _spoil(path, what)
    before = {each: each.read_bytes() for each in folder.path.rglob("*") if each.is_file()}
    check_failed(folder.run("restore", str(path)), 1, str(path))
    assert {each: each.read_bytes() for each in folder.path.rglob("*") if each.is_file()} == before


def _spoil(path: Path, what: str) -> None:
    content = bytearray(path.read_bytes())
    if what == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif what == "an octet":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif what == "text":
        path.write_text("a text")
    else:
        _rewrite(path, what)


def _rewrite(path: Path, what: str) -> None:
    with tarfile.open(path) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    manifest = json.loads(members[0][1])
    if what == "a member":
        members = members[:-1]
    elif what == "another format":
        manifest["format"] = 99
    else:
        manifest["files"]["../escaped"] = manifest["files"]["data.csv"]
        members.append(("../escaped", b"x"))
    members[0] = "manifest.json", json.dumps(manifest).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_a_backup_that_cannot_be_made_leaves_the_last_one(folder: Folder, tmp_path: Path) -> None:
    path = _saved(folder, tmp_path / "backup.tar")
    content = path.read_bytes()
    (folder.path / "var/postroom.db").write_bytes(b"no database")
    assert folder.run("backup", str(path)).returncode == 78
    assert path.read_bytes() == content
    assert _leftovers(tmp_path) == []


def test_a_backup_replaces_no_file_but_a_backup(folder: Folder, tmp_path: Path) -> None:
    (folder.path / ".env").write_text("POSTROOM_LOG_LEVEL=WARNING\n")
    (folder.path / "email_log.txt").write_text("a line\n")
    (folder.path / "key.csv").hardlink_to(folder.path / "var/secret.key")
    own = (
        "data.csv",
        ".env",
        "email_log.txt",
        "var/secret.key",
        "var/postroom.db",
        "var/postroom.db-wal",
        "key.csv",
    )
    before = {name: (folder.path / name).read_bytes() for name in own if (folder.path / name).exists()}
    for name in (*own, "var/new.tar"):
        check_failed(folder.run("backup", "--overwrite", name), 1, name, "name another file")
    others = tmp_path / "others.txt"
    others.write_text("somebody else's")
    check_failed(folder.run("backup", str(others)), 1, "is no backup of Postroom", "--overwrite")
    assert others.read_text() == "somebody else's"
    assert {name: (folder.path / name).read_bytes() for name in before} == before
    assert not (folder.path / "var/new.tar").exists()
    for allowed in ((str(others), "--overwrite"), (str(others),)):
        done = folder.run("backup", *allowed)
        assert done.returncode == 0, done
    others.write_bytes(b"")  # as mktemp makes it
    _saved(folder, others)
    assert tarfile.is_tarfile(others)


def test_what_a_killed_backup_has_left_goes_with_the_next_one(folder: Folder, tmp_path: Path) -> None:
    """Copies of the database and the secret key; one that is in use stays, and so does what is somebody else's."""
    left, in_use, others = (tmp_path / f".postroom-{name}" for name in ("left", "in_use", "others"))
    for each in (left, in_use, others):
        each.mkdir()
        (each / "postroom.db").touch()
    (left / "verified").mkdir()
    (left / "verified/secret.key").touch()
    (others / "notes.txt").touch()
    locked = os.open(in_use, os.O_RDONLY)
    try:
        fcntl.flock(locked, fcntl.LOCK_EX)
        _saved(folder, tmp_path / "backup.tar")
        assert sorted(_leftovers(tmp_path)) == [".postroom-in_use", ".postroom-others"]
    finally:
        os.close(locked)
    _saved(folder, tmp_path / "backup.tar")
    assert _leftovers(tmp_path) == [".postroom-others"]


def test_the_log_of_messages_is_no_file_of_the_installation(folder: Folder) -> None:
    before = (folder.path / "var/secret.key").read_bytes()
    settings = {"POSTROOM_EMAIL_LOG": "var/secret.key"}
    for command in (("serve",), ("worker",), ("list",), ("migrate",), ("secret", "replace")):
        check_failed(folder.run(*command, **settings), 78, "POSTROOM_EMAIL_LOG", "name another file")
    checked = folder.run("check", **settings)
    assert (checked.returncode, "POSTROOM_EMAIL_LOG" in checked.stdout) == (78, True), checked
    assert (folder.path / "var/secret.key").read_bytes() == before


def test_a_backup_into_a_folder_that_is_not_there(folder: Folder, tmp_path: Path) -> None:
    check_failed(folder.run("backup", str(tmp_path / "none/backup.tar")), 1, "cannot write", "No such file")


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with Sink(ledger=tmp_path / "ledger") as started:
        yield started


def test_a_backup_under_load_and_a_restore_send_nothing_twice(tmp_path: Path, sink: Sink) -> None:
    """The backup is taken while messages are accepted and sent; all that was queued in it is held afterwards."""
    waits = f"another-key,other@postroom.example,,127.0.0.1,{free_port()},none"
    service = Installation(tmp_path / "service", [*account_rows(sink.port), waits])
    path = tmp_path / "backup.tar"
    ids: list[str] = []
    ends = threading.Event()

    def load() -> None:
        while not ends.is_set():
            ids.append(service.send())

    with service:
        loader = threading.Thread(target=load)
        loader.start()
        try:
            eventually(lambda: len(ids) > 100, 30)
            service.wait_for(service.send(key="another-key"), "deferred")
            service.command("backup", str(path))
            reached = len(ids)
            eventually(lambda: len(ids) > reached + 1000, 60)
            refused = service.run("restore", str(path))
            assert (refused.returncode, "stop Postroom first" in refused.stderr) == (1, True), refused
        finally:
            ends.set()
            loader.join()
        for request_id in ids:
            service.wait_for(request_id)
    sent = sink.count()
    restored = service.command("restore", str(path))
    with service:
        last = service.send()
        service.wait_for(last)
        assert sink.count() == sent + 1, "nothing that was queued in the backup went out by itself"
        held = service.query(
            "SELECT count(*) FROM job WHERE kind = 'delivery' AND state = 'queued' AND held = 1"
        )[0][0]
        flagged = service.query(
            "SELECT count(*) FROM delivery WHERE state = 'pending' AND possible_duplicate = 1"
        )
        assert flagged == [(held,)]
        assert held >= 1
        messages = "1 message is" if held == 1 else f"{held} messages are"
        assert f"{messages} held" in restored
        assert service.command("cancel", "--held") == f"{messages} cancelled\n"
        assert service.query("SELECT count(*) FROM job WHERE kind = 'delivery' AND state = 'queued'") == [
            (0,)
        ]


def test_on_postgresql_the_rest_is_saved(
    postgres_settings: dict[str, str], folder: Folder, tmp_path: Path
) -> None:
    folder.prepare(**postgres_settings)
    done = folder.run("backup", str(tmp_path / "backup.tar"), **postgres_settings)
    assert done.returncode == 0, done
    assert "pg_dump" in done.stderr
    with tarfile.open(tmp_path / "backup.tar") as archive:
        assert set(archive.getnames()) == {"manifest.json", "secret.key", "admin.token", "data.csv"}
    (folder.path / "data.csv").unlink()
    restored = folder.run("restore", str(tmp_path / "backup.tar"), **postgres_settings)
    assert "pg_restore" in restored.stderr
    assert ROW in (folder.path / "data.csv").read_text()
