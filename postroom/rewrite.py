"""A text file of any size with some of its lines changed: all of it or nothing, whatever is killed or filled up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_LONGEST_LINE = 1 << 20  # octets; a longer one comes in parts
_REST = ".rewritten"


def rewrite_lines(path: Path, change: Callable[[bytes], bytes]) -> int:
    """Put what `change` makes of each line into its place; return how many are different now. Raises OSError.

    The file is left alone where there is none. Otherwise a new one, with the rights of the old one, takes its place.
    Nobody else may write to it meanwhile.
    """
    target = path.resolve()
    with target.open("rb") as file:
        changed = sum(change(line) != line for line in _lines(file))
        if changed:
            file.seek(0)
            _replace(target, file, change)
    return changed


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LONGEST_LINE):
        yield line


def _replace(path: Path, old: BinaryIO, change: Callable[[bytes], bytes]) -> None:
    beside = path.with_name(f".{path.name}{_REST}")  # one that a crash has left is begun anew
    try:
        with open(beside, "wb", opener=_private) as new:
            new.writelines(change(line) for line in _lines(old))
            status = os.fstat(old.fileno())
            with suppress(PermissionError):
                os.fchown(new.fileno(), status.st_uid, status.st_gid)
            os.fchmod(new.fileno(), status.st_mode & 0o7777)
            new.flush()
            os.fsync(new.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
