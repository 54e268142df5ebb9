"""The server that granian calls (RSGI): reads requests, runs doorways as coroutines, and Flask in threads."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.exceptions import RequestEntityTooLarge

from postroom.core import failpoint
from postroom.core.errors import PostroomError
from postroom.core.heartbeat import Pulse
from postroom.web.access_log import ROUTE, AccessLog
from postroom.web.admin.views import CONTINUE, MOST_BYTES, ONLY_KEY
from postroom.web.admin.views import PREFIX as ADMIN
from postroom.web.answers import Answer
from postroom.web.api_request import ApiRequest
from postroom.web.auth import header_key
from postroom.web.connections import Connections
from postroom.web.deadlines import Deadlines
from postroom.web.doorway import Doorway, run
from postroom.web.head import Head, environ_of, excess_of, fault_of, head_of, length_of
from postroom.web.loop import ANSWER_WITHIN_S, FromThread, OnLoop, RequestLoop
from postroom.web.metrics import OTHER, note_request
from postroom.web.problems import overloaded, too_long, too_slow, unreadable
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
from postroom.web.waits import at_once

if TYPE_CHECKING:
    from postroom.web.answers import Problem
    from postroom.web.rsgi_types import Exchange, Scope
    from postroom.web.services import Services

log = logging.getLogger(__name__)

_LARGE = 65_536  # octets of a body whose parsing and rendering would hold up the loop
_LARGE_AT_ONCE = 4  # bounds the memory that parsing and rendering take
_HUGE = 1024 * 1024  # octets of a body that is parsed and rendered alone: some four times as much memory
_BODY_WITHIN_S = 120.0
_TURN_WITHIN_S = 25.0
_PROBES = ("/livez", "/readyz")
NO_STORE = ("Cache-Control", "no-store")


class _Refused(Exception):
    """The request is answered here."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class RSGIServer:
    """The RSGI application (granian's own interface): doorways, and a Flask application for all other requests."""

    def __init__(
        self,
        app: Flask,
        doorways: Iterable[Doorway],
        shared_loop: RequestLoop,
        *,
        most_bytes: int,
        body_within_s: float = _BODY_WITHIN_S,
        turn_within_s: float = _TURN_WITHIN_S,
        large_at_once: int = _LARGE_AT_ONCE,
        room: Room | None = None,
        connections: Connections | None = None,
        access_log: AccessLog | None = None,
        on_start: Callable[[asyncio.AbstractEventLoop], None] = lambda loop: None,
    ) -> None:
        self._app = app
        self._doorways = {doorway.path: doorway for doorway in doorways}
        self._on_start = on_start
        self._loop = shared_loop
        self._most_bytes = most_bytes
        self._body_within_s = body_within_s
        self._bodies = Deadlines(body_within_s)  # those that are short
        self._turn_within_s = turn_within_s
        self._large, self._huge = Turns(large_at_once), Turns(min(1, large_at_once))
        self._room = room or Room(for_small=ROOM_FOR_SMALL)
        self._services: Services = app.extensions["postroom"]
        self._connections = connections or Connections(0)
        self._access_log = access_log
        self._proxies = self._services.settings.trusted_proxies
        self._measures = self._services.store.measures
        self._measures.gauge("http_requests_in_progress", self._connections.in_progress)
        self._measures.gauge("http_connections", self._connections.count)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop.start(loop)
        self._connections.start(loop)
        Pulse(self._loop.stalled_s).start(loop)
        self._on_start(loop)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._connections.close()
        if self._access_log is not None:
            self._access_log.flush()
        self._bodies.close()
        self._services.limits.close()
        self._services.metrics.close()
        self._loop.close()

    async def __rsgi__(self, scope: Scope, protocol: Exchange) -> None:
        client = scope.client
        self._connections.has_begun(client)
        try:
            await self._handle(head_of(scope), protocol)
        finally:
            self._connections.has_ended(client)

    async def _handle(self, head: Head, protocol: Exchange) -> None:
        began = time.perf_counter()
        if self._proxies:
            head.take_forwarded_address(self._proxies)
        upload = Upload(protocol, length_of(head), is_awaited="expect" in head.headers)
        try:
            answer = await self._answer(head, upload)
        except _Refused as refused:
            answer = refused.problem
            note_request(self._measures, OTHER, head.method, answer.status, began)
            self._services.refusals.note(ApiRequest(head, bytes), answer)
        if not any(name == "Cache-Control" for name, _ in answer.headers):
            answer.headers.append(NO_STORE)
        _send(protocol, upload, answer)
        if self._access_log is not None:
            self._access_log.note(head, answer.status, began)
        if not upload.is_over:
            await upload.linger()

    async def _answer(self, head: Head, upload: Upload) -> Answer:
        """Read the body and answer. Raises _Refused."""
        if (excess := excess_of(head)) is not None:
            raise _Refused(too_long(*excess))
        if (fault := fault_of(head)) is not None:
            raise _Refused(unreadable(fault))
        try:
            if head.path.startswith(ADMIN) and upload.length != 0:
                checked = await self._loop.in_flask(partial(self._check_key, head), is_probe=False)
                if checked.status != CONTINUE:
                    return checked
            if upload.length is not None and upload.length <= _LARGE:
                body = await self._short(upload) if upload.length else b""
                return await self._serve(head, body)
            return await self._serve_large(head, upload)
        except CutOff as error:
            raise _Refused(unreadable(str(error))) from error
        except TooSlow:
            raise _Refused(too_slow(self._body_within_s)) from None
        except Overloaded:
            raise _Refused(overloaded()) from None

    async def _serve(self, head: Head, body: bytes | None) -> Answer:
        """Answer a request whose body is short; None: too large to be read."""
        doorway = self._doorways.get(head.path) if head.method == "POST" else None
        if doorway is None:
            call = partial(self._in_flask, head, body)
            return await self._loop.in_flask(call, is_probe=head.path in _PROBES)
        head.route = doorway.path
        waits = OnLoop(self._loop, self._loop.loop.time() + ANSWER_WITHIN_S)
        began = time.perf_counter()
        answer = await run(doorway, _request(head, body), self._services, waits)
        note_request(self._measures, doorway.path, head.method, answer.status, began)
        return answer

    async def _serve_large(self, head: Head, upload: Upload) -> Answer:
        client = self._client(head)
        with self._room.place(client) as place:
            body: bytes | None
            most = MOST_BYTES if head.path.startswith(ADMIN) else self._most_bytes
            try:
                body = await self._in_time(read_in_pieces(upload, place, most), place)
            except TooMuch:
                body = None
            place.has_read()
            head.headers.pop("transfer-encoding", None)
            head.headers["content-length"] = str(max(upload.length or 0, upload.received))
            if body is None or len(body) <= _LARGE:
                return await self._serve(head, body)
            answer_by = self._loop.loop.time() + ANSWER_WITHIN_S
            turns = self._huge if len(body) > _HUGE else self._large
            try:
                await turns.take(client, self._turn_within_s)
            except TimeoutError:
                raise Overloaded from None
            try:
                return await self._loop.in_thread(partial(self._serve_in_thread, head, body, answer_by))
            finally:
                turns.give_back()

    def _serve_in_thread(self, head: Head, body: bytes, answer_by: float) -> Answer:
        doorway = self._doorways.get(head.path) if head.method == "POST" else None
        if doorway is None:
            return self._in_flask(head, body)
        head.route = doorway.path
        waits, began = FromThread(self._loop, answer_by), time.perf_counter()
        answer = at_once(run(doorway, _request(head, body), self._services, waits))
        note_request(self._measures, doorway.path, head.method, answer.status, began)
        return answer

    def _check_key(self, head: Head) -> Answer:
        """Have Flask look at the key of a request to /v1, before its body is read: a refusal, or CONTINUE."""
        return self._in_flask(head, None, {ONLY_KEY: True})

    def _in_flask(self, head: Head, body: bytes | None, more: Mapping[str, object] | None = None) -> Answer:
        """Call Flask, in a thread."""
        environ = {**environ_of(head), **(more or {})}
        environ["wsgi.input"] = io.BytesIO(body or b"")
        begun: list[tuple[int, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
            begun.append((int(status[:3]), headers))

        app: Any = self._app
        parts = app(environ, start_response)
        try:
            content = b"".join(parts)
        finally:
            if (close := getattr(parts, "close", None)) is not None:
                close()
        head.route = environ.get(ROUTE)
        status, headers = begun[-1]
        return Answer(status, headers, content)

    def _client(self, head: Head) -> str:
        """Return who is to have turns of its own: a key that has been used, or all others at an address."""
        with suppress(PostroomError):
            key = header_key(ApiRequest(head, bytes))
            if key is not None and self._services.keys.is_used(key):
                return f"key {key}"
        return head.remote

    async def _short(self, upload: Upload) -> bytes:
        try:
            return await self._bodies.wait(upload.read_at_once())
        except TimeoutError:
            raise TooSlow from None

    async def _in_time(self, reading: Awaitable[bytes], place: Place) -> bytes:
        try:
            async with asyncio.timeout(self._body_within_s) as deadline:
                place.deadline = deadline
                body: bytes = await reading
                return body
        except TimeoutError:
            raise TooSlow from None


def _request(head: Head, body: bytes | None) -> ApiRequest:
    def read() -> bytes:
        if body is None:
            raise RequestEntityTooLarge
        return body

    return ApiRequest(head, read)


def _send(protocol: Exchange, upload: Upload, answer: Answer) -> None:
    """Answer; before the end of the body, the connection ends with it."""
    headers = answer.headers
    if not upload.is_over:
        headers = [*headers, ("Connection", "close")]
    protocol.response_bytes(answer.status, headers, answer.body)
    if answer.status == 202:
        failpoint.hit("accept.answered")
