"""Python's HTTP clients: `python python_client.py LIBRARY URL KEY` prints what became of each case as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

TEXT = 5_000_000
TOO_LARGE = 60_000_000


def pieces(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), 10_000):
        yield body[at : at + 10_000]


class HttpClient:
    """http.client of the standard library: one connection."""

    def __init__(self, url: str) -> None:
        import http.client

        parts = urlsplit(url)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)

    def post(self, body: bytes, headers: dict[str, str], *, chunked: bool = False) -> tuple[int, Any]:
        sent = pieces(body) if chunked else body
        self._connection.request("POST", "/send-email", sent, headers, encode_chunked=chunked)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


class Requests:
    """requests: a session."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/send-email"
        self._session = import_module("requests").Session()

    def post(self, body: bytes, headers: dict[str, str], *, chunked: bool = False) -> tuple[int, Any]:
        answer = self._session.post(
            self._url, data=pieces(body) if chunked else body, headers=headers, timeout=120
        )
        return answer.status_code, answer.json()


class Urllib3:
    """urllib3: a pool of connections."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/send-email"
        self._pool = import_module("urllib3").PoolManager(maxsize=8)

    def post(self, body: bytes, headers: dict[str, str], *, chunked: bool = False) -> tuple[int, Any]:
        answer = self._pool.request(
            "POST",
            self._url,
            body=pieces(body) if chunked else body,
            headers=headers,
            retries=False,
            timeout=120,
        )
        return answer.status, answer.json()


class Httpx:
    """httpx: a client."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/send-email"
        self._client = import_module("httpx").Client(timeout=120, trust_env=False)

    def post(self, body: bytes, headers: dict[str, str], *, chunked: bool = False) -> tuple[int, Any]:
        answer = self._client.post(self._url, content=pieces(body) if chunked else body, headers=headers)
        return answer.status_code, answer.json()


class Aiohttp:
    """aiohttp: a session, on a loop of its own for each call of a thread."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/send-email"
        self._loop = asyncio.new_event_loop()
        self._session: Any = None

    def post(self, body: bytes, headers: dict[str, str], *, chunked: bool = False) -> tuple[int, Any]:
        return self._loop.run_until_complete(self._post(body, headers, chunked))

    async def _post(self, body: bytes, headers: dict[str, str], chunked: bool) -> tuple[int, Any]:
        if self._session is None:
            self._session = import_module("aiohttp").ClientSession()

        async def generated() -> Any:
            for piece in pieces(body):
                yield piece

        data = generated() if chunked else body
        async with self._session.post(self._url, data=data, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)


LIBRARIES = {
    "http.client": HttpClient,
    "requests": Requests,
    "urllib3": Urllib3,
    "httpx": Httpx,
    "aiohttp": Aiohttp,
}


def run(library: Any, url: str, key: str) -> dict[str, Any]:
    """Go through all cases; what a client raises is the result of its case."""
    headers = {"Content-Type": "application/json"}

    def mail(**fields: Any) -> bytes:
        document = {"subject": "s", "recipient": "you@postroom.example", "body": "b", "key": key}
        return json.dumps(document | fields).encode()

    def attempt(client: Any, body: bytes, more: dict[str, str] | None = None, **options: Any) -> Any:
        try:
            return client.post(body, headers | (more or {}), **options)[0]
        except Exception as error:
            return repr(error)

    def in_turn(*bodies: bytes) -> list[Any]:
        client = library(url)
        return [attempt(client, body) for body in bodies]

    def alone(_: int) -> list[Any]:
        return in_turn(*[mail()] * 10)

    def replayed() -> Any:
        client, again = library(url), {"Idempotency-Key": str(uuid.uuid4())}
        first, second = (client.post(mail(), headers | again) for _ in range(2))
        return [first[0], second[0], first[1] == second[1]]

    with ThreadPoolExecutor(8) as pool:
        parallel = sorted({status for statuses in pool.map(alone, range(8)) for status in statuses}, key=str)
    return {
        "post": in_turn(mail()),
        "large": in_turn(mail(body="x" * TEXT)),
        "chunked": [attempt(library(url), mail(body="x" * 100_000), chunked=True)],
        "parallel": parallel,
        "replay": replayed(),
        "401": in_turn(mail(key="wrong"), mail()),
        "422": in_turn(mail(recipient="nobody"), mail()),
        "413": in_turn(b" " * TOO_LARGE, mail()),
    }


if __name__ == "__main__":
    print(json.dumps(run(LIBRARIES[sys.argv[1]], *sys.argv[2:4])))
