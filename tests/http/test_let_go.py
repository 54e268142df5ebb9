"""What was answered is let go at once: with the collector off nothing of a request lives on, whatever its answer."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask

from postroom.core.errors import StoreUnavailable
from postroom.runtime.installation import Service
from postroom.web import api_request, head, loop, problems, rsgi, upload
from postroom.web.app import DOORWAYS, create_app
from postroom.web.loop import RequestLoop
from postroom.web.rsgi import RSGIServer
from tests.http.conftest import ALICE, MOST_BYTES

JSON = {"Content-Type": "application/json"}
KEY = {"Authorization": f"Bearer {ALICE}"}
TIMES = 5
LARGE = "x" * 100_000  # answered in a thread
NO_ID = "/email-status/00000000-0000-7000-8000-000000000000"


def send(**fields: Any) -> bytes:
    return json.dumps({"subject": "A", "recipient": "carol@example.com", "body": "B", **fields}).encode()


@dataclass
class Ask:
    """A request and the status of its answer."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {**JSON, **KEY})
    method: str = "POST"
    path: str = "/send-email"
    is_chunked: bool = False
    stalls: bool = False


def get(status: int, path: str, **headers: str) -> Ask:
    return Ask(status, method="GET", path=path, headers=headers)


ASKS = [
    Ask(202, send()),
    Ask(202, send(key=ALICE), JSON),
    Ask(202, send(body=LARGE)),
    Ask(202, send(body=f"<p>{LARGE}", is_html=True)),
    Ask(202, send(), is_chunked=True),
    Ask(202, send(body=LARGE), is_chunked=True),
    Ask(202, send(), {**JSON, **KEY, "Idempotency-Key": "again"}),
    Ask(401, send(), JSON),
    Ask(401, send(body=LARGE), JSON),
    Ask(401, send(key="wrong-key-0123456789"), JSON),
    Ask(400, send(key="wrong-key-0123456789")),
    Ask(404, send(), path="/nowhere"),
    Ask(404, send(body=LARGE), path="/nowhere"),
    Ask(405, send(), method="PUT"),
    Ask(405, send(body=LARGE), method="PUT"),
    get(404, NO_ID),
    get(404, "/email-status/x"),
    get(401, NO_ID, **{"X-API-Key": "wrong-key-0123456789"}),
    get(200, "/livez"),
    get(503, "/readyz"),
    get(404, "/email-status//x"),
    Ask(202, send(body="<b>x" * 1000, is_html=True)),  # made in a thread
    Ask(400, b"{"),
    Ask(400, send(body=LARGE)[:-1]),
    Ask(400, b"[" * 5000),
    Ask(400, b'{"subject": 1, "subject": 2}'),
    Ask(400, b'{"subject": NaN}'),
    Ask(400, b'{"subject": "\xff"}'),
    Ask(400, b"[]"),
    Ask(415, send(), {"Content-Type": "text/plain", **KEY}),
    Ask(415, send(), {**JSON, **KEY, "Content-Encoding": "gzip"}),
    Ask(400, send(colour="red")),
    Ask(422, b'{"subject": "\\ud800", "recipient": "a@b.example", "body": ""}'),
    Ask(422, send(recipient="nobody")),
    Ask(422, send(subject="A\nB")),
    Ask(413, send(body="x" * (MOST_BYTES + 1))),
    Ask(413, b"x" * (3 * MOST_BYTES)),
    Ask(413, b"x" * (3 * MOST_BYTES), is_chunked=True),
    Ask(400, send(), {**JSON, **KEY, "Idempotency-Key": "ü"}),
]


# What the server refuses by itself; other servers have limits of their own.
OF_THE_SERVER = [
    get(431, "/", Accept="x" * 9000),
    get(414, "/" + "x" * 9000),
    Ask(400, send(), method="post"),
]


class Surprise(Exception):
    """A fault of our own."""


class Watch:
    """Weak references to what belongs to requests: whatever lives on is found."""

    def __init__(self) -> None:
        self._references: list[tuple[str, weakref.ref[Any]]] = []

    def add(self, thing: Any) -> None:
        """Watch a thing, unless it is of a kind of Python's own to which nothing can refer weakly."""
        with suppress(TypeError):
            self._references.append((type(thing).__name__, weakref.ref(thing)))

    def begin(self) -> None:
        self._references.clear()

    @property
    def count(self) -> int:
        return len(self._references)

    def alive(self) -> list[str]:
        return [name for name, reference in self._references if reference() is not None]


class Environment(dict[str, Any]):
    """An environment that can be referred to weakly."""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Watch every head, environment, request and error, with the collector off."""
    found = Watch()
    make_head, make_environ = head.Head.__init__, head.environ_of
    make_request, forget = api_request.ApiRequest.__init__, problems.forget_frames

    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        make_head(self, *args, **kwargs)
        found.add(self)

    def environ_of(head: Any) -> Environment:
        environ = Environment(make_environ(head))
        found.add(environ)
        return environ

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        make_request(self, *args, **kwargs)
        found.add(self)

    def forget_frames(error: BaseException) -> None:
        found.add(error)
        forget(error)

    monkeypatch.setattr(head.Head, "__init__", begin)
    monkeypatch.setattr(rsgi, "environ_of", environ_of)
    monkeypatch.setattr(api_request.ApiRequest, "__init__", init)
    monkeypatch.setattr(problems, "forget_frames", forget_frames)
    was_on = gc.isenabled()
    gc.disable()
    yield found
    if was_on:
        gc.enable()


class Headers(dict[str, str]):
    """granian's headers: a value that is not ASCII is left out. `twice` names one that is given twice."""

    twice = ""

    def items(self) -> Any:
        found = [(name, value) for name, value in super().items() if value.isascii()]
        return [*found, *(pair for pair in found if pair[0] == self.twice)]


