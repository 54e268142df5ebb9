"""The HTTP server as clients meet it: bodies of every length and framing, patience, connections kept open."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from tests.servers.installation import KEY, Installation

ROWS = ["key,email,app_password,host,port,security", f"{KEY},me@postroom.example,,127.0.0.1,9,none"]
MAIL = {"subject": "A subject", "recipient": "you@postroom.example", "body": "A body", "key": KEY}
MOST = 4_000_000
JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all tests here; its account's server is not there, so that mail stays queued."""
    folder: Path = tmp_path_factory.mktemp("wire")
    with Installation(folder, ROWS, POSTROOM_MAX_MESSAGE_BYTES=str(MOST)) as installation:
        yield installation


@pytest.fixture
def connection(service: Installation) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    yield client
    client.close()


def chunks(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def messages(service: Installation) -> int:
    count: int = service.query("SELECT count(*) FROM message")[0][0]
    return count


def answer(connection: http.client.HTTPConnection) -> tuple[int, Any]:
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@pytest.mark.parametrize("chunk", [None, 1000, 65_536, 1_000_003], ids=str)
def test_a_large_body_arrives_whole(
    service: Installation, connection: http.client.HTTPConnection, chunk: int | None
) -> None:
    chance = random.Random(chunk)
    text = "\n".join("".join(chance.choices("abcdefghij <>&é", k=60)).strip() for _ in range(30_000))
    body = json.dumps({**MAIL, "body": text}).encode()
    if chunk is None:
        connection.request("POST", "/send-email", body, JSON_TYPE)
    else:
        connection.request("POST", "/send-email", chunks(body, chunk), JSON_TYPE, encode_chunked=True)
    status, document = answer(connection)
    assert status == 202, document
    ((mime,),) = service.query(
        "SELECT mime FROM content JOIN message ON message.id = message_id "
        f"WHERE request_id = '{document['request_id']}'"
    )
    got = message_from_bytes(mime, policy=default).get_content()
    assert got.replace("\r\n", "\n").rstrip("\n") == text.rstrip("\n")


def test_a_chunked_body_over_the_limit_is_a_413(
    service: Installation, connection: http.client.HTTPConnection
) -> None:
    """Whatever its beginning would be: here a mail, followed by spaces."""
    before = messages(service)
    body = json.dumps(MAIL).encode() + b" " * (2 * MOST + 65_536)
    with contextlib.suppress(ConnectionError):  # the server may close before it has been sent everything
        connection.request("POST", "/send-email", chunks(body, 65_536), JSON_TYPE, encode_chunked=True)
        status, document = answer(connection)
        assert (status, document["type"]) == (413, "urn:problem:postroom:too-large")
    assert messages(service) == before


def test_a_length_over_the_limit_is_a_413_before_the_body(service: Installation) -> None:
    """A client that asks first (RFC 9110 §10.1.1) is refused without sending anything."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(head(100_000_000, "Expect: 100-continue\r\n"))
        assert client.recv(65_536).startswith(b"HTTP/1.1 413")


def head(length: int, more: str = "") -> bytes:
    return (
        f"POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def test_a_client_that_asks_first_is_told_to_go_on(service: Installation) -> None:
    body = json.dumps(MAIL).encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(head(len(body), "Expect: 100-continue\r\n"))
        assert client.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(65_536).startswith(b"HTTP/1.1 202")


@pytest.mark.parametrize("sent", [0, 20, -1])
def test_a_client_that_goes_away_leaves_nothing(service: Installation, sent: int) -> None:
    before = messages(service)
    body = json.dumps(MAIL).encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(head(len(body)) + body[:sent])
        client.shutdown(socket.SHUT_WR)
        assert b" 202 " not in client.recv(65_536)
    assert service.post().status == 202
    assert messages(service) == before + 1


def test_a_body_that_comes_byte_by_byte(service: Installation) -> None:
    body = json.dumps(MAIL).encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in head(len(body)) + body:
            client.sendall(bytes([octet]))
        assert client.recv(65_536).startswith(b"HTTP/1.1 202")


def test_a_connection_outlives_refusals(connection: http.client.HTTPConnection) -> None:
    for number in range(20):
        bad = {**MAIL, "recipient": "x" * number}
        connection.request("POST", "/send-email", json.dumps(bad), JSON_TYPE)
        assert answer(connection)[0] == 422
        connection.request("POST", "/send-email", json.dumps(MAIL), JSON_TYPE)
        assert answer(connection)[0] == 202


def test_a_connection_outlives_the_limit_on_guesses(connection: http.client.HTTPConnection) -> None:
    """The last of this module: its address is locked out for a minute."""
    statuses = []
    for number in range(100):
        body = json.dumps({**MAIL, "key": f"wrong {number}", "body": "x" * 100 * number})
        connection.request("POST", "/send-email", body, JSON_TYPE)
        statuses.append(answer(connection)[0])
    assert set(statuses) == {401, 429}
