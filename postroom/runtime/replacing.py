"""Puts restored files in place of the present ones, step by step, so that a crash between any two steps loses nothing.

The present files get other names and are never removed. A database has a mark beside it from the first step to the
last: Postroom refuses to open it until the restore is repeated, or undone by hand.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain, count, takewhile
from pathlib import Path

from postroom.core import failpoint
from postroom.core.files import plain_file, read_plain, sync
from postroom.store.sqlite.copies import log_of, mark_of

_PIECE = 1 << 20
_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_LARGEST_MARK = 256


def put_in_place(files: Mapping[Path, Path], database: Path | None, stamp: str) -> tuple[Path, ...]:
    """Put each file (a value) in its place (the key); return the new names of the files that were there.

    Nothing is changed until all of them are on the disk beside their places. An interrupted restore is continued with
    its stamp, so that a log and its database get matching names.
    """
    stamp = (_interrupted(database) if database else None) or stamp
    drafts: dict[Path, Path] = {}
    try:
        for place, source in files.items():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            drafts[place] = place.with_name(f".{place.name}.restoring")
            _copy(source, drafts[place])
        for place in files:
            if place != database:
                _link_other_name(place, stamp)
        if database is not None:
            _mark(database, stamp)
    except BaseException:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
        raise
    for place, draft in drafts.items():
        if place == database:
            _move_database(database, stamp)
        _rename(draft, place)
    return tuple(name for place in files for name in takewhile(Path.exists, _names(place, stamp)))


def finish(database: Path) -> None:
    """Take the mark away: the restore is complete, and the database may be opened."""
    mark_of(database).unlink(missing_ok=True)
    sync(database.parent)


def _interrupted(database: Path) -> str | None:
    """Return the stamp of the restore that was interrupted, where there was one."""
    with suppress(FileNotFoundError):
        found = read_plain(mark_of(database), _LARGEST_MARK).decode("ascii", "replace").strip()
        return found if _STAMP.fullmatch(found) else None
    return None


def _mark(database: Path, stamp: str) -> None:
    mark = mark_of(database)
    draft = mark.with_name(f".{mark.name}")
    draft.unlink(missing_ok=True)  # of a restore that was interrupted
    draft.write_text(f"{stamp}\n", encoding="ascii")
    sync(draft)
    _rename(draft, mark)


def _copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)  # of a restore that was interrupted
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file, plain_file(source) as content:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        shutil.copyfileobj(content, file, _PIECE)
        file.flush()
        os.fsync(descriptor)


def _link_other_name(place: Path, stamp: str) -> None:
    """Give the file another name too; its first name stays until the restored file takes it."""
    if not place.exists():
        return
    kept = next(name for name in _names(place, stamp) if not name.exists() or name.samefile(place))
    if kept.exists():
        return
    try:
        os.link(place, kept)
    except OSError:  # a file system without links
        shutil.copy2(place, kept)
        sync(kept)
    sync(place.parent)
    failpoint.hit("restore.step")


def _move_database(database: Path, stamp: str) -> None:
    """Give a database another name, and its log the one beside it; the log first.

    SQLite removes a log without its database when it makes a new database under the old name.
    """
    log = log_of(database)
    names = _names(database, stamp)
    kept = next(name for name in names if not name.exists() and not (log.exists() and log_of(name).exists()))
    if log.exists():
        _rename(log, log_of(kept))
    database.with_name(f"{database.name}-shm").unlink(missing_ok=True)  # made anew from the log
    if database.exists():
        _rename(database, kept)


def _names(place: Path, stamp: str) -> Iterator[Path]:
    """Yield the names that the former files may get, without an end."""
    first = place.with_name(f"{place.name}.before-{stamp}")
    return chain([first], (place.with_name(f"{first.name}.{number}") for number in count(2)))


def _rename(source: Path, target: Path) -> None:
    source.replace(target)
    sync(target.parent)
    failpoint.hit("restore.step")