class Scope:
    """granian's description of a request."""

    client, server, scheme, http_version, query_string = "127.0.0.1:4711", "127.0.0.1:5000", "http", "1.1", ""

    def __init__(self, ask: Ask) -> None:
        framing = (
            {"transfer-encoding": "chunked"} if ask.is_chunked else {"content-length": str(len(ask.body))}
        )
        self.method, self.path = ask.method, ask.path
        self.headers = Headers({"host": "x", **{n.lower(): v for n, v in ask.headers.items()}, **framing})


class Protocol:
    """granian's side of one exchange."""

    def __init__(self, body: bytes, *, stalls: bool = False) -> None:
        self._pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)] + [b""]
        self._body = body
        self._stalls = stalls
        self.status = 0

    async def __call__(self) -> bytes:
        if self._stalls:
            await asyncio.Event().wait()
        return self._body

    def __aiter__(self) -> Protocol:
        return self

    async def __anext__(self) -> bytes:
        if self._stalls:
            await asyncio.Event().wait()
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop(0)

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status


def build(service: Service, watch: Watch) -> Flask:
    """Build an application whose bodies are watched too."""
    app = create_app(service.settings, service.store, service.vault)
    inner = app.wsgi_app

    def watching(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        watch.add(environ["wsgi.input"])
        return inner(environ, start_response)

    app.wsgi_app = watching  # type: ignore[method-assign]
    return app


async def serve(service: Service, watch: Watch, asks: Iterable[Ask], **bounds: Any) -> None:
    """Serve requests as granian does, each several times; nothing of any is alive after its answer."""
    shared = RequestLoop(service.store)
    app = build(service, watch)
    server = RSGIServer(app, DOORWAYS, shared, most_bytes=2 * MOST_BYTES + 65_536, **bounds)
    server.__rsgi_init__(asyncio.get_running_loop())
    try:
        for ask in asks:
            watch.begin()
            for _ in range(TIMES):
                protocol = Protocol(ask.body, stalls=ask.stalls)
                await server.__rsgi__(Scope(ask), protocol)
                assert protocol.status == ask.status, ask
                del protocol
            assert watch.count >= 2 * TIMES
            service.store._newest = (0.0, None)  # /readyz says which error was the newest
            assert await _still_alive(watch) == [], ask
    finally:
        server.__rsgi_del__(asyncio.get_running_loop())


async def _still_alive(watch: Watch) -> list[str]:
    """Say what is alive once the threads are done: one lets its last piece of work go a moment after its end."""
    deadline = time.monotonic() + 30
    while watch.alive() and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    return watch.alive()


def test_nothing_of_a_request_lives_on(service: Service, watch: Watch) -> None:
    asyncio.run(serve(service, watch, [*ASKS, *OF_THE_SERVER]))


def test_nor_under_another_wsgi_server(service: Service, watch: Watch) -> None:
    app = build(service, watch)
    for ask in ASKS:
        watch.begin()
        assert [_call(app, ask) for _ in range(TIMES)] == [ask.status] * TIMES, ask
        assert watch.count >= 2 * TIMES
        assert watch.alive() == [], ask


def _call(app: Flask, ask: Ask) -> int:
    """Call the application as WSGI servers do, and return the status."""
    statuses = []
    environ = Environment(head.environ_of(head.head_of(Scope(ask))))
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ["CONTENT_LENGTH"], environ["wsgi.input"] = str(len(ask.body)), io.BytesIO(ask.body)

    def start_response(status: str, *_: Any) -> Any:
        statuses.append(int(status[:3]))

    parts = app(environ, start_response)
    getattr(parts, "close", lambda: None)()
    return statuses[0]


@pytest.mark.parametrize(
    ("error", "status"), [(StoreUnavailable, 503), (Surprise, 500)], ids=["store away", "surprise"]
)
def test_nor_when_the_commit_fails(
    service: Service, watch: Watch, monkeypatch: pytest.MonkeyPatch, error: type[Exception], status: int
) -> None:
    def fail(transaction: Any, message: Any) -> None:
        raise error

    monkeypatch.setattr("postroom.store.acceptance.Acceptance.accept", fail)
    monkeypatch.setattr(loop, "_LOOK_S", 0.01)
    monkeypatch.setattr(problems.log, "disabled", True)  # pytest keeps what was logged, with its traceback
    asyncio.run(serve(service, watch, [Ask(status, send()), Ask(status, send(body=LARGE))]))


def test_nor_of_a_body_that_stalls(service: Service, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_LINGER_S", 0.01)
    asks = [Ask(408, b"x" * length, stalls=True) for length in (10, len(LARGE))]
    asyncio.run(serve(service, watch, asks, body_within_s=0.01))


def test_nor_of_one_without_a_slot(service: Service, watch: Watch) -> None:
    asyncio.run(serve(service, watch, [Ask(503, send(body=LARGE))], large_at_once=0, turn_within_s=0.01))


def test_nor_of_one_over_its_limit(service: Service, watch: Watch) -> None:
    limited = service.settings.model_copy(update={"rate_limit": "0/hour"})
    asyncio.run(serve(Service(limited, service.store, service.vault), watch, [Ask(429, send())]))
