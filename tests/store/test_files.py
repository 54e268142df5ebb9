"""The files of an open SQLite database are moved, removed or replaced by somebody."""

from __future__ import annotations

import logging
import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from postroom.core.errors import ConfigError, DatabaseReplaced, ReplacedSinceCommit, StoreDamaged
from postroom.store.messages import Messages
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.store import Store, open_store
from tests.store.database import Post, SQLiteDatabase

pytestmark = pytest.mark.only("sqlite")


def backup(path: Path) -> Path:
    """Make a copy, as the deployment guide says."""
    copy = path.with_name("backup.db")
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return copy


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def remove(path: Path) -> None:
    path.unlink()


def move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def move_a_backup_over(path: Path) -> None:
    backup(path).replace(path)


def copy_a_backup_over(path: Path) -> None:
    shutil.copyfile(backup(path), path)


def remove_the_log(path: Path) -> None:
    log_of(path).unlink()


def replace_the_log(path: Path) -> None:
    log_of(path).unlink()
    log_of(path).touch()


def remove_the_index(path: Path) -> None:
    path.with_name(path.name + "-shm").unlink()


def remove_the_lock(path: Path) -> None:
    path.with_name(path.name + "-lock").unlink()


def rename_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("renamed"))


def restore_a_folder_over(path: Path) -> None:
    shutil.copytree(path.parent, path.parent.with_name("copy"))
    rename_the_folder(path)
    path.parent.with_name("copy").rename(path.parent)


BY_SOMEBODY = [
    remove,
    move_away,
    move_a_backup_over,
    remove_the_log,
    replace_the_log,
    remove_the_index,
    remove_the_lock,
    rename_the_folder,
    restore_a_folder_over,
]


@pytest.fixture
def sqlite(tmp_path: Path, sqlite_template: Path) -> SQLiteDatabase:
    """A database in a folder of its own."""
    folder = tmp_path / "var"
    folder.mkdir()
    return SQLiteDatabase(folder, sqlite_template)


@pytest.fixture
def database(sqlite: SQLiteDatabase) -> SQLiteDatabase:
    return sqlite


