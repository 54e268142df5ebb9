"""Checks before an SQLite file is opened: a usable path, no replaced file, no missing write-ahead log, no hard link."""

from __future__ import annotations

from pathlib import Path

from postroom.core.errors import ConfigError, StoreDamaged
from postroom.core.files import kind_of, reason_of
from postroom.core.text import is_text
from postroom.store.sqlite.copies import log_of
from postroom.store.sqlite.writer_lock import WriterLock


def open_lock(path: Path, longest_wait_s: float) -> WriterLock:
    """Open the lock file of a database, making its folder; raise ConfigError where no database can be there."""
    try:
        if path.exists() and (kind := kind_of(path.stat().st_mode)):
            raise ConfigError("DATABASE_URL", f"{path} is {kind}; name a file")
        if not is_text(str(path)):
            raise ConfigError(
                "DATABASE_URL",
                f"cannot use {path}: SQLite takes names in UTF-8 alone; rename the file or its folder",
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return WriterLock(path.with_name(path.name + "-lock"), longest_wait_s)
    except OSError as error:
        raise ConfigError(
            "DATABASE_URL", f"cannot use {error.filename or path}: {reason_of(error)}"
        ) from error


def refuse_replacement(path: Path, lock: WriterLock) -> None:
    """Raise StoreDamaged when another file has the name of the database that is, or was left, open."""
    noted = lock.noted_inode()
    if noted is None:
        return
    is_same = path.exists() and path.stat().st_ino == noted
    write_ahead_log = log_of(path)
    index = path.with_name(path.name + "-shm")
    # The last process to close the database removes the index, and then the log.
    is_whole = is_same and write_ahead_log.exists() == index.exists()
    if lock.is_in_use() and not is_whole:
        raise StoreDamaged(
            f"{path}, or its -wal or -shm file, was moved, removed or replaced while Postroom has it open; "
            f"nothing was changed. Put it back, or stop every process of Postroom first"
        )
    if not is_same and write_ahead_log.exists():
        raise StoreDamaged(
            f"{path} is not the file that {write_ahead_log} was written for: the database was replaced while it was "
            f"open, or after a crash; nothing was changed. Put it back; or, to go on with this one, which loses "
            f"mail and may send some twice, remove {write_ahead_log}, {index} and {path}-lock"
        )


def refuse_without_log(path: Path, lock: WriterLock) -> None:
    """Raise StoreDamaged when the write-ahead log was taken away: SQLite would go on without an error.

    The last process to close the file folds the log into it, so that it is newer than the last write.
    """
    write_ahead_log = log_of(path)
    if not write_ahead_log.exists() and lock.is_newer_than(path):
        raise StoreDamaged(
            f"{write_ahead_log} is missing, and with it what was last written; nothing was changed. Put it back, or "
            f"restore the database from a backup. To go on without it, which loses mail and may send some twice, "
            f"remove {path}-lock"
        )


def refuse_hard_link(path: Path) -> None:
    """Raise ConfigError for a database with a second name."""
    if path.stat().st_nlink > 1:
        raise ConfigError(
            "DATABASE_URL",
            f"{path} has another name too (a hard link): SQLite would have a log for each name, and damage it; "
            "make a copy, and remove the other name",
        )
