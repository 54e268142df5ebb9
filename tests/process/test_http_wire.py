"""The HTTP server as clients meet it: bodies of every length and framing, patience, connections kept open."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import itertools
import json
import random
import re
import socket
import struct
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from tests.servers.installation import KEY, Installation
from tests.servers.waiting import eventually

ROWS = ["key,email,app_password,host,port,security", f"{KEY},me@postroom.example,,127.0.0.1,9,none"]
MAIL = {"subject": "A subject", "recipient": "you@postroom.example", "body": "A body", "key": KEY}
MOST = 4_000_000
JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all tests here; its account's server is not there, so that mail stays queued."""
    folder: Path = tmp_path_factory.mktemp("wire")
    with (
        Installation(folder, ROWS, POSTROOM_MAX_MESSAGE_BYTES=str(MOST)) as installation,
        socket.create_connection(("127.0.0.1", installation.port), timeout=60) as silent,
        socket.create_connection(("127.0.0.1", installation.port), timeout=60) as slow,
    ):
        slow.sendall(b"POST /send-email HTTP/1.1\r\nHost: x\r\n")
        SLOW[:] = [silent, slow]
        yield installation


# Each test comes from an address of its own: many refusals from one are a reason for 429.
ADDRESSES = (f"127.0.{number // 250 + 1}.{number % 250 + 1}" for number in itertools.count())


@pytest.fixture
def connection(service: Installation) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection(
        "127.0.0.1", service.port, timeout=30, source_address=(next(ADDRESSES), 0)
    )
    yield client
    client.close()


SLOW: list[socket.socket] = []  # opened with the service: their time passes while other tests run


def test_a_head_that_does_not_come_ends_the_connection(service: Installation) -> None:
    for client in SLOW:
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
    # And not by the HTTP server's own time, which is longer. The line is written when all have been looked at.
    eventually(lambda: "sent no whole head within 10 s" in service.log(), message="the line about them")
    assert service.post().status == 202


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
    mime = service.contents()[document["request_id"]]
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


# ---------------------------------------------------------------- what is cut off, or is no HTTP/1.1

BODY = json.dumps(MAIL).encode()
CHUNKED = "Transfer-Encoding: chunked\r\n"


def post(framing: str, *, host: str = "Host: x\r\n", more: str = "", path: str = "/send-email") -> bytes:
    return f"POST {path} HTTP/1.1\r\n{host}Content-Type: application/json\r\n{more}{framing}\r\n".encode()


def lengthy(length: int) -> str:
    return f"Content-Length: {length}\r\n"


def exchange(service: Installation, request: bytes, *, half_close: bool = False) -> bytes:
    """Send all of a request; return what is answered before the connection ends or is silent after an answer."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(request)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        return read_answer(client)


def read_answer(client: socket.socket) -> bytes:
    """Return one answer, by its Content-Length, or what came before the end of the connection."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65_536):
            got += part
            head, separator, body = got.partition(b"\r\n\r\n")
            length = re.search(rb"(?im)^content-length: *(\d+)", head)
            if separator and length and len(body) >= int(length[1]):
                break
    return got


def status_of(answer: bytes) -> int:
    return int(answer.split()[1])


CUT_OFF = {
    "length, large": post(lengthy(len(BODY) + 5_000_000)) + BODY,
    "length, just large": post(lengthy(65_537)) + BODY,
    "length, small": post(lengthy(len(BODY) + 1)) + BODY,
    "length, nothing": post(lengthy(len(BODY))),
    "length, large, nothing": post(lengthy(5_000_000)),
    "no last chunk": post(CHUNKED) + b"%x\r\n%s\r\n" % (len(BODY), BODY),
    "no last chunk, large": post(CHUNKED) + b"%x\r\n%s\r\n" % (len(BODY) + 99_999, BODY + b" " * 99_999),
    "no chunk": post(CHUNKED),
    "chunk too short": post(CHUNKED) + b"%x\r\n%s" % (len(BODY) + 1, BODY),
    "broken chunk size": post(CHUNKED) + b"%x\r\n%s\r\nZZ\r\n" % (len(BODY), BODY),
    "broken chunk end": post(CHUNKED) + b"%x\r\n%sXX0\r\n\r\n" % (len(BODY), BODY),
    "half of the last chunk": post(CHUNKED) + b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY),
}


