"""The load: keep-alive HTTP clients that post mails as fast as they are answered, and the wait for the sink.

The clients share two cores with what they measure, so they do little: the request is one format
operation, of the answer only the status and the length are read.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import uvloop

HOST = "127.0.0.1"
DOCUMENT_BYTES = 1024
_STALLED_S = 15.0  # a sink that counts nothing new for so long has been given all that it will get
_POLL_S = 0.004


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the load saw. `seconds` is from the first post to the last mail at the sink."""

    asked: int
    arrived: int
    seconds: float
    posting: float
    latencies: tuple[float, ...]  # sorted, in seconds

    @property
    def throughput(self) -> float:
        return self.arrived / self.seconds

    def latency(self, percent: float) -> float:
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))]


class LoadError(Exception):
    """The system under test did not do what every run needs of it."""


def request_template(key: str, port: int, size: int = DOCUMENT_BYTES) -> bytes:
    """Return a request whose JSON document has `size` octets, with one place for a seven-digit number."""
    line = "All the world's a stage, and all the men and women merely players.\n"
    document = {"subject": "Mail number %07d", "recipient": "ada@example.org", "body": "", "key": key}
    room = size - len(json.dumps(document)) - len("0000000") + len("%07d")
    body = line * (max(0, room - 1) // (len(json.dumps(line)) - 2))
    document["body"] = body + "x" * (room - len(json.dumps(body)) + 2)
    head = (
        f"POST /send-email HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {size}\r\n\r\n"
    )
    return (head + json.dumps(document)).encode()


class _Client(asyncio.Protocol):
    """One client: a request, its answer, the next request."""

    def __init__(self, template: bytes, numbers: Iterator[int], latencies: list[float]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] | None = None
        self._template = template
        self._numbers = numbers
        self._latencies = latencies
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._posted = 0.0
        self._answered = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._buffer = b""
        self._post()

    def _post(self) -> None:
        number = next(self._numbers, None)
        assert self._transport is not None
        if number is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._answered = False
        self._posted = time.perf_counter()
        self._transport.write(self._template % number)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        fields = head.lower()
        length = fields.find(b"content-length:")
        if length < 0:
            self._fail(f"an answer without Content-Length: {head!r}")
            return
        if len(rest) < int(fields[length + 15 :].partition(b"\r\n")[0]):
            return
        if head[9:12] != b"202":
            self._fail(f"refused: {self._buffer[:1000]!r}")
            return
        self._latencies.append(time.perf_counter() - self._posted)
        self._buffer = b""
        self._answered = True
        if not head.startswith(b"HTTP/1.0") and b"connection: close" not in fields:
            self._post()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done() and not self._answered:
            self._fail(f"the server closed the connection before its answer: {exc}")
        if self.closed is not None and not self.closed.done():
            self.closed.set_result(None)

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(reason))
        if self._transport is not None:
            self._transport.abort()


async def _run_client(client: _Client, port: int) -> None:
    """Keep one client going; a server that closes after each answer gets a new connection each time."""
    loop = asyncio.get_running_loop()
    while not client.done.done():
        client.closed = loop.create_future()
        await loop.create_connection(lambda: client, HOST, port)
        await client.closed
    client.done.result()


class _Counter:
    """A connection to the sink that asks for its count."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> _Counter:
        reader, writer = await asyncio.open_connection(HOST, port)
        await reader.readline()
        return cls(reader, writer)

    async def count(self) -> int:
        self._writer.write(b"COUNT\r\n")
        return int((await self._reader.readline()).split()[1])

    async def wait_for(self, count: int) -> tuple[int, float]:
        """Wait for so many mails; return how many came and when the last did."""
        seen, changed = -1, time.perf_counter()
        while seen < count and time.perf_counter() - changed < _STALLED_S:
            now = await self.count()
            if now != seen:
                seen, changed = now, time.perf_counter()
            await asyncio.sleep(_POLL_S)
        return seen, changed

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def _run(template: bytes, port: int, sink_port: int, count: int, clients: int, limit: float) -> Load:
    counter = await _Counter.open(sink_port)
    before = await counter.count()
    latencies: list[float] = []
    numbers = iter(range(count))
    async with asyncio.timeout(limit):
        started = time.perf_counter()
        await asyncio.gather(
            *(_run_client(_Client(template, numbers, latencies), port) for _ in range(clients))
        )
        posted = time.perf_counter()
        arrived, ended = await counter.wait_for(before + count)
    await counter.close()
    return Load(count, arrived - before, ended - started, posted - started, tuple(sorted(latencies)))


def run_load(
    *,
    key: str,
    port: int,
    sink_port: int,
    count: int,
    clients: int,
    size: int = DOCUMENT_BYTES,
    limit: float = 300.0,
) -> Load:
    """Post `count` mails of `size` octets and wait until the sink has them, no longer than `limit` seconds.

    Raises LoadError unless every post is answered 202.
    """
    try:
        return uvloop.run(_run(request_template(key, port, size), port, sink_port, count, clients, limit))
    except TimeoutError as error:
        raise LoadError(f"{count} mails took longer than {limit:g} s") from error
