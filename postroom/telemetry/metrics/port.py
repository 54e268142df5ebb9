"""The port of metrics (POSTROOM_METRICS_PORT): one web process or worker of the host has it, and another takes it over."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import ClassVar, Final

from postroom.core.errors import ConfigError
from postroom.core.files import open_plain, reason_of
from postroom.telemetry.metrics.values import Page

log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.5  # until a process looks whether the port has become free
_ANSWER_WITHIN_S: Final = 10.0
_WHOLE_S: Final = 30.0  # for a connection
_MOST_AT_ONCE: Final = 8  # scrapes, each in a thread


class _Server(ThreadingHTTPServer):
    """A server of few threads, each with a deadline."""

    daemon_threads = True

    def __init__(
        self, family: int, address: tuple[str, int], page: Callable[[str], Page], within_s: float
    ) -> None:
        self.address_family = family
        self._within_s = within_s
        self._turns = threading.BoundedSemaphore(_MOST_AT_ONCE)
        handler = type("Handler", (_Handler,), {"page": staticmethod(page)})
        super().__init__(address, handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's asks DNS for the name of this machine

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        if self._turns.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        ends = threading.Timer(self._within_s, _shut, (request,))
        ends.daemon = True
        ends.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            ends.cancel()
            self._turns.release()

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("a scrape from %s failed", client_address, exc_info=True)


def _shut(request: socket.socket | tuple[bytes, socket.socket]) -> None:
    """End a connection, whose client may send an octet now and then to keep its turn."""
    if isinstance(request, socket.socket):
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """Answers `GET /metrics`, and nothing else."""

    page: ClassVar[Callable[[str], Page]]
    timeout = _ANSWER_WITHIN_S
    server_version = "Postroom"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self._send(404, "text/plain; charset=utf-8", b"the metrics are at /metrics\n")
            return
        page = type(self).page(self.headers.get("Accept", ""))
        self._send(200, page.content_type, page.body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the library's
        """Say nothing of a scrape."""


def check_port(host: str, port: int) -> None:
    """Raise ConfigError where no process could serve metrics there now. Nothing is left open."""
    try:
        family, address = _address(host, port)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise _refusal(error, host, port) from error


def _address(host: str, port: int) -> tuple[int, tuple[str, int]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, (str(address[0]), port)


def _refusal(error: OSError, host: str, port: int) -> ConfigError:
    """Return why the port cannot be had, with the setting and the fix."""
    if error.errno == errno.EADDRINUSE:
        variable, fix = "POSTROOM_METRICS_PORT", "end the program that has it, or choose another port"
    elif error.errno == errno.EACCES:
        variable, fix = "POSTROOM_METRICS_PORT", "choose a port above 1023"
    else:
        variable, fix = "POSTROOM_METRICS_HOST", "name an address of this machine"
    return ConfigError(variable, f"metrics cannot be served on {host}:{port}: {reason_of(error)}; {fix}")


class MetricsPort:
    """Takes the port as soon as it is free, and serves `page` on it.

    `lock` is a file that the processes of an installation share: one of them holds it, tries the port, and warns.
    """

    def __init__(
        self,
        host: str,
        port: int,
        page: Callable[[str], Page],
        lock: Path | None = None,
        *,
        within_s: float = _WHOLE_S,
    ) -> None:
        self._within_s = within_s
        self._host = host
        self._port = port
        self._page = page
        self._lock = lock
        self._held: int | None = None
        self._server: _Server | None = None
        self._closed = threading.Event()
        self._has_warned = False

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="metrics port").start()

    def _run(self) -> None:
        while not self._closed.is_set():
            if not self._is_ours_to_try():
                self._closed.wait(_AGAIN_S)
                continue
            try:
                family, address = _address(self._host, self._port)
                self._server = _Server(family, address, self._page, self._within_s)
            except OSError as error:
                self._note(error)
                self._closed.wait(_AGAIN_S)
                continue
            log.info("metrics are at http://%s:%d/metrics", self._host, self._port)
            self._server.serve_forever()
            return

    def _is_ours_to_try(self) -> bool:
        """Take the lock, which the kernel takes back when this process ends; True where there is none to be had."""
        if self._lock is None or self._held is not None:
            return True
        try:
            held = open_plain(self._lock, os.O_RDWR | os.O_CREAT)
        except OSError:  # the folder cannot be written to, which was told
            return True
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            return False
        self._held = held
        return True

    def _note(self, error: OSError) -> None:
        """Warn, once, of a port that cannot be had."""
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s", _refusal(error, self._host, self._port))

    def close(self) -> None:
        self._closed.set()
        if self._server is not None:
            threading.Thread(
                target=self._server.shutdown, daemon=True
            ).start()  # it would wait for `serve_forever`
            self._server.server_close()
        if self._held is not None:
            os.close(self._held)
            self._held = None