@pytest.mark.parametrize("request_", CUT_OFF.values(), ids=CUT_OFF)
def test_what_was_cut_off_is_not_accepted(service: Installation, request_: bytes) -> None:
    before = messages(service)
    answer = exchange(service, request_, half_close=True)
    assert answer == b"" or status_of(answer) == 400
    assert service.post().status == 202
    assert messages(service) == before + 1


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_a_client_that_leaves_costs_one_line(service: Installation, reset: bool) -> None:
    before, log, ports = messages(service), service.log(), set()
    for request_ in CUT_OFF.values():
        client = socket.create_connection(("127.0.0.1", service.port), timeout=60)
        client.sendall(request_)
        ports.add(client.getsockname()[1])
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    def lines() -> list[str]:
        new = service.log().removeprefix(log).splitlines()
        return [line for line in new if " postroom.worker" not in line and " postroom.messages" not in line]

    eventually(lambda: not ports & _clients_of(service), 60, "the service to be done with them")
    assert service.post().status == 202
    assert messages(service) == before + 1
    assert len(lines()) <= len(CUT_OFF) + 2, "what is held back is counted"
    expected = re.compile(r" INFO postroom\.web\.refusals: refused (?:400 .*the body was cut off|\d+ more)")
    assert [line for line in lines() if not expected.search(line)] == []


