"""Rate limits: in memory, on a real Redis and on a real Memcached, and with these away."""

from __future__ import annotations

import json
import logging
import re
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import apsw
import pytest
from flask import Flask
from limits import RateLimitItemPerMinute
from limits.storage import MemcachedStorage
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse

from postroom.accounts.keys import ApiKeys, Principal
from postroom.runtime.installation import Service
from postroom.settings import RateLimitFallback
from postroom.web import rate_limiter
from postroom.web.rate_limits import RateLimits
from postroom.web.waits import AtOnce, at_once
from tests.servers.installation import ROOT
from tests.servers.memcached import Memcached
from tests.servers.programs import PATH, free_port
from tests.servers.redis import Redis, RedisCluster, Valkey, WatchedRedis
from tests.servers.waiting import at_most, eventually
from tests.soak import SOAK

MakeApp = Callable[..., Flask]
# limits keeps a client of Memcached for each thread, and nobody can close those of other threads.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
MAIL = {"subject": "Hello", "recipient": "you@example.com", "body": "It works."}
STORAGES = [
    "memory",
    pytest.param("redis_server", marks=pytest.mark.redis),
    pytest.param("memcached_server", marks=pytest.mark.memcached),
]
SERVERS = STORAGES[1:]


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take its time to count, except where a storage does not answer (`impatient`)."""
    if "impatient" not in request.fixturenames:
        monkeypatch.setattr(rate_limiter, "_PATIENCE_S", 20.0)


@pytest.fixture
def impatient() -> None:
    """Half a second for the storage, as in the service."""


def post(app: Flask, key: str, address: str = "192.0.2.1") -> TestResponse:
    """Post as one request to this application, from this address."""
    return app.test_client().post(
        "/send-email", json={**MAIL, "key": key}, environ_overrides={"REMOTE_ADDR": address}
    )


def parameters(field: str) -> tuple[str, dict[str, int]]:
    """Take `"key";r=1;t=2` apart."""
    name, *rest = field.split(";")
    return name, {word: int(value) for word, _, value in (part.partition("=") for part in rest)}


def check_limited(response: TestResponse, name: str, amount: int) -> None:
    """Check a 429: what it says to people, and what its header fields say to programs."""
    assert response.status_code == 429, response.text
    assert response.mimetype == "application/problem+json"
    document = json.loads(response.data)
    assert (document["type"], document["title"]) == (
        "urn:problem:postroom:quota-exceeded",
        "Too many requests",
    )
    assert document["status"] == 429
    assert f"{amount} per 1 minute" in document["detail"]
    wait = int(response.headers["Retry-After"])
    assert 1 <= wait <= 60
    check_headers(response.headers, name, amount, 0)
    assert parameters(response.headers["RateLimit"])[1]["t"] == wait


def check_headers(headers: Headers, name: str, amount: int, remaining: int) -> None:
    assert headers["RateLimit-Policy"] == f'"{name}";q={amount};w=60'
    found, values = parameters(headers["RateLimit"])
    assert (found, list(values), values["r"]) == (f'"{name}"', ["r", "t"], remaining)
    assert 1 <= values["t"] <= 60


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    """The address of the storage that the test is parametrized with."""
    if request.param == "memory":
        return "memory://"
    server: Redis | Memcached = request.getfixturevalue(request.param)
    return server.uri


# ---------------------------------------------------------------- by key


@pytest.mark.parametrize("uri", STORAGES, indirect=True)
def test_one_request_too_many(
    make_app: MakeApp, uri: str, alice: str, bob: str, kept: Callable[[], int]
) -> None:
    app = make_app(rate_limit="3/minute", ratelimit_storage_uri=uri)
    for remaining in (2, 1, 0):
        response = post(app, alice)
        assert response.status_code == 202
        check_headers(response.headers, "key", 3, remaining)
        assert "Retry-After" not in response.headers
    before = kept()
    for address in ("192.0.2.1", "192.0.2.2"):
        check_limited(post(app, alice, address), "key", 3)
    assert kept() == before
    assert post(app, bob).status_code == 202, "another key is not concerned"


def test_where_the_key_stands_makes_no_difference(make_app: MakeApp, alice: str) -> None:
    app = make_app(rate_limit="3/minute")
    send = app.test_client().post
    assert send("/send-email", json={**MAIL, "key": alice}).status_code == 202
    assert send("/send-email", json=MAIL, headers={"X-API-Key": alice}).status_code == 202
    assert send("/send-email", json=MAIL, headers={"Authorization": f"Bearer {alice}"}).status_code == 202
    check_limited(send("/send-email", json=MAIL, headers={"X-API-Key": alice}), "key", 3)


def test_refused_requests_count(make_app: MakeApp, alice: str) -> None:
    app = make_app(rate_limit="2/minute")
    send = app.test_client().post
    for recipient in ("nonsense", "more nonsense"):
        response = send("/send-email", json={**MAIL, "recipient": recipient, "key": alice})
        assert response.status_code == 422
        assert "RateLimit" in response.headers
    check_limited(post(app, alice), "key", 2)


def test_requests_that_cannot_be_read_count_by_address(make_app: MakeApp, alice: str) -> None:
    app = make_app(rate_limit="2/minute")
    client = app.test_client()
    client.environ_base["REMOTE_ADDR"] = "192.0.2.1"
    for _ in range(2):
        assert client.post("/send-email", data=b"{", content_type="application/json").status_code == 400
    check_limited(client.post("/send-email", data=b"{", content_type="application/json"), "key", 2)
    assert post(app, alice).status_code == 202, "the key has a count of its own"


def test_asking_for_a_status_is_not_limited_by_key(make_app: MakeApp, alice: str) -> None:
    app = make_app(rate_limit="1/minute")
    request_id = post(app, alice).get_json()["request_id"]
    for _ in range(100):
        response = app.test_client().get(f"/email-status/{request_id}", headers={"X-API-Key": alice})
        assert response.status_code == 200


def test_several_limits_at_once(make_app: MakeApp, alice: str) -> None:
    app = make_app(rate_limit="2/minute;3/day")
    assert [post(app, alice).status_code for _ in range(3)] == [202, 202, 429]


def test_an_empty_limit_switches_it_off(make_app: MakeApp, alice: str) -> None:
    app = make_app(rate_limit="")
    for _ in range(100):
        response = post(app, alice)
        assert response.status_code == 202
        assert "RateLimit" not in response.headers


@pytest.mark.parametrize("uri", SERVERS, indirect=True)
def test_several_processes_share_one_count(make_app: MakeApp, uri: str, alice: str) -> None:
    one, other = (make_app(rate_limit="4/minute", ratelimit_storage_uri=uri) for _ in range(2))
    assert [post(app, alice).status_code for app in (one, other, one, other)] == [202] * 4
    check_limited(post(one, alice), "key", 4)
    check_limited(post(other, alice), "key", 4)


@pytest.mark.redis
def test_no_key_is_seen_in_redis(make_app: MakeApp, redis_server: Redis, alice: str) -> None:
    app = make_app(rate_limit="100/minute", ratelimit_storage_uri=redis_server.uri)
    post(app, alice)
    post(app, "a-wrong-key")
    app.test_client().get("/email-status/x", headers={"X-API-Key": "another-wrong-key"})
    with socket.create_connection((redis_server.host, redis_server.port), timeout=30) as connection:
        connection.sendall(b"KEYS *\r\n")
        names = connection.recv(65536).decode()
    assert names.count("postroom") >= 3, names
    for key in (alice, "wrong", alice.encode().hex()):
        assert key not in names


# ---------------------------------------------------------------- wrong guesses


LOCKED = "192.0.2.66"


def lock(app: Flask, address: str = LOCKED) -> None:
    """Send as many wrong keys from an address as are heard."""
    for number in range(60):
        assert post(app, f"guess {number}", address).status_code == 401


def ask(app: Flask, request_id: str, key: str | None = None, address: str = LOCKED) -> TestResponse:
    headers = {} if key is None else {"X-API-Key": key}
    return app.test_client().get(
        f"/email-status/{request_id}", headers=headers, environ_base={"REMOTE_ADDR": address}
    )


@pytest.mark.parametrize("uri", STORAGES, indirect=True)
def test_guesses_from_one_address_are_slowed_down(make_app: MakeApp, uri: str, alice: str) -> None:
    """After sixty in a minute the address hears 429, right key or not: else the right one would show."""
    app = make_app(ratelimit_storage_uri=uri)
    for number in range(30):
        assert post(app, f"guess {number}", LOCKED).status_code == 401
        assert ask(app, f"{number}").status_code == 404, "ids and keys are counted together"
    answers = [
        post(app, "one more guess", LOCKED),
        post(app, alice, LOCKED),
        ask(app, "x"),
        ask(app, "x", "one more guess"),
        ask(app, "x", alice),
        app.test_client().post("/send-email", data=b"{", environ_base={"REMOTE_ADDR": LOCKED}),
    ]
    for answer in answers:
        check_limited(answer, "guesses", 60)
        assert answer.get_json() == answers[0].get_json(), "nothing tells one from another"
    assert f"wrong keys and unknown ids from {LOCKED}" in answers[0].get_json()["detail"]
    assert post(app, alice, "192.0.2.67").status_code == 202, "other addresses are not concerned"


@pytest.mark.parametrize("uri", STORAGES, indirect=True)
def test_a_key_that_was_used_before_is_not_refused_for_what_others_do(
    make_app: MakeApp, uri: str, alice: str, bob: str
) -> None:
    app = make_app(ratelimit_storage_uri=uri)
    request_id = post(app, alice).get_json()["request_id"]
    lock(app)
    assert post(app, alice, LOCKED).status_code == 202
    assert ask(app, request_id, alice).status_code == 200
    assert ask(app, str(UUID(int=1)), alice).status_code == 404, "its own poller of old ids stops nobody"
    header = {"X-API-Key": alice}
    broken = app.test_client().post(
        "/send-email", data=b"{", headers=header, environ_base={"REMOTE_ADDR": LOCKED}
    )
    assert broken.status_code == 415
    check_limited(post(app, bob, LOCKED), "guesses", 60)
    assert post(make_app(ratelimit_storage_uri=uri), alice, LOCKED).status_code == 202, "after a restart too"


def test_what_one_process_has_seen_used_counts_for_the_others(
    make_app: MakeApp, alice: str, bob: str
) -> None:
    one, other = make_app(), make_app()
    assert post(other, "wrong", "192.0.2.1").status_code == 401, "it has read the keys"
    assert post(one, alice).status_code == 202
    lock(other)
    assert post(other, alice, LOCKED).status_code == 202
    check_limited(post(other, bob, LOCKED), "guesses", 60)


def test_a_key_that_asks_with_success_is_used(
    make_app: MakeApp, alice: str, database: apsw.Connection
) -> None:
    one, other = make_app(), make_app()
    request_id = post(one, alice).get_json()["request_id"]
    database.execute("UPDATE api_key SET used_at = NULL")
    assert ask(other, request_id, alice, "192.0.2.1").status_code == 200
    lock(other)
    assert post(other, alice, LOCKED).status_code == 202


def test_a_status_is_refused_only_where_its_id_is_unknown(make_app: MakeApp, alice: str) -> None:
    app = make_app()
    request_id = post(app, alice).get_json()["request_id"]
    lock(app)
    assert ask(app, request_id).status_code == 200
    check_limited(ask(app, str(UUID(int=1))), "guesses", 60)
    assert ask(app, request_id).status_code == 200


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1:1000", "64:ff9b::c000:201", True),
        ("[::ffff:192.0.2.1]:1000", '"192.0.2.1:4711"', True),
        ("2001:db8::1", "2001:db8::ffff:0:1", True),
        ("[2001:db8::1]:1000", "[2001:DB8:0:0:9::8]:2000", True),
        ("fe80::1%eth0", "[fe80::2%eth0]:99", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("_hidden", "unknown " * 100, True),
    ],
)
def test_a_source_is_what_one_client_has_all_of(
    make_app: MakeApp, first: str, second: str, same: bool
) -> None:
    client = make_app(trusted_proxies=1, rate_limit="1/minute").test_client()

    def unreadable(address: str) -> int:
        return client.post("/send-email", data=b"{", headers={"X-Forwarded-For": address}).status_code

    assert unreadable(first) == 415
    assert unreadable(second) == (429 if same else 415), (
        "requests without a key are counted by source as well"
    )


def test_guesses_of_a_whole_ipv6_network_are_counted_together(make_app: MakeApp) -> None:
    app = make_app()
    for number in range(60):
        assert post(app, f"guess {number}", f"2001:db8::{number:x}").status_code == 401
    check_limited(post(app, "guess", "2001:db8::ffff:ffff"), "guesses", 60)
    assert post(app, "guess", "2001:db8:0:1::1").status_code == 401


def test_guesses_that_arrive_together_get_no_more_than_their_share(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have all been let in before the first is counted: what is one too many is refused all the same."""
    app = make_app()
    lock(app)

    async def let_in(*_: object, **__: object) -> None:
        """As if none had been counted yet."""

    monkeypatch.setattr(RateLimits, "_check_guesses", let_in)
    check_limited(post(app, "guess", LOCKED), "guesses", 60)


