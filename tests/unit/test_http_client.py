"""The outgoing HTTP client: what it asks, and what it bears of a server that is slow, endless or no server at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from postroom import http_client
from postroom.http_client import HTTPFault
from tests.servers.token_server import TokenServer


@pytest.fixture
def server() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server


def answering(*pieces: bytes) -> tuple[str, threading.Thread]:
    """Start a server of one connection that says this, and then nothing for as long as the client stays."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError), listening, listening.accept()[0] as connected:
            connected.recv(65536)
            for piece in pieces:
                connected.sendall(piece)
            connected.settimeout(30)
            connected.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/", thread


@pytest.mark.parametrize(
    "url",
    [
        "http://tokens.example/token",
        "ftp://127.0.0.1/",
        "https:///token",
        "token",
        "https://user@tokens.example/",
        "https://tokens.example/ü",
    ],
)
def test_what_is_not_https_is_not_asked(url: str) -> None:
    with pytest.raises(HTTPFault, match="must"):
        http_client.post_form(url, "a=b")


def test_a_redirect_is_not_followed(server: TokenServer) -> None:
    answer = http_client.request("GET", f"{server.url}/away")
    assert answer.status == 302
    assert answer.headers["location"].endswith("/userinfo")


def test_an_answer_has_status_fields_and_body(server: TokenServer) -> None:
    answer = http_client.post_form(f"{server.url}/introspect", "token=unknown")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert b'"active": false' in answer.body


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ((), "too long"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",), "too long"),
        ((b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "too long"),
        ((b"220 smtp.example ready\r\n",), "does not speak HTTP"),
        ((b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000,), "more than 4096 octets"),
    ],
    ids=["silent", "half a body", "half a head", "SMTP", "endless"],
)
def test_a_server_that_is_none_is_left_in_time(pieces: tuple[bytes, ...], words: str) -> None:
    url, thread = answering(*pieces)
    with pytest.raises(HTTPFault, match=words):
        http_client.request("GET", url, seconds=0.3, longest=4096)
    thread.join(10)
    assert not thread.is_alive(), "the connection is closed"


def test_a_certificate_that_is_not_good_is_said_so() -> None:
    url, _ = answering(b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(HTTPFault, match="gave no answer"):
        http_client.request("GET", url.replace("http:", "https:"), seconds=2.0)
