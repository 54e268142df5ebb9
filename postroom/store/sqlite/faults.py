"""Translates errors of SQLite's driver: damage, a full disk, a lock that is taken, and all others."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from postroom.core.errors import StoreDamaged, StoreError, StoreUnavailable

# The database's fault, which may pass.
NOT_NOW = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.NoMemError,
    apsw.InterruptError,
    apsw.PermissionsError,
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # nothing was flushed, and there may be room again
DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except apsw.Error as error:
        raise translation(path, error) from error


def translation(path: Path, error: apsw.Error) -> StoreError:
    """Return our error for one of the driver's errors, which is its cause."""
    found: StoreError
    if isinstance(error, DAMAGED):
        found = StoreDamaged(
            f"the database {path} is damaged ({error}); nothing was changed. Restore it from a backup, or move "
            f"it away together with its -wal file to start afresh"
        )
    elif isinstance(error, apsw.FullError):
        found = StoreUnavailable(cannot_write(path, os.strerror(errno.ENOSPC)))
    elif isinstance(error, NOT_NOW):
        found = StoreUnavailable(cannot_write(path, str(error)))
    else:
        found = StoreError(f"the database {path}: {error}")
    found.__cause__ = error
    return found


def cannot_write(path: Path, reason: str) -> str:
    """Return the text of the error for a database that cannot be written just now."""
    return f"the database {path} cannot be written just now: {reason}"