def test_right_answers_are_no_guesses(make_app: MakeApp, alice: str) -> None:
    app = make_app()
    assert {post(app, alice).status_code for _ in range(70)} == {202}
    for number in range(59):
        assert post(app, f"guess {number}").status_code == 401
    assert post(app, alice).status_code == 202


def test_a_forwarded_address_is_believed_only_from_a_trusted_proxy(make_app: MakeApp) -> None:
    direct, behind_proxy = make_app(), make_app(trusted_proxies=1)
    last = None
    for number in range(61):
        headers = {"X-Forwarded-For": f"198.51.100.{number}", "X-API-Key": "wrong"}
        last = direct.test_client().post("/send-email", json=MAIL, headers=headers)
        proxied = behind_proxy.test_client().post("/send-email", json=MAIL, headers=headers)
        assert proxied.status_code == 401
    assert last is not None
    check_limited(last, "guesses", 60)


@pytest.mark.parametrize(
    "spellings",
    [
        [f"198.51.100.7:{port}" for port in range(1000, 1061)],
        [f"[2001:db8::1]:{port}" for port in range(1000, 1061)],
        ["2001:db8::1", "2001:DB8:0::1", "[2001:db8::1]"] * 21,
    ],
    ids=["port", "IPv6 and port", "spellings"],
)
def test_a_client_is_one_however_a_proxy_spells_its_address(make_app: MakeApp, spellings: list[str]) -> None:
    client = make_app(trusted_proxies=1).test_client()
    answers = [
        client.post("/send-email", json=MAIL, headers={"X-Forwarded-For": forwarded, "X-API-Key": "wrong"})
        for forwarded in spellings[:61]
    ]
    check_limited(answers[-1], "guesses", 60)


