"""What the README gives people to paste: the snippets run as they stand, and what it says of browsers is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.clients import REQUIREMENTS
from tests.servers.installation import KEY, ROOT, Installation, account_rows
from tests.servers.peers import fetch
from tests.servers.programs import require

README = (ROOT / "README.md").read_text(encoding="utf-8")
_FLASK_CALLS = """
client = app.test_client()
for _ in range(2):
    print(client.post("/orders/7/confirm").json["request_id"])
"""
_NODE_CALLS = 'console.log(await send("you@example.com", "Order", "It is on its way.", "order-js"));\n' * 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation whose account's server is not there, so that everything stays queued."""
    with Installation(tmp_path_factory.mktemp("snippets"), account_rows(9)) as installation:
        yield installation


def run(
    service: Installation, command: list[str], key: str = KEY, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, "POSTROOM_KEY": key, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def snippet(language: str, service: Installation) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    assert found[1].count("http://127.0.0.1:5000/send-email") == 1
    return found[1].replace(":5000/", f":{service.port}/")


@pytest.mark.parametrize("language", ["python", "js"])
def test_a_snippet_sends_once_and_says_what_is_wrong(
    service: Installation, language: str, tmp_path: Path
) -> None:
    if language == "python":
        program, calls = [sys.executable, "shop.py"], _FLASK_CALLS
        environment = {"PYTHONPATH": str(fetch.pypi(REQUIREMENTS))}
    else:
        program, calls, environment = [*require("node"), "shop.mjs"], _NODE_CALLS, {}
    path = tmp_path / program[-1]
    path.write_text(snippet(language, service) + calls, encoding="utf-8")
    command = [*program[:-1], str(path)]
    done = run(service, command, **environment)
    assert done.returncode == 0, done
    first, again = done.stdout.split()
    assert first == again, "the Idempotency-Key is the same"
    assert service.status(first).startswith(("queued", "sending", "deferred"))
    refused = run(service, command, key="another", **environment)
    assert refused.returncode != 0
    assert re.search(r"Error: .*key", refused.stderr), refused


def test_a_page_of_another_origin_can_neither_send_nor_read(service: Installation) -> None:
    """No answer allows another origin, and what a browser sends without asking first is refused."""
    foreign = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    for method, path in (
        ("OPTIONS", "/send-email"),
        ("GET", "/email-status/x"),
        ("POST", "/send-email"),
        ("GET", "/"),
    ):
        url = f"http://127.0.0.1:{service.port}{path}"
        assert not [name for name in headers_of(url, method, foreign) if name.startswith("access-control")]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = service.client.call("POST", "/send-email", {"key": KEY}, {"Content-Type": kind})
        assert answer.status == 415


def headers_of(url: str, method: str, headers: dict[str, str]) -> list[str]:
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return [name.lower() for name in answer.headers]
    except urllib.error.HTTPError as error:
        with error:
            return [name.lower() for name in error.headers]
