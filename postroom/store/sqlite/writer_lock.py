"""The lock file that orders the writers of several processes on one SQLite database.

SQLite's own busy handler sleeps between its tries: it starves, and leaves the database idle for half of its time.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path

from postroom.core.errors import StoreUnavailable
from postroom.core.files import open_plain
from postroom.core.numbers import whole_number

_OPEN = b"open\n"
_MOST_NOTED = 200  # octets
_OFD_SETLK: int | None = getattr(fcntl, "F_OFD_SETLK", None)  # Linux
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64 bits: type, whence, start, length, pid
_IN_USE = 1 << 40  # the octet that everybody who has the database open holds a shared lock on


class WriterLock:
    """A lock file that only one writer of all processes holds, and only for one commit.

    The kernel hands it on at once, in the order of asking. It cannot be asked to give up after a time, so a thread,
    the usher, stands in the queue for those that wait. One thread at a time may enter; raises
    StoreUnavailable when it is not free within `longest_wait_s`.

    The file says too whether the database was left open, and its time when something was last written: what
    was not checkpointed since is in the write-ahead log alone. It also names the file that is open, by its inode, and
    is locked (shared) by each process for as long as that has the database open.
    """

    def __init__(self, path: Path, longest_wait_s: float) -> None:
        self._path = path
        self._longest_wait_s = longest_wait_s
        self._fd = open_plain(path, os.O_CREAT | os.O_RDWR)
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
                f"processes stopped, or does another program, such as a backup, keep the database locked?"
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

    def note_open(self, inode: int) -> None:
        """Note that the database with this inode is open."""
        noted = _OPEN + f"{self._own_inode()} {inode}\n".encode()
        if os.pread(self._fd, len(noted), 0) == noted:
            return
        written_ns = os.fstat(self._fd).st_mtime_ns if self._left_open() else 0  # 0: nothing since
        os.pwrite(self._fd, noted, 0)
        os.ftruncate(self._fd, len(noted))
        os.utime(self._fd, ns=(written_ns, written_ns))

    def noted_inode(self) -> int | None:
        """Return the inode of the database that was left open, as far as that is known.

        A lock file that was copied along with its folder knows nothing of the copy.
        """
        words = os.pread(self._fd, _MOST_NOTED, 0).removeprefix(_OPEN).split()
        if not self._left_open() or len(words) < 2 or whole_number(words[0], 20) != self._own_inode():
            return None
        return whole_number(words[1], 20)

    def is_in_use(self) -> bool:
        """Whether another process has the database open."""
        return not self._lock_in_use(fcntl.F_WRLCK)

    def use(self) -> None:
        """Let the other processes see that this one has the database open, until `close`."""
        self._lock_in_use(fcntl.F_RDLCK)

    def _lock_in_use(self, kind: int) -> bool:
        if _OFD_SETLK is None:
            return True
        try:
            fcntl.fcntl(self._fd, _OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, _IN_USE, 1, 0))
        except OSError:
            return False
        return True

    def _own_inode(self) -> int:
        return os.fstat(self._fd).st_ino

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