# ---------------------------------------------------------------- the storage is away


def together(app: Flask, key: str) -> list[tuple[int, float]]:
    """Post eight times at the same time; return statuses and seconds."""

    def timed(_: int) -> tuple[int, float]:
        began = time.monotonic()
        return post(app, key).status_code, time.monotonic() - began

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(timed, range(8)))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["stop", "pause"])
@pytest.mark.parametrize("server", ["redis_server", "memcached_server"])
def test_a_storage_that_goes_away_holds_nothing_up(
    make_app: MakeApp, request: pytest.FixtureRequest, server: str, how: str, alice: str, bob: str
) -> None:
    storage: Any = request.getfixturevalue(server)
    app = make_app(rate_limit="30/minute", ratelimit_storage_uri=storage.uri)
    other = make_app(rate_limit="30/minute", ratelimit_storage_uri=storage.uri)
    together(app, alice)  # of thirty in a minute eight, and sixteen more while it is away
    getattr(storage, how)()
    for _ in range(2):
        for status, seconds in together(app, alice):
            assert status == 202
            assert seconds < 20, (
                f"a storage that is away held a request up for {seconds:.1f} s, not for half of one"
            )
    assert post(app, "wrong").status_code == 401
    assert app.test_client().get("/email-status/x").status_code == 404
    eventually(lambda: post(app, bob).status_code == 429, 60, "the count in memory")
    getattr(storage, {"stop": "start", "pause": "resume"}[how])()
    eventually(lambda: post(app, bob).status_code == 202, 90, "the storage's own count again")
    eventually(lambda: post(app, bob).status_code == 429, 60, "the storage's limit")
    eventually(lambda: post(other, bob).status_code == 429, 60, "the storage's limit in another process")
    check_limited(post(other, bob), "key", 30)


