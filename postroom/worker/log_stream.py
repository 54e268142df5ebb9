"""Writes email_log.txt where it is a stream: standard output or error, a FIFO, a terminal, `/dev/null`.

Nothing waits for its reader longer than a moment. What was written cannot be looked at, so after a crash the lines of one
batch may come twice.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from postroom.core.files import NotPlain, kind_of

_PATIENCE_MS: Final = 200
_PIECE: Final = select.PIPE_BUF  # a pipe that is ready takes so much without waiting, whole or not at all
_MOST_LINKS: Final = 40
_OWN: Final = re.compile(
    r"/dev/(?:std(out|err)|fd/([12]))|/proc/(?:self|thread-self|([0-9]{1,10}))/fd/([12])"
)
_STANDARD: Final = {"out": 1, "err": 2, "1": 1, "2": 2}
_OPEN: Final = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NoReader(OSError):
    """Nobody reads from the stream, and what was written and not read may be lost."""


class Stream:
    """Something to write to, for as long as it is open."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, content: bytes) -> int:
        """Write what goes out without a wait; return how much. Raises OSError, also where that is nothing."""
        written = 0
        while written < len(content):
            try:
                written += self._write(_whole_lines(content[written : written + _PIECE]))
            except OSError:
                if not written:
                    raise
                break
        return written

    def _write(self, piece: bytes) -> int:
        if not self._poll.poll(_PATIENCE_MS):
            raise BlockingIOError(errno.EAGAIN, "nobody reads from it")
        try:
            if not self._is_socket:
                return os.write(self._fd, piece)
            with socket.socket(fileno=os.dup(self._fd)) as own:
                return own.send(piece, socket.MSG_DONTWAIT)
        except (BrokenPipeError, ConnectionError) as error:
            raise NoReader(error.errno, "nobody reads from it any more") from None

    def held(self) -> Held:
        """Keep the stream open: what its reader has not read goes with the last one who has it open."""
        return Held(self._fd)


class Held:
    """A descriptor that stays open for as long as this is there."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def __del__(self) -> None:
        os.close(self._fd)


def _whole_lines(piece: bytes) -> bytes:
    """Leave out the beginning of a line, so that the next reader begins with a whole line; of a longer line, nothing."""
    return piece[: piece.rfind(b"\n") + 1] or piece


@contextmanager
def stream_at(path: Path) -> Iterator[Stream | None]:
    """Lend the stream that a path names; None for a regular file, or one that is not there yet. Raises OSError."""
    own = _own_descriptor(path)
    if own is not None:
        yield Stream(own)
        return
    kind, mode = _kind(path)
    if kind is None:
        yield None
        return
    if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        raise NotPlain(errno.EINVAL, f"it is {kind}, and neither a file nor a stream", str(path))
    fd = _open(path)
    try:
        yield Stream(fd)
    finally:
        os.close(fd)


def _kind(path: Path) -> tuple[str | None, int]:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None, 0
    return kind_of(mode), mode


def _open(path: Path) -> int:
    try:
        return os.open(path, _OPEN)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise NoReader(errno.ENXIO, "nobody reads from it", str(path)) from None
        raise


def _own_descriptor(path: Path) -> int | None:
    """Return 1 or 2 where a path names this process's standard output or error, also by links.

    They are not opened by their names: under systemd they are sockets, for which that fails.
    """
    name = path.absolute()
    for _ in range(_MOST_LINKS):
        found = _OWN.fullmatch(os.path.normpath(name))
        if found and found[3] in (None, str(os.getpid())):
            return _STANDARD.get(found[1] or found[2] or found[4])
        try:
            name = name.parent / name.readlink()
        except OSError:
            return None
    return None
