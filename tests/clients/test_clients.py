"""Other people's HTTP clients and proxies before the running service (tests/servers/clients).

`make test` has curl, httpx, Node and nginx; `make clients` all of them.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from postroom.runtime.web_process import IDLE_WITHIN_MS
from tests.servers.clients import CLIENTS, EXPECTED, Client
from tests.servers.clients.proxies import PROXIES, Proxy
from tests.servers.installation import KEY, Installation, account_rows
from tests.servers.installation import Client as InstallationClient
from tests.servers.waiting import eventually

ALL = os.environ.get("POSTROOM_SOAK") == "1"
IDLE = 60  # connections
SIZES = (200_000, 5_000_000)
TIMES = 10 if ALL else 1


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all; its account's server is not there, so that everything stays queued."""
    settings = {"POSTROOM_RATE_LIMIT": "", "POSTROOM_TRUSTED_PROXIES": "1"}
    with Installation(tmp_path_factory.mktemp("clients"), account_rows(9), **settings) as installation:
        yield installation


def chosen(things: list[Any]) -> list[Any]:
    return [pytest.param(each, id=each.name) for each in things if ALL or each.quick]


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("client", chosen(CLIENTS))
def test_a_client(service: Installation, client: Client, tmp_path: Path) -> None:
    assert seen(client, service.port, tmp_path) == client.expected
    assert "Traceback" not in service.log()


@pytest.mark.parametrize("proxy", chosen(PROXIES))
def test_clients_behind_a_proxy(service: Installation, proxy: Proxy, tmp_path: Path) -> None:
    clients = CLIENTS if ALL else [client for client in CLIENTS if client.name == "curl"]
    with proxy.running(tmp_path, service.port) as port:
        found = {client.name: seen(client, port, tmp_path) for client in clients}
    expected = {client.name: client.expected for client in clients}
    for client, case in proxy.cannot & {(client.name, case) for client in clients for case in EXPECTED}:
        found[client][case] = expected[client][case]
    assert found == expected


def seen(client: Client, port: int, folder: Path) -> dict[str, Any]:
    return client.see(url(port), KEY, folder)


@pytest.mark.parametrize("proxy", [each for each in chosen(PROXIES) if each.id.endswith("as deployed")])
def test_what_is_for_monitors_stays_inside(service: Installation, proxy: Proxy, tmp_path: Path) -> None:
    """`deploy/` shows /livez and /readyz to nobody, however they are spelled, and answers as for any unknown address."""
    with proxy.running(tmp_path, service.port) as port, closing(InstallationClient(port)) as client:
        unknown = client.call("GET", "/nothing")
        for path in ("/livez", "/readyz", "/readyz?x=1", "//readyz", "/%72eadyz", "/x/../livez", "/readyz/"):
            answer = client.call("GET", path)
            assert (answer.status, answer.document) == (404, unknown.document), path
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["cache-control"] == "no-store"
        assert client.call("POST", "/send-email", {}).status == 401, "all else goes through"


@pytest.mark.parametrize("proxy", [each for each in chosen(PROXIES) if each.id.endswith("as deployed")])
@pytest.mark.parametrize("status", [502, 504])
def test_a_proxy_says_that_the_service_is_away_or_late_as_we_would(
    proxy: Proxy, status: int, tmp_path: Path
) -> None:
    """Nobody listens, or one who never answers. The proxy's own times, of 30 and 75 seconds, are a second here."""
    impatient = re.sub(r"\b(30|75)s\b", "1s", proxy.configuration)
    assert impatient != proxy.configuration
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if status == 504:
            silent.listen()
        backend = silent.getsockname()[1]
        with (
            replace(proxy, configuration=impatient).running(tmp_path, backend) as port,
            closing(InstallationClient(port)) as client,
        ):
            answer = client.call("POST", "/send-email", {"subject": "x"})
    assert answer.status == answer.document["status"] == status
    assert set(answer.document) == {"type", "title", "status", "detail", "errors"}
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize("proxy", [None, *chosen(PROXIES)])
def test_what_a_client_gave_up_is_not_stored(
    service: Installation, proxy: Proxy | None, tmp_path: Path
) -> None:
    """At every quarter of a post, closed and reset; only the whole ones are stored, and those answered are."""
    if proxy is None:
        check_aborts(service, service.port)
    else:
        with proxy.running(tmp_path, service.port) as port:
            check_aborts(service, port)