def _clients_of(service: Installation) -> set[int]:
    """Return the ports of the clients whose connections the service holds open."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    own = f":{service.port:04X}"
    return {
        int(row[2].rpartition(":")[2], 16) for row in rows if row[1].endswith(own) and row[3] in ("01", "08")
    }


def test_a_chunked_body_is_whole_with_its_last_chunk(service: Installation) -> None:
    """The control of the above: every octet counts."""
    whole = post(CHUNKED) + b"%x;an=extension\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    assert status_of(exchange(service, whole)) == 202


def test_trailer_fields_are_refused_by_name(service: Installation) -> None:
    """The HTTP server shows them as it shows a broken chunk."""
    request = post(CHUNKED, more="Trailer: X-Sum\r\n") + b"%x\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n" % (
        len(BODY),
        BODY,
    )
    answer = exchange(service, request)
    assert status_of(answer) == 400
    assert b"trailer fields" in answer


REFUSED = {
    "no Host": post(lengthy(len(BODY)), host="") + BODY,
    "two Hosts": post(lengthy(len(BODY)), host="Host: x\r\nHost: x\r\n") + BODY,
    "a Host that is none": post(lengthy(len(BODY)), host="Host: x/y\r\n") + BODY,
    "a Host that is not ASCII": post(lengthy(len(BODY)), host="Host: bücher.test\r\n") + BODY,
    "gzip, chunked": post("Transfer-Encoding: gzip, chunked\r\n")
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    "gzip and chunked": post("Transfer-Encoding: gzip\r\n" + CHUNKED)
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    "chunked twice": post(CHUNKED * 2) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    "identity": post("Transfer-Encoding: identity\r\n" + lengthy(len(BODY))) + BODY,
    "two lengths": post(lengthy(len(BODY)) + lengthy(len(BODY) + 1)) + BODY,
    "a length that is none": post("Content-Length: ²\r\n") + BODY,
    "a key that is not ASCII": post(lengthy(len(BODY)), more="Idempotency-Key: order-ü-8\r\n") + BODY,
    "an API key that is not ASCII": post(lengthy(len(BODY)), more="X-API-Key: ü\r\n") + BODY,
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED)
def test_what_rfc_9112_refuses_is_a_400(service: Installation, request_: bytes) -> None:
    before = messages(service)
    assert status_of(exchange(service, request_)) == 400
    assert messages(service) == before


def test_http_1_0_needs_no_host(service: Installation) -> None:
    request = post(lengthy(len(BODY)), host="").replace(b"HTTP/1.1", b"HTTP/1.0") + BODY
    assert status_of(exchange(service, request)) == 202


@pytest.mark.parametrize(
    "key", ["order-ü-8".encode(), "order-ü-8".encode("latin-1")], ids=["UTF-8", "Latin-1"]
)
def test_a_header_that_cannot_be_read_is_named(service: Installation, key: bytes) -> None:
    request = post(lengthy(len(BODY)), more="Idempotency-Key: KEY\r\n").replace(b"KEY", key) + BODY
    answer = exchange(service, request)
    assert status_of(answer) == 400
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["errors"][0]["field"] == "Idempotency-Key"


def test_http_2_is_off(service: Installation) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        answer = read_answer(client)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "upgrade",
    [
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIQ==\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    ],
    ids=["websocket", "h2c"],
)
def test_an_upgrade_is_ignored(service: Installation, upgrade: str) -> None:
    assert status_of(exchange(service, post(lengthy(len(BODY)), more=upgrade) + BODY)) == 202
    request = f"GET /livez HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n".encode()
    assert status_of(exchange(service, request)) == 200
    assert "Traceback" not in service.log()


@pytest.mark.parametrize(
    ("head_", "status"),
    [
        (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 400),
        (b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: 1\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 2_000_000, 431),
    ],
    ids=["version", "target", "fields", "head"],
)
def test_what_the_http_server_refuses_by_itself(service: Installation, head_: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(head_)
        answer = read_answer(client)
    assert answer == b"" or (status_of(answer) == status and b"connection: close" in answer)


# ---------------------------------------------------------------- answers that arrive


def test_a_413_is_read_after_everything_was_sent(
    service: Installation, connection: http.client.HTTPConnection
) -> None:
    """Half of all clients send first and read then; without patience they see a reset."""
    connection.request("POST", "/send-email", b" " * 60_000_000, JSON_TYPE)
    response = connection.getresponse()
    assert response.status == 413
    assert response.headers["Connection"] == "close"
    assert json.loads(response.read())["type"] == "urn:problem:postroom:too-large"
    connection.request("POST", "/send-email", BODY, JSON_TYPE)
    assert answer(connection)[0] == 202


def test_a_413_to_chunks_ends_the_connection(
    service: Installation, connection: http.client.HTTPConnection
) -> None:
    connection.request(
        "POST", "/send-email", chunks(b" " * 60_000_000, 1_000_000), JSON_TYPE, encode_chunked=True
    )
    response = connection.getresponse()
    assert (response.status, response.headers["Connection"]) == (413, "close")
    response.read()
    connection.request("POST", "/send-email", BODY, JSON_TYPE)
    assert answer(connection)[0] == 202


@pytest.mark.parametrize("path", ["/send-email", "/nowhere"])
def test_an_answer_to_a_whole_body_keeps_the_connection(
    service: Installation, connection: http.client.HTTPConnection, path: str
) -> None:
    for size in (10, 100_000):
        connection.request("POST", path, json.dumps({"body": "x" * size}).encode(), JSON_TYPE)
        response = connection.getresponse()
        assert response.status in (401, 404)
        assert response.headers["Connection"] is None
        response.read()


def test_uploads_that_stand_still_hold_up_nobody(
    service: Installation, connection: http.client.HTTPConnection
) -> None:
    with contextlib.ExitStack() as stack:
        for framing in [lengthy(100_000), CHUNKED] * 12:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60))
            client.sendall(post(framing) + b"11170\r\n" + b" " * 70_000)
        connection.request("POST", "/send-email", json.dumps({**MAIL, "body": "x" * 100_000}), JSON_TYPE)
        assert answer(connection)[0] == 202
        connection.request("POST", "/send-email", chunks(BODY, 100), JSON_TYPE, encode_chunked=True)
        assert answer(connection)[0] == 202


# ---------------------------------------------------------------- small print


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/send-email", 202),
        ("POST", "/send-email?x", 202),
        ("GET", "/send-email", 405),
        ("OPTIONS", "/send-email", 200),
        ("GET", "/email-status/none", 404),
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/nowhere", 404),
        ("HEAD", "/livez", 200),
    ],
)
def test_no_answer_may_be_kept_by_a_cache(
    service: Installation, connection: http.client.HTTPConnection, method: str, path: str, status: int
) -> None:
    if path == "/readyz":  # the worker may have just started
        eventually(lambda: service.client.call("GET", path).status == status)
    connection.request(method, path, BODY if method == "POST" else None, JSON_TYPE)
    response = connection.getresponse()
    response.read()
    assert (response.status, response.headers.get_all("Cache-Control")) == (status, ["no-store"])


def test_a_status_and_refusals_may_not_be_kept_either(service: Installation) -> None:
    request_id = service.send()
    requests = {
        f"GET /email-status/{request_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode(): 200,
        CUT_OFF["no chunk"]: 400,
        REFUSED["no Host"]: 400,
        post(lengthy(60_000_000)): 413,
        post(lengthy(2)) + b"{}": 401,
    }
    for request, status in requests.items():
        answer = exchange(service, request, half_close=request == CUT_OFF["no chunk"])
        assert status_of(answer) == status
        assert answer.lower().count(b"\r\ncache-control: no-store\r\n") == 1


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "identity, gzip", "x"])
def test_a_content_encoding_is_a_415(
    service: Installation, connection: http.client.HTTPConnection, coding: str
) -> None:
    connection.request("POST", "/send-email", gzip.compress(BODY), {**JSON_TYPE, "Content-Encoding": coding})
    response = connection.getresponse()
    assert (response.status, response.headers["Accept-Encoding"]) == (415, "identity")
    assert json.loads(response.read())["type"] == "urn:problem:postroom:unsupported-media-type"


# ----------------------------------------------------------------


def test_a_connection_outlives_the_limit_on_guesses(connection: http.client.HTTPConnection) -> None:
    """The last of this module: its address is locked out for a minute."""
    statuses = []
    for number in range(100):
        body = json.dumps({**MAIL, "key": f"wrong {number}", "body": "x" * 100 * number})
        connection.request("POST", "/send-email", body, JSON_TYPE)
        statuses.append(answer(connection)[0])
    assert set(statuses) == {401, 429}