@pytest.mark.parametrize("change", [*BY_SOMEBODY, copy_a_backup_over], ids=lambda change: change.__name__)
def test_nothing_is_accepted_after(
    post: Post, sqlite: SQLiteDatabase, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    post.add_many(3)
    post.store.check_writable()
    change(sqlite.path)
    if change is copy_a_backup_over:  # which only the look of each second notices
        look_again(post)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(DatabaseReplaced, match="stop Postroom"):
                post.add()
            with pytest.raises(DatabaseReplaced):
                post.store.check_writable()
    assert len(caplog.records) == 1, "it is said once"


def look_again(post: Post) -> None:
    """Let the next look be one of those that come every second."""
    post.store._engine._files._looked = float("-inf")  # type: ignore[attr-defined]


def test_nothing_is_accepted_after_an_early_state_was_copied_over(post: Post, sqlite: SQLiteDatabase) -> None:
    """As `cp` made it before the last checkpoint."""
    early = sqlite.path.with_name("early.db")
    shutil.copyfile(sqlite.path, early)
    post.add_many(300)
    with closing(apsw.Connection(str(sqlite.path))) as connection:
        connection.execute("PRAGMA wal_checkpoint").fetchall()
    look_again(post)
    post.add()
    shutil.copyfile(early, sqlite.path)
    look_again(post)
    with pytest.raises(DatabaseReplaced, match="written over"):
        post.add()


def test_a_checkpoint_by_another_program_is_none_of_that(post: Post, sqlite: SQLiteDatabase) -> None:
    for _ in range(3):
        post.add_many(100)
        with closing(apsw.Connection(str(sqlite.path))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        look_again(post)
    assert len(sqlite.rows("SELECT * FROM message")) == 300


def test_a_move_during_a_commit_is_noticed_before_the_answer(post: Post, sqlite: SQLiteDatabase) -> None:
    with pytest.raises(ReplacedSinceCommit):  # and not: "nothing was accepted"
        post.store.write(lambda transaction: move_away(sqlite.path))
    with pytest.raises(DatabaseReplaced) as later:
        post.add()
    assert not isinstance(later.value, ReplacedSinceCommit), "that one was not begun"


def test_it_goes_on_when_the_file_is_back(post: Post, sqlite: SQLiteDatabase) -> None:
    away = sqlite.path.with_name("away.db")
    sqlite.path.rename(away)
    with pytest.raises(DatabaseReplaced):
        post.add()
    away.rename(sqlite.path)
    request_id = post.add()
    assert post.status(request_id) == "queued"
    assert [row[0] for row in sqlite.rows("SELECT request_id FROM message")] == [request_id]


def test_a_reader_opens_no_stranger(post: Post, sqlite: SQLiteDatabase) -> None:
    engine = post.store._engine
    with engine.reading():
        pass
    move_a_backup_over(sqlite.path)
    # The first reader is open already.
    with engine.reading(), pytest.raises(DatabaseReplaced), engine.reading():
        pass


def test_nothing_is_written_over_a_stranger_and_what_was_accepted_is_saved(
    post: Post, sqlite: SQLiteDatabase
) -> None:
    post.add()
    copy = backup(sqlite.path)
    contents = copy.read_bytes()
    request_id = post.add()
    copy.replace(sqlite.path)
    post.store.close()
    assert sqlite.path.read_bytes() == contents
    mode = sqlite.path.with_name(f"{sqlite.path.name}-rescued").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    with closing(apsw.Connection(f"{sqlite.path}-rescued")) as rescued:
        found = [row[0] for row in rescued.execute("SELECT request_id FROM message")]
    assert request_id in found
    assert len(found) == 2
    with pytest.raises(StoreDamaged, match=r"not the file that .*-wal was written for"):
        open_store(sqlite.url)
    assert sqlite.path.read_bytes() == contents


def test_nothing_is_written_over_a_backup_that_was_copied_into_the_file(
    post: Post, sqlite: SQLiteDatabase
) -> None:
    copy = backup(sqlite.path)
    contents = copy.read_bytes()
    post.add()
    shutil.copyfile(copy, sqlite.path)
    post.store.close()
    assert sqlite.path.read_bytes() == contents


def test_a_log_that_was_removed_is_folded_into_the_file_at_the_end(
    post: Post, sqlite: SQLiteDatabase
) -> None:
    request_id = post.add()
    remove_the_log(sqlite.path)
    post.store.close()
    assert [row[0] for row in sqlite.rows("SELECT request_id FROM message")] == [request_id]
    open_store(sqlite.url).close()


@pytest.mark.parametrize("change", [remove, move_a_backup_over, remove_the_log, remove_the_index])
def test_nobody_else_opens_what_is_there_meanwhile(
    post: Post, sqlite: SQLiteDatabase, change: Callable[[Path], None]
) -> None:
    """Not a worker that is started again, nor a command."""
    post.add()
    change(sqlite.path)
    with pytest.raises(StoreDamaged, match="stop every process of Postroom first"):
        open_store(sqlite.url)


def test_a_folder_that_was_copied_after_a_crash_is_opened(
    post: Post, sqlite: SQLiteDatabase, tmp_path: Path
) -> None:
    """Its files have other inodes; the lock file says so."""
    request_id = post.add()
    shutil.copytree(sqlite.path.parent, tmp_path / "copy")
    store = open_store(f"sqlite:///{tmp_path}/copy/postroom.db")
    assert str(store.read(Messages.status, request_id)) == "queued"
    store.close()


def test_a_symlink_stands_for_the_file(post: Post, sqlite: SQLiteDatabase, tmp_path: Path) -> None:
    """Two names must not have two locks and two logs."""
    (tmp_path / "link.db").symlink_to(sqlite.path)
    linked = open_store(f"sqlite:///{tmp_path}/link.db")
    there = Post(linked, sqlite)
    assert post.status(there.add()) == "queued"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.db", "var"]
    linked.close()


def test_a_new_database_behind_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "disk/real.db")
    for _ in range(2):
        store = open_store(f"sqlite:///{tmp_path}/link.db")
        store.migrate()
        store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link.db"]
    assert (tmp_path / "disk/real.db-lock").exists()


def test_a_hard_link_is_refused(post: Post, sqlite: SQLiteDatabase, tmp_path: Path) -> None:
    post.store.close()
    (tmp_path / "second.db").hardlink_to(sqlite.path)
    with pytest.raises(ConfigError, match="hard link"):
        open_store(sqlite.url)


def test_two_stores_of_one_process_leave_each_other_their_locks(sqlite: SQLiteDatabase) -> None:
    """To close any descriptor of a file gives up all locks of the process on it."""
    first, second = sqlite.open(), sqlite.open()
    first.migrate()
    second.close()
    others = Store(SQLiteEngine(sqlite.path))
    others.close()
    assert log_of(sqlite.path).exists(), "the first has it open still"
    first.close()
    assert not log_of(sqlite.path).exists()
