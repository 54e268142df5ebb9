"""Under /v1 nothing of a stranger's body is read, also not by the server that granian calls."""

from __future__ import annotations

import asyncio
import json

import pytest

from postroom.runtime.installation import Service
from postroom.web.app import create_server
from postroom.web.rsgi import RSGIServer
from tests.http.admin import ACCOUNT, TOKEN, prepare
from tests.http.test_let_go import JSON, Ask, Protocol, Scope

BODY = json.dumps(ACCOUNT).encode()


class Unread(Protocol):
    """A body that is read by mistake, or after the answer only."""

    has_answered = False

    async def __call__(self) -> bytes:
        assert self.has_answered
        return await super().__call__()

    async def __anext__(self) -> bytes:
        assert self.has_answered
        return await super().__anext__()

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.has_answered = True
        super().response_bytes(status, headers, body)


async def ask(server: RSGIServer, protocol: Protocol, key: str | None, path: str, length: str) -> int:
    scope = Scope(Ask(0, BODY, dict(JSON)))
    scope.method, scope.path = "POST", path
    scope.headers["content-length"] = length
    if key is not None:
        scope.headers["authorization"] = f"Bearer {key}"
    await server.__rsgi__(scope, protocol)
    return protocol.status


def run(service: Service, protocol: Protocol, key: str | None, path: str, length: str) -> int:
    async def main() -> int:
        server = create_server(service.settings, service.store, service.vault)
        loop = asyncio.get_running_loop()
        server.__rsgi_init__(loop)
        try:
            return await ask(server, protocol, key, path, length)
        finally:
            server.__rsgi_del__(loop)

    prepare(service)
    return asyncio.run(main())


@pytest.mark.parametrize("length", [str(len(BODY)), "1000000"])
@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        (None, "/v1/accounts", 401),
        ("nobody", "/v1/accounts", 401),
        ("alice-key-0123456789", "/v1/accounts", 403),
        (TOKEN, "/v1/nothing", 404),
        (TOKEN, "/v1/audit", 405),
    ],
)
def test_a_body_is_not_read_before_the_key_was_checked(
    service: Service, key: str | None, path: str, status: int, length: str
) -> None:
    protocol = Unread(BODY)
    assert run(service, protocol, key, path, length) == status
    assert protocol.has_answered


def test_the_body_of_one_who_may_call_is_read(service: Service) -> None:
    assert run(service, Protocol(BODY), TOKEN, "/v1/accounts", str(len(BODY))) == 201
