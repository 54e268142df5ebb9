"""Intakes of logs that answer as Elasticsearch's bulk API and Datadog's API v2 are published to, and as they are told."""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter, deque
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self

KEY = "an-intake-key"
POISON = "poison"  # a line that holds it is refused for good


class Held:
    """A request that is answered when `release` is called, or not at all."""

    def __init__(self) -> None:
        self.has_come = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def wait(self) -> None:
        self.has_come.set()
        self._released.wait(600)


class Intake:
    """A server on loopback. `then` says what the next requests get: a status, or a `Held`; after that it behaves."""

    path: ClassVar[str]
    key: ClassVar[str]

    def __init__(self, *, most_lines: int = 1000, most_octets: int = 5_000_000) -> None:
        self.most_lines, self.most_octets = most_lines, most_octets
        self.then: deque[int | Held] = deque()
        self.lost = 0  # so many answers are a proxy's, though the intake has taken the lines
        self.answers: Counter[int] = Counter()
        self.bodies: list[int] = []  # octets of each body, as it was before compression
        self.lock = threading.Lock()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    # -- life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; on the same port as before."""
        intake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                intake.answer(self)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be down: connections are refused."""
        for each in self.then:
            if isinstance(each, Held):
                each.release()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self.path}"

    # -- requests

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        assert request.headers["Content-Encoding"] == "gzip"
        text = gzip.decompress(body)
        with self.lock:
            self.bodies.append(len(text))
            told = self.then.popleft() if self.then else None
        if isinstance(told, Held):
            told.wait()
        status, document = self._answer(request, text, told if isinstance(told, int) else None)
        with self.lock:
            if self.lost:
                self.lost, status = self.lost - 1, 502
            self.answers[status] += 1
        content = json.dumps(document).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _answer(self, request: BaseHTTPRequestHandler, text: bytes, told: int | None) -> tuple[int, Any]:
        if not self.is_allowed(request):
            return 403, {"errors": [{"title": "Forbidden"}]}
        if told is not None:
            return told, {"errors": [{"title": "as it was told"}]}
        if len(text) > self.most_octets:
            return 413, {"errors": [{"title": "Payload Too Large"}]}
        with self.lock:
            return self.take(request, text)

    def is_allowed(self, request: BaseHTTPRequestHandler) -> bool:
        raise NotImplementedError

    def take(self, request: BaseHTTPRequestHandler, text: bytes) -> tuple[int, Any]:
        raise NotImplementedError

    def messages(self) -> Sequence[str]:
        """Return the messages that have arrived, one for each line."""
        raise NotImplementedError

    def documents(self) -> list[dict[str, Any]]:
        raise NotImplementedError


class Elasticsearch(Intake):
    """A data stream: what was created stays under its id. `busy` so many lines get 429 each, once."""

    path = "/logs-postroom-default/_bulk"

    def __init__(self, *, busy: int = 0, **limits: int) -> None:
        super().__init__(**limits)
        self.busy = busy
        self.stored: dict[str, dict[str, Any]] = {}
        self.statuses: Counter[int] = Counter()  # of items

    def is_allowed(self, request: BaseHTTPRequestHandler) -> bool:
        return request.headers.get("Authorization") == f"ApiKey {KEY}"

    def take(self, request: BaseHTTPRequestHandler, text: bytes) -> tuple[int, Any]:
        assert request.path == f"{self.path}?filter_path=errors,items.*.status"
        assert request.headers["Content-Type"] == "application/x-ndjson"
        assert text.endswith(b"\n")
        lines = text.splitlines()
        if len(lines) // 2 > self.most_lines:
            return 413, {}
        items = [
            {"create": {"status": self._create(json.loads(action)["create"]["_id"], document)}}
            for action, document in zip(lines[::2], lines[1::2], strict=True)
        ]
        self.statuses.update(item["create"]["status"] for item in items)
        return 200, {"errors": any(item["create"]["status"] >= 300 for item in items), "items": items}

    def _create(self, id_: str, document: bytes) -> int:
        if POISON.encode() in document:
            return 400
        if self.busy:
            self.busy -= 1
            return 429
        if id_ in self.stored:
            return 409
        self.stored[id_] = json.loads(document)
        return 201

    def documents(self) -> list[dict[str, Any]]:
        with self.lock:
            return list(self.stored.values())

    def messages(self) -> Sequence[str]:
        return [document["message"] for document in self.documents()]


class Datadog(Intake):
    """Takes an array of at most 1,000 lines and 5 MB, or refuses all of it."""

    path = "/api/v2/logs"

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        self.taken: list[dict[str, Any]] = []

    def is_allowed(self, request: BaseHTTPRequestHandler) -> bool:
        return request.headers.get("DD-API-KEY") == KEY

    def take(self, request: BaseHTTPRequestHandler, text: bytes) -> tuple[int, Any]:
        assert request.path == self.path
        assert request.headers["Content-Type"] == "application/json"
        lines = json.loads(text)
        if len(lines) > self.most_lines:
            return 413, {"errors": [{"title": "Payload Too Large"}]}
        if POISON.encode() in text:
            return 400, {"errors": [{"title": "Bad Request"}]}
        self.taken += lines
        return 202, {}

    def documents(self) -> list[dict[str, Any]]:
        with self.lock:
            return list(self.taken)

    def messages(self) -> Sequence[str]:
        return [document["message"] for document in self.documents()]
