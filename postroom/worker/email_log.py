"""Writes email_log.txt: one line for each finished message, from the outbox in the database.

A crash must neither lose a line nor write it twice. So the offset of a batch in the
file is committed before its lines are written, and the batch is forgotten after they
are flushed. What a crash leaves in between is compared with the file, or with what
rotation has made of it, and only the missing end is written. Where several hosts share
a database each has a file of its own, and a line goes into one of them.

A log that is a stream (`log_stream.py`) cannot be compared with anything. How far a batch has come is known to its writer
alone, and a crash has all of it written again.
"""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from postroom.core.clock import SECOND, Instant
from postroom.core.errors import LeaseLost
from postroom.core.files import open_plain, plain_file
from postroom.core.rewrite import CannotRead, count_changes, rewrite_lines
from postroom.core.text import printable
from postroom.store.log_lines import LogBatch, LogLine, LogLines
from postroom.store.settings import StoredSettings
from postroom.store.store import Store
from postroom.worker.log_stream import Held, NoReader, Stream, stream_at

log = logging.getLogger(__name__)

LOCK = "email_log.lock"  # in var/
_MOST_LINES = 1000
_LONGEST_NAME = 64


def format_line(line: LogLine) -> str:
    """Return the line of the original program, without its end. Nothing in it can make a second line."""
    fields = (
        f"Request ID: {line.request_id}",
        f"Sender: {line.sender}",
        f"Recipient: {', '.join(line.recipients)}",
        f"Date: {_local(line.accepted_at)}",
        f"Status: {line.status}",
    )
    return printable(", ".join(fields))


def _local(at: Instant) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at // SECOND))


