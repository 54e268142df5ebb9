"""Closes HTTP connections whose heads do not end or whose clients do not read.

granian has one timer for a head and for an idle connection. So a look at the sockets of this process, once a second,
ends those that have sent no whole head in time: what the kernel has received since the last request is compared with
what was there before. That needs Linux and TCP; elsewhere, and on a Unix socket, granian's timer alone remains.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from postroom.core.descriptors import are_shown, open_descriptors
from postroom.core.text import counted

log = logging.getLogger(__name__)

HEAD_WITHIN_S = (
    10.0  # for the first head of a connection from its beginning, for others from their first octet
)
READ_WITHIN_MS = 30_000  # without an octet read, as far as more is there than the client's system takes
_SEND_BUFFER = 65_536  # an answer has a few KiB; the kernel's own limit is some MiB for each connection
_LOOK_S = 1.0
_AT_ONCE = 200  # connections that are looked at before other threads have a turn
_PAUSE_S = 0.0005
_TELL_S = 60.0
_RECEIVED = struct.Struct("Q")  # tcpi_bytes_received of the kernel's struct tcp_info
_RECEIVED_AT = 128


@dataclass(slots=True)
class _Seen:
    """A descriptor at the last look. `client` is as in granian's scope, None where it is no client's connection."""

    inode: int
    client: str | None
    since: float  # when the head that is awaited began to be
    received: int = 0  # octets, when its last request had come
    has_asked: bool = False


class Connections:
    """The clients' connections to `port`. `has_begun` and `has_ended` tell of each request."""

    def __init__(
        self,
        port: int,
        head_within_s: float = HEAD_WITHIN_S,
        look_s: float = _LOOK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._head_within_s = head_within_s
        self._look_s = look_s
        self._in_hand: set[str] = set()
        self._asked: set[str] = set()  # since the last look
        self._seen: dict[int, _Seen] = {}
        self._now = (
            0.0  # advances by no more than two looks at a time: while we stood still, no client was late
        )
        self._clock = clock
        self._looked_at = clock()
        self._ended, self._told_at = 0, -_TELL_S
        self._is_looked_at = are_shown()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="connections")

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_looked_at:
            self._loop = loop
            loop.call_soon(self._begin_look)

    def close(self) -> None:
        self._loop = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    def has_begun(self, client: str) -> None:
        self._in_hand.add(client)

    def has_ended(self, client: str) -> None:
        if self._is_looked_at:
            self._asked.add(client)  # first: in one of both it is always
        self._in_hand.discard(client)

    def in_progress(self) -> int:
        """Count the requests that are being answered."""
        return len(self._in_hand)

    def count(self) -> int:
        """Count the clients' connections, as of the last look."""
        return sum(seen.client is not None for seen in self._seen.values())

    def _begin_look(self) -> None:
        """Look in a thread. It is the loop that begins, so that a request which it has not seen yet is not late."""
        if self._loop is not None:
            self._loop.run_in_executor(self._thread, self.look).add_done_callback(self._looked)

    def _looked(self, future: asyncio.Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            log.error("cannot look for slow connections", exc_info=error)
        if self._loop is not None:
            self._loop.call_later(self._look_s, self._begin_look)

    def look(self) -> None:
        """End the connections that have sent no whole head in time."""
        elapsed = self._clock() - self._looked_at
        self._looked_at += elapsed
        self._now += min(elapsed, 2 * self._look_s)
        asked, self._asked = self._asked, set()
        seen: dict[int, _Seen] = {}
        for number, descriptor in enumerate(open_descriptors()):
            if number % _AT_ONCE == _AT_ONCE - 1:
                time.sleep(_PAUSE_S)
            with suppress(OSError):  # it has been closed meanwhile
                seen[descriptor] = self._look_at(descriptor, asked)
        self._seen = seen
        if self._ended and self._now - self._told_at >= _TELL_S:
            log.info(
                "ended %s that sent no whole head within %g s",
                counted(self._ended, "connection"),
                self._head_within_s,
            )
            self._ended, self._told_at = 0, self._now

    def _look_at(self, descriptor: int, asked: set[str]) -> _Seen:
        inode = os.fstat(descriptor).st_ino
        seen = self._seen.get(descriptor)
        if seen is None or seen.inode != inode:
            seen = _Seen(inode, self._client_of(descriptor), self._now)
        if seen.client is None:
            return seen
        received = _received(descriptor)
        if seen.client in asked or seen.client in self._in_hand or seen.client in self._asked:
            seen.has_asked, seen.received, seen.since = True, received, self._now
        elif seen.has_asked and received == seen.received:
            seen.since = self._now  # idle: granian has a time for that
        elif self._now - seen.since >= self._head_within_s:
            self._end(descriptor, inode)
        return seen

    def _client_of(self, descriptor: int) -> str | None:
        """Return a client's address as granian writes it."""
        with suppress(OSError), _lent(descriptor) as found:
            if found.type is not socket.SOCK_STREAM or found.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if found.getsockname()[1] != self._port:
                return None
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                _limit_unread(found)
                return None
            host, port, *more = found.getpeername()
            if found.family is socket.AF_INET:
                return f"{host}:{port}"
            zone = f"%{more[1]}" if more[1] else ""
            return f"[{host.partition('%')[0]}{zone}]:{port}"
        return None

    def _end(self, descriptor: int, inode: int) -> None:
        """Shut the connection down, if the number is still its own: granian closes what has ended."""
        with _lent(descriptor) as found:
            if os.fstat(found.fileno()).st_ino == inode:
                self._ended += 1
                found.shutdown(socket.SHUT_RDWR)


@contextmanager
def _lent(descriptor: int) -> Iterator[socket.socket]:
    """Lend a socket under a number of our own, so that it is the same one until the end. Raises OSError.

    What is no socket must not be touched: to close any descriptor of the database gives up all locks that SQLite
    has on it in this process, and another one would remove its write-ahead log.
    """
    _demand_socket(descriptor)
    own = os.dup(descriptor)
    _demand_socket(own)  # the number may be another file's by now; then the new one stays open
    try:
        found = socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise
    with found:
        yield found


def _demand_socket(descriptor: int) -> None:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise OSError(errno.ENOTSOCK, "no socket")


def _limit_unread(listener: socket.socket) -> None:
    """Give all connections to come a deadline for what is not read: they have the options of their listener."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, READ_WITHIN_MS)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def _received(descriptor: int) -> int:
    """Return how many octets have come over a TCP connection."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=descriptor)
    try:
        info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + _RECEIVED.size)
    finally:
        found.detach()
    received: int = _RECEIVED.unpack_from(info, _RECEIVED_AT)[0]
    return received
