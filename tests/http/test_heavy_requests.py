"""One request costs the others next to nothing, whatever it holds: seen in what is done, not in how long it takes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from postroom.intake import checks
from postroom.intake import prepare as preparing
from postroom.mime.message import Content, render
from postroom.runtime.installation import Service
from postroom.web import head, rsgi
from postroom.web import loop as loop_module
from postroom.web.app import DOORWAYS, create_app
from postroom.web.head import Head, environ_of, excess_of, fault_of, head_of
from postroom.web.loop import OnLoop, RequestLoop
from postroom.web.rsgi import RSGIServer
from postroom.web.schemas import _unique
from tests.http.conftest import ALICE, BOB, MOST_BYTES
from tests.http.test_let_go import JSON, KEY, Ask, Protocol, Scope, send


class Name(str):
    """A name that counts how often it is compared with another one."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_field_that_is_given_twice_is_found_in_one_pass() -> None:
    names = [Name(f"name {number}") for number in range(3000)]
    with pytest.raises(Exception, match="given twice"):
        _unique([(name, 0) for name in [*names, Name("name 2999")]])
    assert Name.compared < 3 * len(names)


def head_for(*, method: str = "POST", path: str = "/send-email", **headers: str) -> Head:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return head_of(Scope(Ask(0, method=method, path=path, headers=named)))


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/" + "x" * 8192, {}, 414),
        ("/", {"Accept": "x" * 8193}, 431),
        ("/", {"Content-Type": "application/json" + ";" * 8192}, 431),
        ("/", {"X-Forwarded-For": "x" * 100_000}, 431),
        ("/", {"x" * 257: "y"}, 431),
        ("/" + "x" * 8000, {"Cookie": "x" * 8192, "x" * 256: "y"}, None),
    ],
)
def test_a_head_longer_than_anybody_needs_is_refused(
    path: str, headers: dict[str, str], status: int | None
) -> None:
    excess = excess_of(head_of(Scope(Ask(0, path=path, headers=headers))))
    assert (excess.status if excess else None) == status


def test_no_long_name_of_a_header_is_kept() -> None:
    before = head._key_of.cache_info().currsize
    for number in range(300):
        assert excess_of(head_of(Scope(Ask(0, headers={f"{number}" + "x" * 60_000: "y"})))) is not None
    assert head._key_of.cache_info().currsize <= before + 3


@pytest.mark.parametrize(
    "name", ["Authorization", "X-API-Key", "Idempotency-Key", "Content-Type", "Content-Length"]
)
def test_a_header_that_stands_once_is_refused_twice(name: str) -> None:
    scope = Scope(Ask(0, headers={name: "1"}))
    scope.headers.twice = name.lower()
    assert fault_of(head_of(scope)) == f"the header {name} is given more than once"


def test_a_header_that_is_none_of_ours_may_stand_twice() -> None:
    scope = Scope(Ask(0, headers={"Via": "1"}))
    scope.headers.twice = "via"
    assert fault_of(head_of(scope)) is None


def test_a_length_beside_chunks_is_refused() -> None:
    scope = Scope(Ask(0, b"x", is_chunked=True))
    scope.headers["content-length"] = "1"
    assert "where the body ends is not clear" in str(fault_of(head_of(scope)))


@pytest.mark.parametrize("method", ["post", "Post"])
def test_a_method_is_written_in_capitals(method: str) -> None:
    assert "capitals" in str(fault_of(head_for(method=method)))


@pytest.mark.parametrize(
    ("forwarded", "proxies", "address"),
    [
        ("203.0.113.7", 1, "203.0.113.7"),
        ('"made up, 203.0.113.7', 1, "203.0.113.7"),
        ('\\", 10.0.0.1, 203.0.113.7, 10.0.0.2', 2, "203.0.113.7"),
        ("203.0.113.7", 2, "127.0.0.1"),
        ("203.0.113.7, ", 1, "127.0.0.1"),
        ("", 1, "127.0.0.1"),
    ],
)
def test_the_address_is_what_the_trusted_proxy_adds_whatever_stands_before(
    forwarded: str, proxies: int, address: str
) -> None:
    found = head_for(**({"X_Forwarded_For": forwarded} if forwarded else {}))
    found.take_forwarded_address(proxies)
    assert (found.remote, environ_of(found)["REMOTE_ADDR"]) == (address, address)


@pytest.mark.parametrize("value", ["Bearer\t{}", "Bearer{}", "bearer \t{}", "BEARER=x {}"])
def test_a_key_in_an_odd_spelling_is_refused_and_not_ignored(
    client: FlaskClient, alice: str, value: str
) -> None:
    headers = {"Authorization": value.format(BOB), "X-API-Key": alice}
    answer = client.post("/send-email", json=json.loads(send()), headers=headers)
    assert (answer.status_code, answer.get_json()["errors"][0]["field"]) == (400, "Authorization")


