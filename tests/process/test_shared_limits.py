"""The rate limiter of a running service on Redis and Memcached: requests that arrive together are counted together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.installation import Answer, Installation, account_rows
from tests.servers.memcached import Memcached
from tests.servers.redis import Redis
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

LIMIT, CLIENTS, EACH = 100, 12, 15
SERVERS = [
    pytest.param("redis_server", marks=pytest.mark.redis),
    pytest.param("memcached_server", marks=pytest.mark.memcached),
]


@pytest.fixture(params=SERVERS)
def storage(request: pytest.FixtureRequest) -> Redis | Memcached:
    server: Redis | Memcached = request.getfixturevalue(request.param)
    return server


@contextmanager
def service_on(storage: Redis | Memcached, folder: Path, sink: Sink) -> Iterator[Installation]:
    """Two web processes and two accounts, each of which may send so many mails in an hour."""
    rows = [*account_rows(sink.port, "one"), account_rows(sink.port, "other")[1]]
    settings = {
        "RATELIMIT_STORAGE_URI": storage.uri,
        "POSTROOM_RATE_LIMIT": f"{LIMIT}/hour",
        "WEB_CONCURRENCY": "2",
    }
    with Installation(folder, rows, **settings) as service:
        yield service


def all_at_once(service: Installation, *keys: str) -> dict[str, list[Answer]]:
    """Have many clients post at the same time, with the keys in turn."""

    def post(number: int) -> list[tuple[str, Answer]]:
        asked = [keys[(number + each) % len(keys)] for each in range(EACH)]
        return [(key, service.post(key=key)) for key in asked]

    with ThreadPoolExecutor(CLIENTS) as pool:
        answered = [pair for pairs in pool.map(post, range(CLIENTS)) for pair in pairs]
    return {key: [answer for asked, answer in answered if asked == key] for key in keys}


def rest(answer: Answer) -> int:
    """Return what a RateLimit field says is left."""
    return int(answer.headers["ratelimit"].partition("r=")[2].partition(";")[0])


def test_every_request_is_counted_once(storage: Redis | Memcached, tmp_path: Path, sink: Sink) -> None:
    with service_on(storage, tmp_path, sink) as service:
        answers = all_at_once(service, "one")["one"]
        assert Counter(answer.status for answer in answers) == {202: LIMIT, 429: CLIENTS * EACH - LIMIT}
        left = sorted(rest(answer) for answer in answers if answer.status == 202)
        assert left == list(range(LIMIT)), "each of them was told what it left for the next"


def test_keys_that_are_counted_together_are_each_counted_for_itself(
    storage: Redis | Memcached, tmp_path: Path, sink: Sink
) -> None:
    with service_on(storage, tmp_path, sink) as service:
        for answers in all_at_once(service, "one", "other").values():
            assert {answer.status for answer in answers} == {202}
            assert sorted(rest(answer) for answer in answers) == list(range(LIMIT - len(answers), LIMIT))


def test_a_storage_that_does_not_answer_holds_no_request_up_for_long(
    storage: Redis | Memcached, tmp_path: Path, sink: Sink
) -> None:
    with service_on(storage, tmp_path, sink) as service:
        all_at_once(service, "one", "other")
        storage.pause()
        began = time.monotonic()
        answers = all_at_once(service, "one", "other")
        seconds, waited = time.monotonic() - began, "those who wait together give up together"
        assert seconds < 50, f"{waited}, after {seconds:.1f} s"
        assert {answer.status for each in answers.values() for answer in each} == {202}
        storage.resume()
        eventually(
            lambda: service.post().status and "storage is back" in service.log(),
            40,
            "the storage to be used again",
        )
