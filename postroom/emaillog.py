"""email_log.txt: one line for each finished message, a projection of the database.

A crash must neither lose a line nor write it twice. So the place of a batch in the
file (inode and offset) is committed before its lines are written, and the batch is
forgotten after they are flushed. What a crash leaves in between is compared with the
file, and only the missing end is written.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from postroom.model import SECOND, Instant
from postroom.status import printable
from postroom.store import LogBatch, LogLine, Store

_MOST_LINES = 1000


def format_line(line: LogLine) -> str:
    """Return the seed's line, without its end. Nothing in it can make a second line."""
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

    def project(self) -> int:
        """Write every line that the file lacks; return how many. Raises OSError when it cannot be written."""
        with self._alone() as alone:
            if not alone:
                return 0
            written = self._settle()
            while lines := self._store.unwritten_log_lines(_MOST_LINES):
                self._write(lines)
                written += len(lines)
        return written

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _write(self, lines: Sequence[LogLine]) -> None:
        with self._path.open("ab") as file:
            found = os.fstat(file.fileno())
            start = found.st_size
            batch = self._store.write(
                lambda transaction: transaction.begin_log_batch(
                    inode=found.st_ino, start=start, last=lines[-1].id
                )
            )
            _append(file.fileno(), _encode(lines))
        self._store.write(lambda transaction: transaction.end_log_batch(batch))

    def _settle(self) -> int:
        """Finish the batch that a crash interrupted, if there is one."""
        written = 0
        while (batch := self._store.open_log_batch()) is not None:
            self._complete(batch)
            written += len(batch.lines)
            self._store.write(lambda transaction, id_=batch.id: transaction.end_log_batch(id_))  # type: ignore[misc]
        return written

    def _complete(self, batch: LogBatch) -> None:
        content = _encode(batch.lines)
        path = self._find(batch.inode) or self._path
        with path.open("a+b") as file:
            file.seek(batch.start)
            present = file.read(len(content)) if os.fstat(file.fileno()).st_ino == batch.inode else b""
            # Bytes that are not ours mean that the file was cut or rewritten: then the whole batch is written anew.
            done = len(present) if content.startswith(present) else 0
            _append(file.fileno(), content[done:])

    def _find(self, inode: int) -> Path | None:
        """Return the file with this inode: the log itself, or what rotation has made of it."""
        candidates = [self._path, *self._path.parent.glob(f"{self._path.name}*")]
        for path in candidates:
            try:
                if path.stat().st_ino == inode:
                    return path
            except OSError:
                continue
        return None


def _encode(lines: Sequence[LogLine]) -> bytes:
    return "".join(f"{format_line(line)}\n" for line in lines).encode()


def _append(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)
