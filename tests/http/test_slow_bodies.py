"""A client that does not send what it announced is told so, whatever the size: on granian itself."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from granian.constants import Interfaces
from granian.server.embed import Server

from postroom.accounts.vault import Vault
from postroom.settings import Settings
from postroom.store.store import Store, open_store
from postroom.web import refusals
from postroom.web.app import DOORWAYS, create_app
from postroom.web.loop import RequestLoop
from postroom.web.rsgi import RSGIServer
from tests.servers.programs import free_port

WITHIN_S = 0.3


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(f"sqlite:///{tmp_path / 'postroom.db'}")
    store.migrate()
    return store


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 40", "Content-Length: 100000", "Transfer-Encoding: chunked"],
    ids=["small", "large", "chunked"],
)
def test_a_body_that_stalls_is_given_up(store: Store, tmp_path: Path, framing: str) -> None:
    began = b'{"subject": "A' if "Length" in framing else b"4\r\n{   \r\n"
    head = f"POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    status, document = asyncio.run(_ask(_server(store, tmp_path), head.encode() + began))
    assert status == 408
    assert document["type"] == "urn:problem:postroom:request-timeout"


def test_a_body_that_comes_in_pieces_is_read(store: Store, tmp_path: Path) -> None:
    head = (
        b"POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    )
    status, document = asyncio.run(_ask(_server(store, tmp_path, 60), head + b"{", b"}"))
    assert (status, document["type"]) == (401, "urn:problem:postroom:not-authenticated")


def test_a_body_that_stalls_is_logged_within_the_bounds_of_all_refusals(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, refusals.__name__)
    server = _server(store, tmp_path)
    head = b"POST /send-email HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for length in 2, 2, 40, 2, 2, 40:
        status, _ = asyncio.run(_ask(server, head % length + b"{}"))
        assert status == (408 if length == 40 else 401)
    # The timers of other tests' servers may tell of their own requests meanwhile.
    lines = [record.getMessage() for record in caplog.records if " from 127.0.0.1" in record.getMessage()]
    assert [line.split()[1] for line in lines] == ["401", "401", "408", "401", "401"]


def _server(store: Store, folder: Path, within_s: float = WITHIN_S) -> RSGIServer:
    settings = Settings()
    app = create_app(settings, store, Vault.open(settings, folder))
    app.extensions["postroom"].refusals._period = 3600.0  # however long a busy machine takes
    return RSGIServer(app, DOORWAYS, RequestLoop(store), most_bytes=1_000_000, body_within_s=within_s)


async def _ask(server: RSGIServer, *parts: bytes) -> tuple[int, dict[str, str]]:
    """Serve the server, send the parts of one request with a pause between them, and return the answer."""
    server.__rsgi_init__(asyncio.get_running_loop())
    port = free_port()
    granian = Server(server, port=port, interface=Interfaces.RSGI, log_enabled=False)
    serving = asyncio.create_task(granian.serve())
    try:
        reader, writer = await _connected(port)
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.05)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode()
        length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
        body = await reader.readexactly(int(length.partition(":")[2]))
        writer.close()
    finally:
        granian.stop()  # type: ignore[no-untyped-call]
        await serving
    return int(head.split()[1]), json.loads(body)


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for _ in range(3000):
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
    raise AssertionError("granian does not listen")
