"""What a service of a notice's URL may answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from postroom.core.notices import words
from postroom.core.notices.ways import parse_ways
from postroom.notices.by_url import send_by_url


@contextmanager
def answering(status: int, location: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server that answers so, and the requests that it has got."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.requestline)
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(status)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            got.append(self.requestline)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the library's
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", got
        finally:
            server.shutdown()


def test_a_redirect_is_no_place_for_a_notice() -> None:
    notice = words.test("id", 0)
    with answering(200) as (elsewhere, got_there):
        for status in (302, 307):
            with answering(status, f"http://{elsewhere}/hook") as (named, got):
                [way] = parse_ways(f"json://{named}/hook")
                assert not send_by_url(way, notice).taken
                assert len(got) == 1
        assert got_there == []
        [way] = parse_ways(f"json://{elsewhere}/hook")
        assert send_by_url(way, notice).taken
