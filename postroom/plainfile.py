"""Reading the files that we are given so that nothing can hang, or fill the memory: regular ones, up to a bound."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

MEBIBYTE: Final = 1 << 20
_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotPlain(OSError):
    """The file is none that can be read as a whole; `strerror` says what it is instead."""


def read_plain(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` octets.

    Nothing else is opened, for opening a FIFO waits for its other end and opening a device may do anything. Raises OSError.
    """
    _check(path, path.stat().st_mode)
    with os.fdopen(os.open(path, _FLAGS), "rb") as file:
        _check(path, os.fstat(file.fileno()).st_mode)  # it may have been replaced
        content = file.read(most + 1)
    if len(content) > most:
        raise NotPlain(errno.EFBIG, f"it has more than {most // MEBIBYTE} MiB", str(path))
    return content


def kind_of(mode: int) -> str | None:
    """Return what a file is that is not regular, as the end of a sentence."""
    return next((kind for is_one, kind in _KINDS if is_one(mode)), None)


def _check(path: Path, mode: int) -> None:
    kind = kind_of(mode)
    if kind is not None:
        raise NotPlain(errno.EINVAL, f"it is {kind}, not a plain file", str(path))
