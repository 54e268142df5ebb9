"""`postroom restore`, killed at each step, and beside a service that runs or starts: nothing is lost."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from postroom.core.clock import system_clock
from postroom.core.errors import StoreDamaged, StoreInUse, StoreUnavailable
from postroom.core.failpoint import VARIABLE
from postroom.runtime import backup
from postroom.runtime.backup import restore
from postroom.store.sqlite.connections import connection_of
from postroom.store.sqlite.copies import log_of, mark_of
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.store import open_store
from tests.process.test_cli import ROW, Folder, check_failed, folder_with_messages

MOST_STEPS = 20


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An installation with one message, of which there is a backup."""
    made = folder_with_messages(tmp_path / "home", 1)
    assert made.run("backup", str(tmp_path / "backup.tar")).returncode == 0
    return made


def _database(folder: Path) -> Path:
    return folder / "var/postroom.db"


def _count(database: Path) -> int:
    """Open a database as every process does, and count its messages."""
    with (
        closing(open_store(f"sqlite:///{database}", create=False)) as store,
        store._engine.reading() as reading,
    ):
        return int(connection_of(reading).execute("SELECT count(*) FROM message").get)


def _as_after_a_crash(folder: Folder, copy: Path) -> None:
    """Copy the installation with a second message, which is in the write-ahead log alone."""
    with closing(open_store(f"sqlite:///{_database(folder.path)}")):  # so that the log stays
        folder.accept()
        shutil.copytree(folder.path, copy)
    assert log_of(_database(copy)).stat().st_size > 0


def _is_refused_or_whole(folder: Path, copy: Path) -> bool:
    """Whether a start after the crash is refused; with a copy, for a start changes what is there."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    try:
        found = _count(_database(copy))
    except StoreDamaged as error:
        return "a restore of" in str(error)
    assert found == 2
    return False


def test_a_restore_that_is_killed_at_any_step_loses_nothing(folder: Folder, tmp_path: Path) -> None:
    base, home, copy = tmp_path / "base", tmp_path / "killed", tmp_path / "copy"
    _as_after_a_crash(folder, base)
    refused = []
    for step in range(1, MOST_STEPS):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(base, home)
        killed = Folder(home).run(
            "restore", str(tmp_path / "backup.tar"), **{VARIABLE: f"restore.step:{step}:{tmp_path}/points"}
        )
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed
        refused.append(_is_refused_or_whole(home, copy))
        again = Folder(home).run("restore", str(tmp_path / "backup.tar"))
        assert again.returncode == 0, again
        kept = [path for path in home.glob("var/postroom.db.before-*") if not path.name.endswith("-wal")]
        assert sorted(map(_count, kept))[-1:] == [2], f"killed at step {step}: {kept}"
        assert all(str(path) in again.stderr for path in kept), again
        assert _count(_database(home)) == 1
        assert not list(home.rglob(".*.restoring"))
        assert not list(home.rglob(".postroom-*"))
    assert refused == [*[False] * 3, *[True] * 7], "three links, the mark, and six renames"


def test_a_log_without_its_database_is_refused_and_kept(folder: Folder, tmp_path: Path) -> None:
    """As a restore of an earlier version could leave it. SQLite removes such a log."""
    home = tmp_path / "crashed"
    _as_after_a_crash(folder, home)
    database = _database(home)
    content = log_of(database).read_bytes()
    database.rename(database.with_name("postroom.db.before-20261128T172115Z"))
    for empty in (False, True):
        if empty:
            database.touch()
        for command in ("list", "migrate", "serve"):
            check_failed(Folder(home).run(command), 78, "without its database", "before-TIME")
        check = Folder(home).run("check")
        assert (check.returncode, "without its database" in check.stdout) == (78, True), check
        check_failed(Folder(home).run("restore", str(tmp_path / "backup.tar")), 78, "without its database")
        assert log_of(database).read_bytes() == content
        assert empty is database.exists()


@pytest.fixture
def here(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the installation's folder, which is the current one."""
    monkeypatch.chdir(folder.path)
    return folder.path


def _restore(here: Path) -> None:
    restore(here.parent / "backup.tar", Path("var"), system_clock)