def check_aborts(service: Installation, port: int) -> None:
    cut, answered = set(), set()
    for size in SIZES:
        for _ in range(TIMES):
            for quarters in range(5):
                for reset in (False, True):
                    subject = str(uuid.uuid4())
                    status = send(port, subject, size, quarters, reset=reset)
                    if quarters < 4:
                        cut.add(subject)
                        assert status is None
                    else:
                        assert status == 202
                        answered.add(subject)
    assert service.post().status == 202
    found = subjects(service)
    assert cut.isdisjoint(found)
    assert answered <= found


@pytest.mark.skipif(not ALL, reason="make clients")
@pytest.mark.parametrize(
    "proxy", [each for each in PROXIES if each.waits_for_a_restart], ids=lambda proxy: proxy.name
)
def test_a_restart_fails_no_post(proxy: Proxy, tmp_path: Path) -> None:
    """With the recipes of docs/deployment.md, and with the signal that systemd sends."""
    statuses: list[int] = []
    over = threading.Event()
    with (
        Installation(tmp_path / "service", account_rows(9), POSTROOM_RATE_LIMIT="") as service,
        proxy.running(tmp_path, service.port) as port,
    ):

        def post_on() -> None:
            while not over.is_set():
                statuses.append(send(port, str(uuid.uuid4()), 100, 4, reset=False) or 0)

        with ThreadPoolExecutor(4) as pool:
            posting = [pool.submit(post_on) for _ in range(4)]
            try:
                for _ in range(3):
                    eventually(partial(has_grown, statuses, len(statuses) + 100), 60, "posts")
                    service.halt()
                    service.start()
            finally:
                over.set()
            for each in posting:
                each.result()
        assert set(statuses) == {202}
        assert len(subjects(service)) == len(statuses)


@pytest.mark.skipif(not ALL, reason="make clients")
@pytest.mark.parametrize(
    "proxy", [each for each in PROXIES if each.closes_first], ids=lambda proxy: proxy.name
)
def test_no_post_meets_the_end_of_an_idle_connection(
    service: Installation, proxy: Proxy, tmp_path: Path
) -> None:
    """Posts over connections that were idle for about as long as the service keeps them: each is answered."""
    with proxy.running(tmp_path, service.port) as port, ThreadPoolExecutor(IDLE) as pool:
        found = list(pool.map(partial(post_twice, port), range(IDLE)))
    assert found == [(202, 202)] * IDLE


def post_twice(port: int, number: int) -> tuple[int, int]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        first = post_over(client)
        time.sleep(IDLE_WITHIN_MS / 1000 - 0.5 + number / IDLE)  # half a second before the end and after it
        return first, post_over(client)
    finally:
        client.close()


def post_over(client: http.client.HTTPConnection) -> int:
    document = {"subject": "s", "recipient": "you@postroom.example", "body": "b", "key": KEY}
    client.request("POST", "/send-email", json.dumps(document), {"Content-Type": "application/json"})
    answer = client.getresponse()
    answer.read()
    return answer.status


def has_grown(statuses: list[int], size: int) -> bool:
    return len(statuses) >= size


def send(port: int, subject: str, size: int, quarters: int, *, reset: bool) -> int | None:
    """Post so much of a message and leave; with all four quarters, return the status of the answer."""
    document = {"subject": subject, "recipient": "you@postroom.example", "body": "x" * size, "key": KEY}
    body = json.dumps(document).encode()
    head = f"POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += f"Idempotency-Key: {subject}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
        client.sendall(head.encode() + body[: len(body) * quarters // 4])
        if quarters == 4:
            return int(client.recv(65_536).split()[1])
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return None


def subjects(service: Installation) -> set[str]:
    return {subject for (subject,) in service.query("SELECT subject FROM message")}
