"""Between granian and Flask: a request off the event loop becomes a WSGI call, and its answer goes back."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from flask import Flask

from postroom.core.errors import PostroomError
from postroom.core.heartbeat import Pulse
from postroom.web.api_request import ApiRequest
from postroom.web.auth import header_key
from postroom.web.connections import Connections
from postroom.web.head import environ_of, excess_of, fault_of, length_of, take_forwarded_address
from postroom.web.hub import ANSWER_WITHIN_S, Hub
from postroom.web.problems import Problem, overloaded, too_long, too_slow, unreadable
from postroom.web.refusals import Refusals
from postroom.web.schemas import OCTETS
from postroom.web.turns import Turns
from postroom.web.upload import (
    ROOM_FOR_SMALL,
    CutOff,
    Overloaded,
    Place,
    Room,
    TooMuch,
    TooSlow,
    Upload,
    read_in_pieces,
)

log = logging.getLogger(__name__)

_LARGE = 65_536  # octets of a body whose parsing and rendering would hold up the loop
_LARGE_AT_ONCE = 4  # bounds the memory that parsing and rendering take
_HUGE = 1024 * 1024  # octets of a body that is parsed and rendered alone: some four times as much memory
_BODY_WITHIN_S = 120.0
_SLOT_WITHIN_S = 25.0
NO_STORE = ("Cache-Control", "no-store")


class _Refused(Exception):
    """The request is answered here."""

    def __init__(self, response: Problem) -> None:
        super().__init__()
        self.response = response


class RSGIServer:
    """The RSGI application (granian's own interface) around a Flask application."""

    def __init__(
        self,
        app: Flask,
        hub: Hub,
        *,
        most_bytes: int,
        body_within_s: float = _BODY_WITHIN_S,
        slot_within_s: float = _SLOT_WITHIN_S,
        large_at_once: int = _LARGE_AT_ONCE,
        room: Room | None = None,
        connections: Connections | None = None,
        on_start: Callable[[asyncio.AbstractEventLoop], None] = lambda loop: None,
    ) -> None:
        self._app = app
        self._on_start = on_start
        self._hub = hub
        self._most_bytes = most_bytes
        self._body_within_s = body_within_s
        self._slot_within_s = slot_within_s
        self._large, self._huge = Turns(large_at_once), Turns(min(1, large_at_once))
        self._keys = app.extensions["postroom"].keys
        self._room = room or Room(for_small=ROOM_FOR_SMALL)
        self._refusals: Refusals = app.extensions["postroom.refusals"]
        self._connections = connections or Connections(0)
        self._proxies = app.extensions["postroom"].settings.trusted_proxies

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._hub.start(loop)
        self._connections.start(loop)
        Pulse(self._hub.stalled_s).start(loop)
        self._on_start(loop)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._connections.close()
        self._hub.close()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        client = scope.client
        self._connections.has_begun(client)
        try:
            await self._handle(scope, protocol)
        finally:
            self._connections.has_ended(client)

    async def _handle(self, scope: Any, protocol: Any) -> None:
        environ = environ_of(scope)
        if self._proxies:
            take_forwarded_address(environ, self._proxies)
        upload = Upload(protocol, length_of(environ), is_awaited="HTTP_EXPECT" in environ)
        try:
            await self._serve(protocol, environ, upload)
        except _Refused as refused:
            answer = refused.response
            self._refusals.note(ApiRequest.detached(environ), answer)
            _send(protocol, upload, answer.status_code, [*answer.headers, NO_STORE], answer.get_data())
        if not upload.is_over:
            await upload.linger()

    async def _serve(self, protocol: Any, environ: dict[str, Any], upload: Upload) -> None:
        """Read the body and answer. Raises _Refused."""
        if (excess := excess_of(environ)) is not None:
            raise _Refused(too_long(*excess))
        if (fault := fault_of(environ)) is not None:
            raise _Refused(unreadable(fault))
        try:
            if upload.length is not None and upload.length <= _LARGE:
                body = await self._in_time(upload.read_at_once()) if upload.length else b""
                await self._answer(protocol, environ, upload, body)
            else:
                await self._serve_large(protocol, environ, upload)
        except CutOff as error:
            raise _Refused(unreadable(str(error))) from error
        except TooSlow:
            raise _Refused(too_slow(self._body_within_s)) from None
        except Overloaded:
            raise _Refused(overloaded()) from None

    async def _serve_large(self, protocol: Any, environ: dict[str, Any], upload: Upload) -> None:
        client = self._client(environ)
        with self._room.place(client) as place:
            try:
                body = await self._in_time(read_in_pieces(upload, place, self._most_bytes), place)
            except TooMuch:
                body = b""
            place.has_read()
            environ.pop("HTTP_TRANSFER_ENCODING", None)
            environ["CONTENT_LENGTH"] = str(max(upload.length or 0, upload.received))
            if len(body) <= _LARGE:
                await self._answer(protocol, environ, upload, body)
                return
            answer_by = asyncio.get_running_loop().time() + ANSWER_WITHIN_S
            turns = self._huge if len(body) > _HUGE else self._large
            try:
                await turns.take(client, self._slot_within_s)
            except TimeoutError:
                raise Overloaded from None
            try:
                await self._answer(protocol, environ, upload, body, answer_by)
            finally:
                turns.give_back()

    def _client(self, environ: dict[str, Any]) -> str:
        """Return who is to have turns of its own: a key that has been used, or all others at an address."""
        with suppress(PostroomError):
            key = header_key(ApiRequest.detached(environ))
            if key is not None and self._keys.is_used(key):
                return f"key {key}"
        return str(environ["REMOTE_ADDR"])

    async def _in_time(self, reading: Any, place: Place | None = None) -> bytes:
        try:
            async with asyncio.timeout(self._body_within_s) as deadline:
                if place is not None:
                    place.deadline = deadline
                body: bytes = await reading
                return body
        except TimeoutError:
            raise TooSlow from None

    async def _answer(
        self,
        protocol: Any,
        environ: dict[str, Any],
        upload: Upload,
        body: bytes,
        in_thread_by: float | None = None,
    ) -> None:
        environ["wsgi.input"], environ[OCTETS] = io.BytesIO(body), body
        head: list[tuple[int, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
            head.append((int(status[:3]), headers))

        parts: Iterable[bytes]
        if in_thread_by is None:
            parts = await self._hub.run(self._app, environ, start_response)
        else:
            parts = await self._hub.run_in_thread(in_thread_by, self._app, environ, start_response)
        try:
            status, headers = head[-1]
            _send(protocol, upload, status, headers, b"".join(parts))
        finally:
            if (close := getattr(parts, "close", None)) is not None:
                close()


def _send(protocol: Any, upload: Upload, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    """Answer; before the end of the body, the connection ends with it."""
    if not upload.is_over:
        headers = [*headers, ("Connection", "close")]
    protocol.response_bytes(status, headers, body)
