"""Writes lines to a descriptor that several processes share, so that none is broken by another's."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PIECE: Final = select.PIPE_BUF  # what a pipe takes whole, whatever else is written to it (pipe(7))
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class LineWriter:
    """Writes whole lines. A file takes any number at once, a pipe so many octets.

    A line that is longer than that is written while no other process writes (a lock on the file `lock`). Where a
    process is killed while it writes such a line, the rest of it is missing. What cannot be written is lost, and counted.
    """

    def __init__(self, fd: int, lock: Path) -> None:
        self.lost = 0
        self._fd = fd
        self._lock = lock
        self._lock_fd = -1
        self._mutex = threading.RLock()  # a signal's handler may log

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines, each with its line feed. It waits for a reader that is slow."""
        with self._mutex:
            try:
                for piece in self._pieces(lines):
                    with self._shared(alone=len(piece) > _PIECE):
                        self._write(piece)
            except OSError:  # nobody reads it any more, or the disk is full: there is no place to say so
                self.lost += len(lines)

    def _pieces(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        whole = b"".join(lines)
        if len(whole) <= _PIECE or stat.S_ISREG(os.fstat(self._fd).st_mode):
            yield whole
            return
        piece = b""
        for line in lines:
            if piece and len(piece) + len(line) > _PIECE:
                yield piece
                piece = b""
            piece += line
        yield piece

    @contextmanager
    def _shared(self, *, alone: bool) -> Iterator[None]:
        """Keep other processes from writing long lines, or, `alone`, any."""
        if self._lock_fd < 0:
            with suppress(OSError):  # there is no folder yet, before the first start
                self._lock_fd = os.open(self._lock, _LOCK_FLAGS, 0o600)
        if self._lock_fd < 0:
            yield
            return
        fcntl.lockf(self._lock_fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)

    def _write(self, octets: bytes) -> None:
        left = memoryview(octets)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except OSError as error:
                if error.errno != errno.EAGAIN:  # somebody has made the stream one that does not wait
                    raise
                select.select([], [self._fd], [])

    def close(self) -> None:
        with self._mutex:
            if self._lock_fd >= 0:
                with suppress(OSError):
                    os.close(self._lock_fd)
            self._lock_fd = -1
