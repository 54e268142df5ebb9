"""`python -m bench.slow_clients --kind header --count 10000 --port 5000`: so many clients that keep a connection.

Those whose connection is ended open another one. It says `ready` when all are there, and ends when its input does.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import select
import socket
import sys
import time
from collections.abc import Callable

_HEAD = b"POST /send-email HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
_ASK = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_BEGINNINGS: dict[str, Callable[[int], bytes]] = {
    "silent": lambda number: b"",
    "header": lambda number: _HEAD,
    "body": lambda number: (
        _HEAD
        + (b"Content-Length: 100000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")[number % 2]
    ),
    "idle": lambda number: _ASK,
    # All leave an answer unread; some ask on until the service cannot write any more.
    "never reading": lambda number: _ASK * (1000 if number % 400 == 0 else 1),
}
KINDS = tuple(_BEGINNINGS)
_OCTET_EVERY_S = 3.0
_RECEIVE_BUFFER = 2304
_SOURCES = 8  # addresses that they come from: each has some 28,000 ports
_AT_ONCE = 100


class Clients:
    """The clients of one kind."""

    def __init__(self, kind: str, port: int, count: int) -> None:
        self._kind = kind
        self._port = port
        self._count = count
        self._poll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._number = 0
        self.ended = 0

    @property
    def missing(self) -> int:
        return self._count - len(self._open)

    def fill(self) -> None:
        """Open some of those that are missing."""
        for _ in range(min(_AT_ONCE, self.missing)):
            self._number += 1
            client = socket.socket()
            try:
                if self._kind == "never reading":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
                client.bind((f"127.0.1.{self._number % _SOURCES + 1}", 0))
                client.settimeout(1)
                client.connect(("127.0.0.1", self._port))
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.send(_BEGINNINGS[self._kind](self._number))
            except OSError:
                client.close()
                return
            self._open[client.fileno()] = client
            unread = self._kind == "never reading"
            self._poll.register(client, select.EPOLLHUP | select.EPOLLERR | (0 if unread else select.EPOLLIN))

    def heed(self, seconds: float) -> None:
        """Notice the connections that were ended."""
        for number, _ in self._poll.poll(seconds):
            client = self._open[number]
            with contextlib.suppress(OSError):
                if self._kind != "never reading" and client.recv(65_536):
                    continue
            self._poll.unregister(client)
            client.close()
            del self._open[number]
            self.ended += 1

    def send_octets(self) -> None:
        if self._kind not in ("header", "body"):
            return
        for client in random.sample(list(self._open.values()), len(self._open) // 10):
            with contextlib.suppress(OSError):
                client.send(b"a")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--within", type=float, default=20.0, help="seconds for all of them to be there")
    parser.add_argument("--most", type=float, default=100.0, help="seconds after which it ends by itself")
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = Clients(asked.kind, asked.port, asked.count)
    began = sent = time.monotonic()
    said = False
    while time.monotonic() - began < asked.most:
        clients.fill()
        clients.heed(0.0 if clients.missing and not said else 0.05)
        if time.monotonic() - sent > _OCTET_EVERY_S / 10:
            sent = time.monotonic()
            clients.send_octets()
        if not said and (clients.missing == 0 or time.monotonic() - began > asked.within):
            print(f"ready {asked.count - clients.missing}", flush=True)
            said = True
        if said and select.select([sys.stdin], [], [], 0)[0]:
            break
    print(f"ended {clients.ended}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
