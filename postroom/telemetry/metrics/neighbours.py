"""The processes of an installation on one host: each has a name, and gives the others its own metrics.

So a scrape of any of them tells of all, and no series comes and goes with the process that happened to answer. Files in
memory that all write to, as the library has them, would kill a process by SIGBUS when the disk is full.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from postroom.core.files import open_plain, reason_of

log = logging.getLogger(__name__)

_MOST_PROCESSES: Final = 1100  # of one kind: WEB_CONCURRENCY is 1024 at most
_WITHIN_S: Final = 0.5  # one that is stopped, or hangs, is left out
_MOST_BYTES: Final = 4 * 1024 * 1024
_BACKLOG: Final = 16
_PORT_LOCK: Final = "port.lock"  # held by the process that has the port of metrics, or tries to


class Neighbours:
    """The name of this process (`web-0`, `worker-0`: the first that is free), and its socket in `folder`."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._kind = kind
        self._lock: int | None = None
        self._listener: socket.socket | None = None
        self.name = kind
        self.port_lock = folder / _PORT_LOCK

    def start(self, answer: Callable[[], bytes]) -> None:
        """Take a name, and give the processes that ask for it what `answer` returns. What fails is logged."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self.name = self._take_name()
            path = self._folder / f"{self.name}.sock"
            path.unlink(missing_ok=True)  # of a process that was killed: the name is ours
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen(_BACKLOG)
        except OSError as error:
            log.warning("cannot tell other processes of metrics in %s: %s", self._folder, reason_of(error))
            return
        threading.Thread(
            target=self._serve, args=(self._listener, answer), daemon=True, name="metrics"
        ).start()

    def _take_name(self) -> str:
        for number in range(_MOST_PROCESSES):
            name = f"{self._kind}-{number}"
            lock = open_plain(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            self._lock = lock
            return name
        raise OSError("no name is free")

    @staticmethod
    def _serve(listener: socket.socket, answer: Callable[[], bytes]) -> None:
        while True:
            try:
                asking, _ = listener.accept()
            except OSError:  # closed
                return
            with asking, suppress(OSError):
                asking.settimeout(_WITHIN_S)
                asking.sendall(answer())

    def ask(self) -> Iterator[bytes]:
        """Ask all other processes of the installation on this host."""
        for path in sorted(self._folder.glob("*.sock")):
            if path.stem != self.name:
                with suppress(OSError):
                    yield _answer_of(path)

    def close(self) -> None:
        """Give the name back."""
        if self._listener is not None:
            with suppress(OSError):
                (self._folder / f"{self.name}.sock").unlink(missing_ok=True)
            self._listener.close()
        if self._lock is not None:
            os.close(self._lock)
        self._listener = self._lock = None


def _answer_of(path: Path) -> bytes:
    """Return what a process says. Raises OSError for one that has ended, or says nothing in time."""
    parts: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(_WITHIN_S)
        asked.connect(str(path))
        while (part := asked.recv(65_536)) and sum(map(len, parts)) < _MOST_BYTES:
            parts.append(part)
    return b"".join(parts)
