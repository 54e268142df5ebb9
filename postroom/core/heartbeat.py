"""Heartbeats: a process tells the supervisor, or systemd, that it is ready and that it is alive."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from postroom.core.numbers import whole_number

if TYPE_CHECKING:
    import asyncio

READY: Final = "POSTROOM_READY"
NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = "WATCHDOG_USEC"
OF_SYSTEMD: Final = (NOTIFY_SOCKET, WATCHDOG, "WATCHDOG_PID")  # sd_notify(3), sd_watchdog_enabled(3)
BEAT_S: Final = 5.0
STALLED_S: Final = 300.0  # a wait for a database or a lock ends within a minute
_MESSAGE: Final = struct.Struct("=ci")  # the message, and the process that sent it
_IS_READY, _GOES_ON = b"r", b"g"
_own: int | None = None  # the pipe of processes that are forked from here, without a supervisor


def hear_forks() -> int:
    """Open a pipe for the heartbeats of processes that are forked from this one; return its reading end."""
    global _own
    read, _own = os.pipe()
    os.set_blocking(read, False)
    return read


def notify(state: str) -> None:
    """Send a message to systemd by sd_notify(3), where it started this process."""
    path = os.environ.get(NOTIFY_SOCKET)
    if not path:
        return
    import socket

    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


def watchdog_s() -> float | None:
    """Return the interval of systemd's watchdog in seconds (sd_watchdog_enabled(3))."""
    wanted = whole_number(os.environ.get(WATCHDOG, ""))
    return wanted / 1e6 if wanted else None


def report_ready() -> None:
    """Tell the supervisor, or systemd where there is none, that this process is ready."""
    if not _tell(_IS_READY):
        notify("READY=1")


def report_stopping() -> None:
    """Tell systemd, where there is no supervisor, that this process ends."""
    if READY not in os.environ:
        notify("STOPPING=1")


def beat() -> None:
    """Tell the supervisor, or systemd's watchdog where there is none, that this process is alive."""
    if not _tell(_GOES_ON) and WATCHDOG in os.environ:
        notify("WATCHDOG=1")


def _tell(what: bytes) -> bool:
    """Write to the listener's pipe; return whether there is one. A full or closed pipe is ignored."""
    fd = int(os.environ[READY]) if READY in os.environ else _own
    if fd is None:
        return False
    with suppress(OSError):
        os.set_blocking(fd, False)
        os.write(fd, _MESSAGE.pack(what, os.getpid()))
    return True


def heard(fd: int) -> list[tuple[int, bool]]:
    """Return the heartbeats in a non-blocking pipe: each process, and whether it reports that it is ready."""
    try:
        data = os.read(fd, 256 * _MESSAGE.size)
    except BlockingIOError:
        return []
    whole = len(data) - len(data) % _MESSAGE.size
    return [(pid, what == _IS_READY) for what, pid in _MESSAGE.iter_unpack(data[:whole])]


class Pulse:
    """Sends heartbeats from an event loop, as long as the loop runs and no thread has been busy for too long.

    `stalled_s` returns for how many seconds a thread has been busy that should have returned.
    """

    def __init__(self, stalled_s: Callable[[], float] = lambda: 0.0, *, every_s: float = BEAT_S) -> None:
        self._stalled_s = stalled_s
        self._every_s = every_s

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._stalled_s() < STALLED_S:
            beat()
        loop.call_later(self._every_s, self.start, loop)


class UnderWay:
    """Measures for how long an operation has been under way."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: float | None = None

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    @property
    def seconds(self) -> float:
        since = self._since
        return 0.0 if since is None else time.monotonic() - since
