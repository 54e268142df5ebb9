"""The lock file by which the writers of several processes take turns at one SQLite database.

SQLite's own busy handler sleeps between its tries: it starves, and leaves the database idle for half of its time.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from postroom.errors import StoreUnavailable

_OPEN = b"open\n"


class WriterLock:
    """A lock file that only one committer of all processes holds, and only for one commit.

    The kernel hands it on at once, in the order of asking. It cannot be asked to give up after a time, so a thread,
    the usher, stands in the queue for whoever waits. One thread at a time may enter; raises
    StoreUnavailable when it is not free within `longest_wait_s`.

    The file says too whether the database was left open, and its time when something was last written: what
    was not checkpointed since is in the write-ahead log alone.
    """

    def __init__(self, path: Path, longest_wait_s: float) -> None:
        self._path = path
        self._longest_wait_s = longest_wait_s
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._mutex = threading.Lock()  # guards the four that follow
        self._queues = False  # the usher stands in the queue: nobody else may touch the lock
        self._wanted = False  # somebody waits for it
        self._closed = False
        self._usher: threading.Thread | None = None
        # Each of these is released for the one who waits for it.
        self._sent = threading.Lock()
        self._granted = threading.Lock()
        self._sent.acquire()
        self._granted.acquire()

    def __enter__(self) -> None:
        with self._mutex:
            if not self._queues:
                if self._try():
                    return
                self._send_usher()
            self._wanted = True  # an usher who was given up is in the queue still
        granted = False
        try:
            granted = self._granted.acquire(timeout=self._longest_wait_s)
        finally:
            if not granted:  # or somebody has pressed Ctrl-C
                self._give_up()
        if not granted:
            raise StoreUnavailable(
                f"another process has held {self._path} for {self._longest_wait_s:g} s; is one of Postroom's "
                f"processes stopped?"
            )

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            if self._usher is None:
                os.close(self._fd)
            elif not self._queues:  # else it comes back by itself
                self._sent.release()

    def note_open(self) -> None:
        if not self._left_open():
            os.pwrite(self._fd, _OPEN, 0)
            os.utime(self._fd, ns=(0, 0))  # nothing was written since

    def note_write(self) -> None:
        os.utime(self._fd)

    def note_closed(self) -> None:
        os.ftruncate(self._fd, 0)

    def is_newer_than(self, database: Path) -> bool:
        """Whether the database was left open, with something written that is not in the file."""
        return self._left_open() and database.stat().st_mtime_ns < os.fstat(self._fd).st_mtime_ns

    def _left_open(self) -> bool:
        return os.pread(self._fd, len(_OPEN), 0) == _OPEN

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    # -- the usher

    def _send_usher(self) -> None:
        if self._usher is None:
            self._usher = threading.Thread(target=self._usher_waits, name="usher", daemon=True)
            self._usher.start()
        self._queues = True
        self._sent.release()

    def _usher_waits(self) -> None:
        while True:
            self._sent.acquire()
            if self._queues:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            with self._mutex:
                self._queues = False
                if self._wanted:
                    self._wanted = False
                    self._granted.release()
                else:  # to close the file is not enough where a forked child has it open too
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
                if self._closed:
                    os.close(self._fd)
                    return

    def _give_up(self) -> None:
        with self._mutex:
            came = not self._wanted  # just now
            self._wanted = False
        if came:
            self._granted.acquire()
            fcntl.flock(self._fd, fcntl.LOCK_UN)
