"""No query delays a post: what reads runs in threads of its own, and the loop that accepts messages goes on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import pytest

from postroom.core.api_key import ALL_MESSAGES, Sight
from postroom.core.message import MessageStatus
from postroom.runtime.installation import Service
from postroom.store.messages import Messages
from postroom.web.app import create_server
from postroom.web.rsgi import RSGIServer
from tests.http.test_let_go import NO_ID, Ask, Protocol, Scope, get, send

LONG_S = 60


async def ask(server: RSGIServer, what: Ask) -> int:
    protocol = Protocol(what.body)
    await server.__rsgi__(Scope(what), protocol)
    return protocol.status


def serve(service: Service, main: Callable[[RSGIServer], Awaitable[None]]) -> None:
    """Run `main` beside a server on this loop."""

    async def run() -> None:
        server = create_server(service.settings, service.store, service.vault)
        loop = asyncio.get_running_loop()
        server.__rsgi_init__(loop)
        try:
            await asyncio.wait_for(main(server), LONG_S)
        finally:
            server.__rsgi_del__(loop)

    asyncio.run(run())


@pytest.mark.parametrize("queries", [1, 20])
def test_posts_are_accepted_while_queries_run(
    service: Service, monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    """The queries end when the test says so: more of them than there are threads, and a post that has new keys to read."""
    began, may_end = threading.Event(), threading.Event()
    nice: list[int] = []

    def wait() -> int:
        nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        began.set()
        assert may_end.wait(LONG_S)
        return 1

    @wraps(Messages.status)
    def slow(self: Messages, request_id: str, sight: Sight = ALL_MESSAGES) -> MessageStatus | None:
        db: Any = self._tx.connection
        db.create_scalar_function("wait", wait)
        assert db.execute("SELECT wait()").fetchall() == [(1,)]
        return None

    monkeypatch.setattr(Messages, "status", slow)

    async def main(server: RSGIServer) -> None:
        reading = [asyncio.create_task(ask(server, get(404, NO_ID))) for _ in range(queries)]
        try:
            await asyncio.to_thread(began.wait, LONG_S)
            server._services.keys._checked = float("-inf")  # as half a second later
            assert await ask(server, Ask(202, send())) == 202
            assert not any(task.done() for task in reading)
        finally:
            may_end.set()
        assert await asyncio.gather(*reading) == [404] * queries

    serve(service, main)
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert set(nice) == {min(19, ours + 10)}, "those that accept messages come first"
