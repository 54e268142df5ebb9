"""A TCP cable that can be cut at a word: to lose an answer, or the question itself."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from types import TracebackType
from typing import Self

_LITTLE = 16_384  # octets


class Cable:
    """A proxy in front of a server on 127.0.0.1.

    `cut_at(word, before=True)` breaks every connection the next time a client says the word: before the server hears
    it, or after that but before the client hears any more. With `octets_per_s` it is slow, and holds little itself, so
    that the sender holds what is on its way.
    """

    def __init__(self, port: int, octets_per_s: int | None = None) -> None:
        self._server_port = port
        self._octets_per_s = octets_per_s
        self._word: bytes | None = None
        self._before = True
        self.cuts = 0
        self.carried = {"to the server": 0, "to the client": 0}  # octets
        self._refusing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._hold_little(self._listener)  # so do the connections that it takes
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def cut_at(self, word: bytes, *, before: bool, stay_away: bool = False) -> None:
        """Arm the cable; with `stay_away` it takes no connections afterwards, until `mend`."""
        self._before, self._stay_away = before, stay_away
        self._word = word

    def mend(self) -> None:
        self._refusing = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            thread = threading.Thread(target=self._carry, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _hold_little(self, end: socket.socket) -> None:
        if self._octets_per_s is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LITTLE)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LITTLE)

    def _carry(self, client: socket.socket) -> None:
        server = socket.socket()
        self._hold_little(server)  # before it is connected, or its window is too large already
        server.connect(("127.0.0.1", self._server_port))
        with client, server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source: socket.socket = key.fileobj  # type: ignore[assignment]
                    try:
                        data = source.recv(_LITTLE if self._octets_per_s else 1 << 20)
                        if self._octets_per_s is not None:
                            time.sleep(len(data) / self._octets_per_s)
                        if not data or not self._pass(
                            data, source is client, server if source is client else client
                        ):
                            return
                    except OSError:
                        return

    def _pass(self, data: bytes, from_client: bool, target: socket.socket) -> bool:
        word = self._word
        self.carried["to the server" if from_client else "to the client"] += len(data)
        if not (from_client and word is not None and word in data):
            target.sendall(data)
            return True
        self._word, self._refusing = None, self._stay_away
        self.cuts += 1
        if not self._before:
            target.sendall(data)
            target.settimeout(5)
            target.recv(1 << 20)  # the server has answered; nobody hears it
        return False

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