@pytest.mark.parametrize(
    ("charset", "status"), [("UTF-8", 202), ('"utf-8"', 202), ("utf-16", 415), ("latin1", 415)]
)
def test_a_charset_that_is_not_taken_is_refused(client: FlaskClient, charset: str, status: int) -> None:
    headers = {**KEY, "Content-Type": f"application/json; charset={charset}"}
    assert client.post("/send-email", data=send(), headers=headers).status_code == status


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize(("marks", "status"), [(1, 202), (2, 400)])
def test_one_mark_of_the_encoding_is_taken(client: FlaskClient, size: int, marks: int, status: int) -> None:
    body = b"\xef\xbb\xbf" * marks + send(body="x" * size)
    assert client.post("/send-email", data=body, headers={**JSON, **KEY}).status_code == status


def test_html_with_more_tags_than_can_be_read_is_refused(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MOST_TAGS", 1000)
    most, more = (
        client.post("/send-email", data=send(body="<p>x" * tags, is_html=True), headers={**JSON, **KEY})
        for tags in (1000, 1001)
    )
    assert (most.status_code, more.status_code) == (202, 422)
    assert more.get_json()["errors"][0]["field"] == "body"
    plain = send(body="<p>x" * 1001)
    assert client.post("/send-email", data=plain, headers={**JSON, **KEY}).status_code == 202


def served(service: Service, asks: list[Ask], build: Callable[[Flask, RequestLoop], RSGIServer]) -> list[int]:
    """Send requests at once; return the statuses in the order of the answers."""

    async def main() -> list[int]:
        shared = RequestLoop(service.store)
        app = create_app(service.settings, service.store, service.vault)
        server = build(app, shared)
        loop = asyncio.get_running_loop()
        server.__rsgi_init__(loop)
        statuses: list[int] = []

        async def one(ask: Ask) -> None:
            protocol = Protocol(ask.body)
            await server.__rsgi__(Scope(ask), protocol)
            statuses.append(protocol.status)

        try:
            await asyncio.gather(*map(one, asks))
        finally:
            server._connections.close()
            server._services.limits.close()
            for threads in shared._pools:
                threads.shutdown()
            shared.writer.close()
        return statuses

    return asyncio.run(main())


def plainly(app: Flask, shared: RequestLoop) -> RSGIServer:
    return RSGIServer(app, DOORWAYS, shared, most_bytes=2 * MOST_BYTES)


def test_html_of_many_tags_is_made_beside_the_loop_and_two_at_a_time(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    under_way = most = 0
    mutex = threading.Lock()

    def noted(content: Content) -> bytes:
        nonlocal under_way, most
        with mutex:
            threads.append(threading.current_thread().name)
            under_way += 1
            most = max(most, under_way)
        try:
            return render(content)
        finally:
            with mutex:
                under_way -= 1

    monkeypatch.setattr(preparing, "render", noted)
    many = Ask(202, send(body="<b>x" * 3000, is_html=True))
    assert served(service, [many] * 6, plainly) == [202] * 6
    assert all(name.startswith("request") for name in threads)
    assert most <= 2
    threads.clear()
    few = [Ask(202, send(body="<b>x" * 10, is_html=True)), Ask(202, send(body="<b>x" * 3000))]
    assert served(service, few, plainly) == [202, 202]
    assert set(threads) == {threading.main_thread().name}


def test_a_heavy_request_has_turns_for_its_account(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[str] = []
    compute = OnLoop.compute

    async def noted(waits: OnLoop, client: str, call: Callable[[], Any]) -> Any:
        clients.append(client)
        return await compute(waits, client, call)

    monkeypatch.setattr(OnLoop, "compute", noted)
    heavy = send(body="<b>x" * 3000, is_html=True)
    asks = [Ask(202, heavy, {**JSON, "X-API-Key": key}) for key in (ALICE, BOB)]
    assert served(service, asks, plainly) == [202, 202]
    assert len(set(clients)) == 2


def test_a_heavy_request_whose_turn_does_not_come_is_told_so(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rsgi, "ANSWER_WITHIN_S", 0.0)
    monkeypatch.setattr(loop_module, "_COMPUTED_AT_ONCE", 0)
    heavy = Ask(503, send(body="<b>x" * 3000, is_html=True))
    assert served(service, [heavy], plainly) == [503]
    assert "too many large requests are under way" in caplog.text


def test_behind_a_proxy_turns_are_the_clients(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = service.settings.model_copy(update={"trusted_proxies": 1})
    clients: list[str] = []
    find = RSGIServer._client

    def noted(server: RSGIServer, found: Head) -> str:
        clients.append(find(server, found))
        return clients[-1]

    monkeypatch.setattr(RSGIServer, "_client", noted)
    asks = [
        Ask(401, send(body="x" * 100_000), {**JSON, "X-Forwarded-For": f"203.0.113.{number}"})
        for number in (1, 2)
    ]
    assert served(Service(behind, service.store, service.vault), asks, plainly) == [401, 401]
    assert sorted(clients) == ["203.0.113.1", "203.0.113.2"]


def test_an_accept_header_that_no_browser_sends_is_not_parsed(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/", headers={"Accept": "text/html," + "a/b," * 200}).status_code == 200
    assert client.get("/", headers={"Accept": "text/html," + "a/b," * 300}).status_code == 404