@pytest.mark.parametrize("step", ["_verify", "_hold_queued", "put_in_place", "finish"])
def test_nobody_opens_the_database_while_it_is_restored(
    here: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """From the look whether it is in use to the end: what was accepted meanwhile would be lost."""
    original: Callable[..., object] = getattr(backup, step)
    tried = []

    def beside(*arguments: object, **given: object) -> object:
        if not given:  # the look at the settings alone comes before
            with pytest.raises(StoreUnavailable):
                SQLiteEngine(_database(here), longest_wait_s=0.05)
            tried.append(step)
        return original(*arguments, **given)

    monkeypatch.setattr(backup, step, beside)
    _restore(here)
    assert tried
    with closing(open_store("sqlite:///var/postroom.db")), pytest.raises(StoreInUse):
        _restore(here)


def _everything(folder: Path) -> dict[Path, bytes | None]:
    return {each: each.read_bytes() if each.is_file() else None for each in folder.rglob("*")}


def test_a_restore_beside_a_service_writes_nothing(folder: Folder, tmp_path: Path) -> None:
    (folder.path / ".env").write_text("POSTROOM_LOG_LEVEL=WARNING\n")
    path = tmp_path / "with-settings.tar"
    assert folder.run("backup", str(path)).returncode == 0
    (folder.path / ".env").unlink()
    with closing(open_store(f"sqlite:///{_database(folder.path)}")):
        before = _everything(folder.path)
        check_failed(folder.run("restore", str(path)), 1, "stop Postroom first")
        assert _everything(folder.path) == before
    (folder.path / "var/workers").mkdir(exist_ok=True)
    with (folder.path / "var/workers/one.lock").open("wb") as lock:  # as of a worker on PostgreSQL
        fcntl.flock(lock, fcntl.LOCK_EX)
        check_failed(folder.run("restore", str(path)), 1, "stop Postroom first")
        assert not (folder.path / ".env").exists()
    done = folder.run("restore", str(path))
    assert (done.returncode, ".env was written" in done.stderr) == (0, True), done


def test_the_settings_of_the_backup_say_where_the_rest_goes(folder: Folder, tmp_path: Path) -> None:
    (folder.path / ".env").write_text("DATABASE_URL=sqlite:///var/other.db\nPOSTROOM_ACCOUNTS_CSV=rows.csv\n")
    (folder.path / "data.csv").rename(folder.path / "rows.csv")
    _database(folder.path).rename(folder.path / "var/other.db")
    path = tmp_path / "elsewhere.tar"
    assert folder.run("backup", str(path)).returncode == 0
    new = Folder(tmp_path / "new")
    new.path.mkdir()
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(path.read_bytes()[:-20_000])
    check_failed(new.run("restore", str(damaged)), 1, str(damaged))
    assert not (new.path / ".env").exists()
    assert new.run("restore", str(path)).returncode == 0
    assert _count(new.path / "var/other.db") == 1
    assert ROW in (new.path / "rows.csv").read_text()
    assert not mark_of(new.path / "var/other.db").exists()


def test_two_restores_within_a_second_keep_both(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "_stamp", lambda clock: "20261128T172115Z")
    for _ in range(2):
        _restore(here)
    names = [f"postroom.db.before-20261128T172115Z{end}" for end in ("", ".2")]
    assert sorted(path.name for path in here.glob("var/*.before-*Z*") if "db" in path.name) == names


@pytest.mark.parametrize("content", ["", "../../elsewhere", "x" * 1000, None])
def test_a_mark_that_is_not_ours_is_no_stamp(here: Path, content: str | None) -> None:
    mark = mark_of(_database(here))
    if content is None:
        os.mkfifo(mark)
    else:
        mark.write_text(content)
    if content is None or len(content) > 64:  # neither a hang nor a name that nobody can have
        with pytest.raises(backup.BackupError, match="-restoring"):
            _restore(here)
        assert not list(here.rglob("*.before-*"))
    else:
        _restore(here)
        assert not mark.exists()
        assert [path.parent for path in here.glob("var/postroom.db.before-*Z")] == [here / "var"]


def test_a_restore_that_cannot_be_written_leaves_no_mark(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk before the first rename changes nothing, and the service starts."""
    before = _everything(here)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("postroom.runtime.replacing._mark", full)
    with pytest.raises(backup.BackupError, match="No space left"):
        _restore(here)
    after = {path: content for path, content in _everything(here).items() if ".before-" not in path.name}
    assert after == before
    assert _count(_database(here)) == 1
