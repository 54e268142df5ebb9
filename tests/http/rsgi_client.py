"""Flask's test client through the server that granian calls: its requests become RSGI's, and the answers WSGI's again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flask import Flask

from postroom.web.app import DOORWAYS, most_body_bytes
from postroom.web.loop import RequestLoop
from postroom.web.rsgi import RSGIServer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class _Headers(dict[str, str]):
    """granian's headers: `items` leaves out a value that is not ASCII."""

    def items(self) -> Any:
        return [(name, value) for name, value in super().items() if value.isascii()]


class _Scope:
    """granian's description of a request that was one of WSGI."""

    http_version = "1.1"

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.method = environ["REQUEST_METHOD"]
        self.path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        self.query_string = environ["QUERY_STRING"]
        self.scheme = environ["wsgi.url_scheme"]
        self.client = f"{environ.get('REMOTE_ADDR', '127.0.0.1')}:4711"
        self.server = f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
        self.headers = _Headers(
            {key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key[:5] == "HTTP_"}
        )
        for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if environ.get(key) and not (key == "CONTENT_LENGTH" and "transfer-encoding" in self.headers):
                self.headers[key.replace("_", "-").lower()] = environ[key]


class _Protocol:
    """granian's side of one exchange."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)] + [b""]
        self.answer: tuple[int, list[tuple[str, str]], bytes] = 0, [], b""

    async def __call__(self) -> bytes:
        return self._body

    def __aiter__(self) -> _Protocol:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop(0)

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answer = status, headers, body


class InPieces:
    """granian's side of an exchange whose body is only read in pieces."""

    async def __call__(self) -> bytes:
        raise AssertionError("the body is not to be read as a whole")

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        raise AssertionError("nothing answers here")


@contextmanager
def through_rsgi(app: Flask) -> Iterator[None]:
    """Let the application's test clients come in by a server of its own, on a loop of its own."""
    services, inner = app.extensions["postroom"], app.wsgi_app
    assert "outer" not in repr(inner), (
        "a test takes one client, `client` or `served`: two servers would read one body"
    )
    shared = RequestLoop(services.store)
    server = RSGIServer(app, DOORWAYS, shared, most_bytes=most_body_bytes(services.settings))
    server._app = inner  # type: ignore[assignment]  # what it calls for all but doorways
    loop, mutex = asyncio.new_event_loop(), threading.Lock()

    def outer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        stream, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH")
        protocol = _Protocol(stream.read(int(length)) if length and length.isdecimal() else stream.read())
        with mutex:
            loop.run_until_complete(server.__rsgi__(_Scope(environ), protocol))
        status, headers, body = protocol.answer
        sized = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(f"{status} x", [*sized, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    loop.call_soon(server.__rsgi_init__, loop)
    app.wsgi_app = outer  # type: ignore[method-assign]
    try:
        yield
    finally:
        app.wsgi_app = inner  # type: ignore[method-assign]
        server._connections.close()
        services.limits.close()
        shared.close()
        for pool in shared._pools:
            pool.shutdown()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
