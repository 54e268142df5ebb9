"""Checks by device and inode that the files of an open SQLite database were not moved, removed or replaced.

What is moved, removed or replaced under a running process stays open there: it would go on writing into files that nobody
finds after a restart, and a process that opens the names meanwhile would see another database.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from postroom.core.errors import DatabaseReplaced
from postroom.core.files import open_plain, reason_of

_LOOK_EVERY_S = 1.0
# A directory's time of change has the grain of the kernel's clock tick: two changes within one look like one.
_GRAIN_NS = 50_000_000
# Version to write, change counter, pages (sqlite.org/fileformat2.html, 1.3).
_HEADER = struct.Struct(">18xB5xII")
_WAL = 2


@dataclass(frozen=True, slots=True)
class _Directory:
    device: int
    inode: int
    changed_ns: int


class DatabaseFiles:
    """The database's file, its log and index, and the writers' lock file, as they were when they were opened.

    `check` costs one `stat` of the directory for as long as nothing in it was renamed, made or removed; every second, and
    after such a change, each file is looked at.
    """

    def __init__(self, path: Path) -> None:
        """Make the database's file where there is none, for its owner alone."""
        self._path = path
        self._folder = path.parent
        self._names = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-lock")]
        self._file = _Shared.of(path)
        self._known: dict[Path, tuple[int, int]] = {}
        self._modified_ns = 0
        self._counters = [0, 0]
        self.is_written_over = False  # in place: it has its name still
        self._directory: _Directory | None = None
        self._looked = float("-inf")

    def remember(self) -> None:
        """Take the files that have the names now as the ones that are open."""
        for name in self._names:
            found = name.stat()
            self._known[name] = found.st_dev, found.st_ino
        self._look()

    def check(self, *, closely: bool = False) -> None:
        """Raise DatabaseReplaced unless every name still stands for the file that is open; `closely`: at any cost."""
        try:
            directory = _directory(self._folder)
            is_same = directory == self._directory and not closely
            if is_same and time.monotonic() - self._looked < _LOOK_EVERY_S:
                return
            self._look()
        except FileNotFoundError as error:
            raise self._replaced(f"{error.filename} is gone") from error
        except OSError as error:
            raise DatabaseReplaced(f"{self._path} cannot be looked at: {reason_of(error)}") from error

    def _look(self) -> None:
        directory = _directory(self._folder)
        for name in self._names:
            found = name.stat()
            if (found.st_dev, found.st_ino) != self._known[name]:
                raise self._replaced(f"{name} is another file now")
            if name == self._names[0] and found.st_mtime_ns != self._modified_ns:
                self._read_header()
                self._modified_ns = found.st_mtime_ns
        self._looked = time.monotonic()
        is_old = time.time_ns() - directory.changed_ns > _GRAIN_NS
        self._directory = directory if is_old else None

    def _read_header(self) -> None:
        """See that nothing was written into the file but by SQLite: neither counter goes back by itself.

        What `VACUUM INTO` has made has no log, by its header.
        """
        start = os.pread(self._file.fd, _HEADER.size, 0)
        version, *counters = _HEADER.unpack(start.ljust(_HEADER.size, b"\0"))
        self.is_written_over = version != _WAL or counters < self._counters
        if self.is_written_over:
            raise self._replaced(f"{self._path} was written over with another state of it")
        self._counters = counters

    def _replaced(self, what: str) -> DatabaseReplaced:
        return DatabaseReplaced(
            f"{what}: the database was moved, removed or replaced while Postroom has it open. Nothing is accepted or sent. "
            f"Put the file back, and it goes on; or stop Postroom, restore {self._path} from a backup, and start it again"
        )

    @property
    def inode(self) -> int:
        """The database's own."""
        return self._known[self._names[0]][1]

    def is_moved(self) -> bool:
        """Whether the database's own file no longer has its name."""
        try:
            found = self._names[0].stat()
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._known[self._names[0]]

    def close(self) -> None:
        """To be called when this engine's connections are closed."""
        self._file.give_up()


class _Shared:
    """The descriptors of the database's file that the engines of this process have.

    To close any descriptor of a file gives up all of a process's locks on it (POSIX), SQLite's too.
    """

    _all: ClassVar[dict[tuple[int, int], _Shared]] = {}
    _mutex = threading.Lock()

    def __init__(self, key: tuple[int, int]) -> None:
        self._key = key
        self._fds: list[int] = []  # one for each user; all are closed with the last one's
        self._users_gone = 0

    @property
    def fd(self) -> int:
        return self._fds[0]

    @classmethod
    def of(cls, path: Path) -> _Shared:
        with cls._mutex:
            fd = open_plain(path, os.O_CREAT | os.O_RDWR)
            found = os.fstat(fd)
            key = found.st_dev, found.st_ino
            shared = cls._all.setdefault(key, cls(key))
            shared._fds.append(fd)
            return shared

    def give_up(self) -> None:
        with self._mutex:
            self._users_gone += 1
            if self._users_gone == len(self._fds):
                del self._all[self._key]
                for fd in self._fds:
                    os.close(fd)


def _directory(folder: Path) -> _Directory:
    found = folder.stat()
    return _Directory(found.st_dev, found.st_ino, found.st_mtime_ns)
