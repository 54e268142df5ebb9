"""A receiver of notices: an HTTP server that keeps each JSON document, and may refuse, or not answer at all."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.servers.waiting import eventually


class Receiver:
    """Listens on a free port of loopback; `status` is what it answers, None: nothing, until it is closed."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self._documents: list[dict[str, Any]] = []
        self._closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The URL of this receiver for POSTROOM_NOTIFY."""
        return f"json://127.0.0.1:{self._server.server_address[1]}/hook"

    def documents(self, kind: str | None = None, event: str | None = None) -> list[dict[str, Any]]:
        """Return what has come, refused or not, of one kind and one event."""
        return [
            each
            for each in list(self._documents)
            if kind in (None, each.get("kind")) and event in (None, each.get("event"))
        ]

    def wait_for(self, kind: str, event: str, timeout: float = 20) -> dict[str, Any]:
        """Return the first notice of a kind and an event."""
        return eventually(lambda: self.documents(kind, event), timeout, f"the {event} of {kind}")[0]

    def take(self, document: dict[str, Any]) -> int:
        """Keep a document; return the status to answer."""
        self._documents.append(document)
        status = self.status
        if status is None:
            self._closed.wait()
        return status or 500

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(receiver.take(document))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    return Handler
