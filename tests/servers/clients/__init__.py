"""HTTP clients as people use them: each goes through the same cases and tells what it saw.

A case is a list of what the client saw on one connection, in turn; `parallel` the set of what eight of them saw.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.peers import fetch
from tests.servers.programs import require

HERE = Path(__file__).parent
REQUIREMENTS = fetch.ROOT / "requirements" / "clients.txt"
EXPECTED = {
    "post": [202],
    "large": [202],
    "chunked": [202],
    "parallel": [202],
    "replay": [202, 202, True],
    "401": [401, 202],
    "422": [422, 202],
    "413": [413, 202],
}
TOO_LARGE = 60_000_000


@dataclass(frozen=True, slots=True)
class Client:
    """A client; `see(url, key, folder)` returns what it saw in each case."""

    name: str
    see: Callable[[str, str, Path], dict[str, Any]]
    quick: bool = False  # runs in `make test` too


def _output(command: Sequence[str], **environment: str) -> Any:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def _python(library: str) -> Client:
    def see(url: str, key: str, folder: Path) -> dict[str, Any]:
        program = str(HERE / "python_client.py")
        found: dict[str, Any] = _output(
            [sys.executable, program, library, url, key], PYTHONPATH=str(fetch.pypi(REQUIREMENTS))
        )
        return found

    return Client(library, see, quick=library == "httpx")


def _node(library: str) -> Client:
    def see(url: str, key: str, folder: Path) -> dict[str, Any]:
        built_in = library in ("http", "fetch")
        modules = "/nowhere" if built_in else str(fetch.npm(HERE / "npm"))
        found: dict[str, Any] = _output(
            [*require("node"), str(HERE / "node_client.mjs"), library, url, key],
            POSTROOM_NODE_MODULES=modules,
        )
        return found

    return Client(f"node {library}", see, quick=library in ("http", "fetch"))


def _mail(key: str, **fields: str) -> str:
    return json.dumps({"subject": "s", "recipient": "you@postroom.example", "body": "b", "key": key} | fields)


class _Curl:
    """curl: several requests of one command share a connection."""

    def __init__(self, url: str, key: str, folder: Path) -> None:
        self._url, self._key, self._folder = f"{url}/send-email", key, folder

    def ask(self, *bodies: str, options: Sequence[str] = ()) -> list[Any]:
        command = [*require("curl"), "--silent", "--show-error", "--max-time", "120"]
        for number, body in enumerate(bodies):
            path = self._folder / f"body-{uuid.uuid4()}"
            path.write_text(body, encoding="utf-8")
            command += ["--next"] if number else []
            command += ["-H", "Content-Type: application/json", "--data-binary", f"@{path}", *options]
            command += ["--write-out", "%{stderr}%{http_code} ", self._url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
        return [int(word) if word.isdigit() else word for word in done.stderr.split()]

    def see(self) -> dict[str, Any]:
        mail, again = _mail(self._key), ("-H", f"Idempotency-Key: {uuid.uuid4()}")
        return {
            "post": self.ask(mail),
            "large": self.ask(_mail(self._key, body="x" * 5_000_000)),
            "chunked": self.ask(
                _mail(self._key, body="x" * 100_000), options=("-H", "Transfer-Encoding: chunked")
            ),
            "parallel": sorted(set(self.ask(*[mail] * 80, options=("--parallel-max", "8"))), key=str),
            "replay": [*self.ask(mail, mail, options=again), True],
            "401": self.ask(_mail("wrong"), mail),
            "422": self.ask(_mail(self._key, recipient="nobody"), mail),
            "413": self.ask(" " * TOO_LARGE, mail),
        }


CLIENTS = [
    Client("curl", lambda url, key, folder: _Curl(url, key, folder).see(), quick=True),
    *[_python(library) for library in ("http.client", "requests", "urllib3", "httpx", "aiohttp")],
    *[_node(library) for library in ("http", "fetch", "undici", "got", "axios")],
]
