"""Between granian and Flask: a request off the event loop becomes a WSGI call, and its answer goes back."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Awaitable, Iterable
from typing import Any

from flask import Flask

from postroom.web.errors import too_slow
from postroom.web.hub import Hub

_LARGE = 65_536  # octets of a body whose parsing and rendering would hold up the loop
_LARGE_AT_ONCE = 16  # bounds the memory that bodies take
_BODY_WITHIN_S = 120.0
_SAME_FOR_ALL = {
    "SCRIPT_NAME": "",
    "wsgi.errors": sys.stderr,
    "wsgi.input_terminated": True,
    "wsgi.multiprocess": True,
    "wsgi.multithread": True,
    "wsgi.run_once": False,
    "wsgi.version": (1, 0),
}


class _TooSlow(Exception):
    """The body did not arrive in time."""


class Gateway:
    """The RSGI application (granian's own interface) around a Flask application."""

    def __init__(
        self, app: Flask, hub: Hub, *, most_bytes: int, body_within_s: float = _BODY_WITHIN_S
    ) -> None:
        self._app = app
        self._hub = hub
        self._most_bytes = most_bytes
        self._body_within_s = body_within_s
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._hub.start(loop)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._hub.close()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        environ = _environ(scope)
        length = _length(environ)
        try:
            if length is not None and length <= _LARGE:
                body = await self._in_time(protocol()) if length else b""
                await self._answer(protocol, environ, body)
                return
            async with self._large:
                body = await self._in_time(self._read(protocol, length))
                await self._answer(protocol, environ, body, large=len(body) > _LARGE)
        except _TooSlow:
            refusal = too_slow(self._body_within_s)
            protocol.response_bytes(refusal.status_code, list(refusal.headers), refusal.get_data())

    async def _in_time(self, reading: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._body_within_s):
                return await reading
        except TimeoutError:
            raise _TooSlow from None

    async def _read(self, protocol: Any, length: int | None) -> bytes:
        """Return the body, or as much of it as shows that it is too large: nothing when its length says so already."""
        if length is not None and length > self._most_bytes:
            return b""
        parts, size = [], 0
        async for part in protocol:
            parts.append(bytes(part))
            size += len(part)
            if size > self._most_bytes:
                break
        return b"".join(parts)

    async def _answer(
        self, protocol: Any, environ: dict[str, Any], body: bytes, *, large: bool = False
    ) -> None:
        environ["wsgi.input"] = io.BytesIO(body)
        run = self._hub.run_in_thread if large else self._hub.run
        head: list[tuple[int, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
            head.append((int(status[:3]), headers))

        parts: Iterable[bytes] = await run(self._app, environ, start_response)
        try:
            status, headers = head[-1]
            protocol.response_bytes(status, headers, b"".join(parts))
        finally:
            if (close := getattr(parts, "close", None)) is not None:
                close()


def _environ(scope: Any) -> dict[str, Any]:
    """Return the WSGI environment (PEP 3333) of a request, without its body."""
    client, _, client_port = scope.client.rpartition(":")
    server, _, server_port = scope.server.rpartition(":")
    environ = {
        **_SAME_FOR_ALL,
        "REQUEST_METHOD": scope.method,
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "SERVER_NAME": server,
        "SERVER_PORT": server_port,
        "REMOTE_ADDR": client.strip("[]"),
        "REMOTE_PORT": client_port,
        "wsgi.url_scheme": scope.scheme,
    }
    for name, value in scope.headers.items():
        if "_" in name:
            continue  # it would pass for the header with hyphens
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    if scope.authority:
        environ.setdefault("HTTP_HOST", scope.authority)
    return environ


def _length(environ: dict[str, Any]) -> int | None:
    """Return the length of the body, or None when only its end will tell."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    return int(environ.get("CONTENT_LENGTH") or 0)