class EmailLog:
    """The log file. `lock` is a file that only the process writing the log holds."""

    def __init__(self, store: Store, path: Path, lock: Path) -> None:
        self._store = store
        self._path = path
        self._lock = lock
        self._writer = ""
        self._held: Held | None = None
        self._streamed = (0, 0)  # a batch, and how many of its octets a stream has taken

    def project(self) -> int | None:
        """Write every line that the file lacks now; return how many. Raises OSError when it cannot be written.

        What is finished meanwhile is left to the next call: under load each batch would be small, and a batch costs
        two commits and a flush.

        None when another process is writing just now: it may have looked before the last line was there.
        """
        with self._alone() as alone:
            if not alone:
                return None
            try:
                with stream_at(self._path) as stream:
                    try:
                        return self._write_all(stream)
                    finally:  # part of a batch is in the stream: a new reader is to find what the last one has left
                        self._held = stream.held() if stream is not None and self._streamed[1] else None
            except NoReader:
                self._streamed, self._held = (0, 0), None
                raise

    def revise(self, change: Callable[[bytes], bytes], name: str | None = None) -> int | None:
        """Change lines that were written before, with a name once under it; return how many are different now.

        Those of files that rotation has made of the log too. A stream has nothing that could be changed.
        None when another process is writing just now. Raises OSError.
        """
        known = _read(self._lock, 0, _LONGEST_NAME).decode(
            "ascii", "replace"
        )  # each host has a log of its own
        if known and name is not None and self._store.read(StoredSettings.get, f"{name}:{known}") is not None:
            return 0
        with self._alone() as alone:
            if not alone:
                return None
            revised = 0
            if self._path.is_file():
                self._finish_batch(None)  # before its place in the file is another one
                for path in (self._path, *self._rotated()):
                    revised += _revised(path, change)
            if name is not None:
                self._store.write(StoredSettings.set, f"{name}:{self._writer}", "1")
            return revised

    def count(self, change: Callable[[bytes], bytes]) -> int:
        """Return how many lines `revise` would change now. Raises OSError."""
        if not self._path.is_file():
            return 0
        return sum(_revised(path, change, count_changes) for path in (self._path, *self._rotated()))

    def _write_all(self, stream: Stream | None) -> int:
        written = self._finish_batch(stream)
        with suppress(LeaseLost):  # another host's worker took them into its own file
            while lines := self._store.read(LogLines.unwritten, _MOST_LINES):
                if stream is None:
                    self._write(lines)
                else:
                    self._write_to(stream, LogBatch(self._begin(lines, 0), 0, tuple(lines)))
                written += len(lines)
                if len(lines) < _MOST_LINES:
                    break
        return written

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        lock = open_plain(self._lock, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        with os.fdopen(lock, "a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                self._writer = _identity(file)
                yield True

    def _write(self, lines: Sequence[LogLine]) -> None:
        with open(self._path, "ab", opener=_open) as file:
            batch = self._begin(lines, self._end_last_line(file.fileno()))
            _append(file.fileno(), _encode(lines))
        self._end(batch)

    def _begin(self, lines: Sequence[LogLine], start: int) -> int:
        messages = [line.message_id for line in lines]
        return self._store.write(LogLines.begin_batch, start=start, messages=messages, writer=self._writer)

    def _write_to(self, stream: Stream, batch: LogBatch) -> None:
        """Write a batch to a stream, from where it stands. Raises OSError where it does not take all of it.

        A new reader gets the batch from its beginning: what the one before had not read is gone.
        """
        content = _encode(batch.lines)
        known, at = self._streamed
        at = at if known == batch.id else 0
        while at < len(content):
            at += stream.write(content[at:])
            self._streamed = batch.id, at
        self._end(batch.id)
        self._streamed = 0, 0

    def _end_last_line(self, fd: int) -> int:
        """Return where the file ends, after ending a line that somebody has left open."""
        size = os.fstat(fd).st_size
        if size and _read(self._path, size - 1, 1) not in (b"\n", b""):
            _append(fd, b"\n")
        return os.fstat(fd).st_size

    def _finish_batch(self, stream: Stream | None) -> int:
        """Finish the batch that was interrupted; take it back when a file has nothing of it."""
        written = 0
        while (batch := self._store.read(LogLines.open_batch, self._writer)) is not None:
            if stream is not None:
                self._write_to(stream, batch)
                written += len(batch.lines)
            elif self._complete(batch):
                self._end(batch.id)
                written += len(batch.lines)
            else:
                self._take_back(batch.id)
        return written

    def _end(self, batch: int) -> None:
        self._store.write(LogLines.end_batch, batch)

    def _take_back(self, batch: int) -> None:
        self._store.write(LogLines.take_back_batch, batch)

    def _complete(self, batch: LogBatch) -> bool:
        """Write what is missing where the batch has begun; False when it has begun nowhere."""
        content = _encode(batch.lines)
        for path in self._path, *self._rotated():
            present = _read(path, batch.start, len(content))
            if present and content.startswith(present):
                with open(path, "ab", opener=_open) as file:
                    _append(file.fileno(), content[len(present) :])
                return True
        return False

    def _rotated(self) -> Iterator[Path]:
        """Yield the files that rotation, by renaming or by copying, has made of the log."""
        return self._path.parent.glob(f"{glob.escape(self._path.name)}?*")


def _revised(
    path: Path,
    change: Callable[[bytes], bytes],
    revise: Callable[[Path, Callable[[bytes], bytes]], int] = rewrite_lines,
) -> int:
    """Change lines of one file, or count those that would change; return how many."""
    try:
        return revise(path, change) if path.is_file() else 0
    except CannotRead as error:
        log.warning("%s was not searched: %s", path, error)
        return 0


def _identity(lock: BinaryIO) -> str:
    """Return what the lock file says this writer is called; a new name for a new file."""
    lock.seek(0)
    name = lock.read(_LONGEST_NAME).decode("ascii", "replace")
    if not name:
        name = uuid4().hex
        lock.write(name.encode())
        lock.flush()
        os.fsync(lock.fileno())
    return name


def _open(path: str, flags: int) -> int:
    """A new log is for its owner and group, such as a log shipper's, and for nobody else."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o640)  # it may have become a FIFO just now


def _read(path: Path, start: int, count: int) -> bytes:
    """Return bytes of a file; none where there is no file."""
    if not path.is_file():
        return b""
    with plain_file(path) as file:
        file.seek(start)
        return file.read(count)


def _encode(lines: Sequence[LogLine]) -> bytes:
    return "".join(f"{format_line(line)}\n" for line in lines).encode()


def _append(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)