@pytest.mark.memcached
def test_connections_to_a_storage_that_was_restarted_cost_one_pause_and_not_one_each(
    service: Service, memcached_server: Memcached, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight wait in the pool, and each of them would fail once."""
    caplog.set_level(logging.INFO, rate_limiter.__name__)
    limiter = rate_limiter.RateLimiter(memcached_server.uri, RateLimitFallback.COUNT)
    waits = AtOnce(service.store)
    limit = RateLimitItemPerMinute(30)
    assert at_once(limiter.hit(waits, [limit], "before")) is not None
    storage = limiter._shared
    assert isinstance(storage, MemcachedStorage)
    opened: Any = storage.storage
    pool = opened.client_pool
    with ExitStack() as together:
        for client in [together.enter_context(pool.get_and_release()) for _ in range(8)]:
            client.version()
    del storage, opened, pool, client
    memcached_server.stop()
    memcached_server.start()

    def is_back() -> bool:
        at_once(limiter.hit(waits, [limit], "after"))
        return any(record.getMessage().endswith("is back") for record in caplog.records)

    eventually(is_back, message="the storage to be asked again")
    assert sum("is away" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.redis
@pytest.mark.parametrize(("right", "status"), [(True, 202), (False, 401)])
def test_a_storage_that_goes_away_during_a_request(
    make_app: MakeApp,
    redis_server: Redis,
    monkeypatch: pytest.MonkeyPatch,
    alice: str,
    right: bool,
    status: int,
) -> None:
    """The limits were looked at, the answer is ready: it goes out, whether it counts as a guess or not."""
    app = make_app(rate_limit="20/minute", ratelimit_storage_uri=redis_server.uri)
    authenticate = ApiKeys.authenticate

    def stop_first(self: ApiKeys, key: str | None) -> Principal:
        redis_server.stop()
        return authenticate(self, key)

    monkeypatch.setattr(ApiKeys, "authenticate", stop_first)
    assert post(app, alice if right else "wrong").status_code == status
    assert post(app, alice if right else "wrong").status_code == status


@pytest.mark.redis
def test_a_storage_that_is_away_from_the_start(make_app: MakeApp, redis_server: Redis, alice: str) -> None:
    redis_server.stop()
    app = make_app(rate_limit="3/minute", ratelimit_storage_uri=redis_server.uri)
    assert [post(app, alice).status_code for _ in range(4)] == [202, 202, 202, 429]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("form", ["redis+sentinel://u:{}@{}/limits", "redis+cluster://u:{}@{}"])
def test_many_servers_that_do_not_answer_hold_up_a_request_no_longer_than_one(
    make_app: MakeApp, form: str, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The driver asks one after the other, half a second each."""
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(60)]
        places = [f"127.0.0.1:{each.getsockname()[1]}" for each in silent]
        uri = form.format("a-canary", ",".join(places))
        app = make_app(rate_limit="3/minute", ratelimit_storage_uri=uri)
        with at_most(15, "half a second"):
            assert post(app, alice).status_code == 202
    [said] = [record.getMessage() for record in caplog.records if "storage is away" in record.getMessage()]
    assert said.endswith("counting in memory: it has not answered within 0.5 s")


@pytest.mark.parametrize(
    "uri",
    [
        "redis://{0}:{0}@127.0.0.1:{1}", "rediss://{0}:{0}@127.0.0.1:{1}", "redis+unix://{0}:{0}@/{0}.sock",
        "redis+sentinel://{0}:{0}@127.0.0.1:{1}/{0}", "redis+cluster://{0}:{0}@127.0.0.1:{1}",
        "valkey+cluster://{0}:{0}@127.0.0.1:{1}",
    ],
)  # fmt: skip
def test_a_storage_that_is_away_tells_no_password(
    make_app: MakeApp, uri: str, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(ratelimit_storage_uri=uri.format("c%40nary", free_port()), rate_limit="3/minute")
    assert post(app, alice).status_code == 202
    assert "storage is away" in caplog.text
    for secret in ("c@nary:", ":c@nary", "c%40nary:", ":c%40nary", "'c@nary'", "=c@nary"):
        assert secret not in caplog.text


def test_a_sentinels_replicas_are_not_asked() -> None:
    """They are a little behind: a limit would be exceeded, and its window would end in a second."""
    storage: Any = rate_limiter._open("redis+sentinel://127.0.0.1:1/limits")
    assert storage.get_connection(readonly=True) is storage.storage


@pytest.mark.redis
@pytest.mark.server
@pytest.mark.parametrize("form", [Redis, lambda: RedisCluster(nodes=1), WatchedRedis])
def test_the_rights_in_the_documentation_are_enough(
    make_app: MakeApp, form: Callable[[], Redis], alice: str
) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    rights = re.findall(r"may have an ACL: `(.*?)`.*?sentinel.*?: `(.*?)`", page)[0]
    server = form()
    server.port = free_port()
    with server:
        server.let_in("limiter", "a-password", *(words.split() for words in rights))
        uri = server.uri.replace("://", "://limiter:a-password@").removesuffix("/0") + (
            "/3" if form is Redis else ""
        )
        one, other = (make_app(rate_limit="3/minute", ratelimit_storage_uri=uri) for _ in range(2))
        assert [post(app, alice).status_code for app in (one, other, one, other)] == [202, 202, 202, 429]
        assert server.has_counts() or form is Redis


def cluster() -> RedisCluster:
    return RedisCluster(nodes=3 if SOAK else 1)


needs_valkey = pytest.mark.skipif(
    shutil.which(Valkey.program, path=PATH) is None, reason="Debian has valkey-server since 13"
)


@pytest.mark.redis
@pytest.mark.server
@pytest.mark.parametrize("form", [WatchedRedis, cluster, pytest.param(Valkey, marks=needs_valkey)])
def test_redis_in_another_form_may_come_later_and_is_counted_in_then(
    make_app: MakeApp, form: Callable[[], Redis], alice: str
) -> None:
    server = form()
    server.port = free_port()
    app = make_app(rate_limit="3/hour", ratelimit_storage_uri=server.uri)
    assert post(app, alice).status_code == 202, "counted in memory"
    with server:

        def is_counted_there() -> bool:
            post(app, alice)
            return server.has_counts()

        eventually(is_counted_there, 90, "the storage to be asked again")
        eventually(lambda: post(app, alice).status_code == 429, 90, "its limit")
        other = make_app(rate_limit="3/hour", ratelimit_storage_uri=server.uri)
        assert post(other, alice).status_code == 429, "counted together"


@pytest.mark.redis
def test_without_its_storage_requests_go_through_uncounted_where_that_is_set(
    make_app: MakeApp, redis_server: Redis, alice: str
) -> None:
    app = make_app(rate_limit="2/minute", ratelimit_storage_uri=redis_server.uri, rate_limit_fallback="allow")
    assert [post(app, alice).status_code for _ in range(3)] == [202, 202, 429]
    redis_server.stop()
    for _ in range(5):
        response = post(app, alice)
        assert response.status_code == 202
        assert "RateLimit" not in response.headers
    assert {post(app, "wrong").status_code for _ in range(70)} == {401}, "guesses are not counted either"
    redis_server.start()
    eventually(lambda: post(app, alice).status_code == 429, 60, "the storage's count again")


@pytest.mark.redis
def test_without_its_storage_requests_are_refused_where_that_is_set(
    make_app: MakeApp, redis_server: Redis, alice: str, kept: Callable[[], int]
) -> None:
    app = make_app(
        rate_limit="20/minute", ratelimit_storage_uri=redis_server.uri, rate_limit_fallback="refuse"
    )
    assert post(app, alice).status_code == 202
    redis_server.stop()
    before = kept()
    for response in (*(post(app, alice) for _ in range(3)), app.test_client().get("/email-status/x")):
        assert response.status_code == 503
        assert response.mimetype == "application/problem+json"
        assert response.get_json()["type"] == "urn:problem:postroom:limiter-unavailable"
        assert 1 <= int(response.headers["Retry-After"]) <= 5
    assert kept() == before
    assert app.test_client().get("/livez").status_code == 200
    redis_server.start()
    eventually(lambda: post(app, alice).status_code == 202, 90, "the storage to be asked again")


@pytest.mark.redis
def test_a_storage_that_goes_away_during_a_request_changes_no_answer(
    make_app: MakeApp, redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where requests are refused: this one was let in."""
    app = make_app(ratelimit_storage_uri=redis_server.uri, rate_limit_fallback="refuse")
    authenticate = ApiKeys.authenticate

    def stop_first(self: ApiKeys, key: str | None) -> Principal:
        redis_server.stop()
        return authenticate(self, key)

    monkeypatch.setattr(ApiKeys, "authenticate", stop_first)
    assert post(app, "wrong").status_code == 401


def test_without_a_shared_storage_the_fallback_means_nothing(make_app: MakeApp, alice: str) -> None:
    app = make_app(rate_limit="2/minute", rate_limit_fallback="refuse")
    assert [post(app, alice).status_code for _ in range(3)] == [202, 202, 429]
