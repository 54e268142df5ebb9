"""HTTP clients as people use them: each goes through the same cases and tells what it saw.

A case is a list of what the client saw on one connection, in turn; `parallel` the set of what eight of them saw.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.peers import fetch
from tests.servers.programs import PATH, require

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
    cannot: frozenset[str] = frozenset()  # cases of which it is not capable

    @property
    def expected(self) -> dict[str, Any]:
        """What it has to see."""
        return {case: seen for case, seen in EXPECTED.items() if case not in self.cannot}


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


class _EachAlone(ABC):
    """A program that makes one request a command: a connection for each."""

    def __init__(self, url: str, key: str, folder: Path) -> None:
        self._url, self._key, self._folder = f"{url}/send-email", key, folder

    def post(self, body: str, *headers: str, chunked: bool = False) -> tuple[Any, str]:
        """Return the status, or what the program says instead, and the answer's body."""
        path = self._folder / f"body-{uuid.uuid4()}"
        path.write_text(body, encoding="utf-8")
        words, environment = self.command(path, ["Content-Type: application/json", *headers], chunked=chunked)
        done = subprocess.run(
            words,
            env={**os.environ, "HOME": str(self._folder), **environment},
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        status = re.search(r"HTTP/1\.1 (\d{3})", done.stdout + done.stderr)
        body = done.stdout.rpartition("\n\n")[2]
        return (int(status[1]) if status else done.stderr), body

    @abstractmethod
    def command(
        self, path: Path, headers: Sequence[str], *, chunked: bool
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the program's words, and what they need in the environment."""

    def in_turn(self, *bodies: str) -> list[Any]:
        return [self.post(body)[0] for body in bodies]

    def see(self) -> dict[str, Any]:
        mail, again = _mail(self._key), f"Idempotency-Key: {uuid.uuid4()}"
        first, second = self.post(mail, again), self.post(mail, again)
        with ThreadPoolExecutor(8) as pool:
            together = {status for status, _ in pool.map(self.post, [mail] * 24)}
        return {
            "post": self.in_turn(mail),
            "large": self.in_turn(_mail(self._key, body="x" * 5_000_000)),
            "chunked": [self.post(_mail(self._key, body="x" * 100_000), chunked=True)[0]],
            "parallel": sorted(together, key=str),
            "replay": [first[0], second[0], first[1] == second[1]],
            "401": self.in_turn(_mail("wrong"), mail),
            "422": self.in_turn(_mail(self._key, recipient="nobody"), mail),
            "413": self.in_turn(" " * TOO_LARGE, mail),
        }


class _Wget(_EachAlone):
    """GNU wget. It sends no body in chunks."""

    def command(
        self, path: Path, headers: Sequence[str], *, chunked: bool
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        options = [
            "--quiet",
            "--server-response",
            "--tries=1",
            "--timeout=120",
            "--content-on-error",
            "-O",
            "-",
        ]
        options += [f"--header={header}" for header in headers]
        return [*require("wget"), *options, f"--post-file={path}", self._url], {}


class _Httpie(_EachAlone):
    """HTTPie."""

    def command(
        self, path: Path, headers: Sequence[str], *, chunked: bool
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        options = ["--ignore-stdin", "--print=hb", "--pretty=none", *(["--chunked"] if chunked else [])]
        words = [sys.executable, "-m", "httpie", *options, "POST", self._url, *headers, f"@{path}"]
        return words, {"PYTHONPATH": str(fetch.pypi(REQUIREMENTS))}


def _alone(name: str, program: type[_EachAlone], *cannot: str) -> Client:
    def see(url: str, key: str, folder: Path) -> dict[str, Any]:
        found = program(url, key, folder).see()
        return {case: seen for case, seen in found.items() if case not in cannot}

    return Client(name, see, cannot=frozenset(cannot))


def _language(name: str, command: Callable[[Path], tuple[Sequence[str], Mapping[str, str]]]) -> Client:
    """A client in another language: `command` returns how to run its program, and in which environment."""

    def see(url: str, key: str, folder: Path) -> dict[str, Any]:
        words, environment = command(folder)
        found: dict[str, Any] = _output([*words, url, key], **environment)
        return found

    return Client(name, see)


def _perl(folder: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    return [*require("perl"), str(HERE / "client.pl")], {}  # each Debian has it, for itself


def _java(folder: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    if shutil.which("java", path=PATH) is not None:
        return [*require("java"), str(HERE / "Client.java")], {}
    tree = fetch.debian("java", "openjdk-17-jdk-headless", "openjdk-17-jre-headless")
    home = tree / "usr/lib/jvm/java-17-openjdk-amd64"
    return [str(home / "bin/java"), str(HERE / "Client.java")], _libraries(tree)


def _ruby(folder: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    tree = fetch.debian("ruby", "ruby3.1", "libruby3.1")
    library = tree / "usr/lib"
    places = (
        library / "ruby/3.1.0",
        library / "x86_64-linux-gnu/ruby/3.1.0",
        library / "ruby/vendor_ruby",
    )
    environment = {"RUBYLIB": ":".join(map(str, places)), **_libraries(tree)}
    return [str(tree / "usr/bin/ruby3.1"), str(HERE / "client.rb")], environment


def _php(folder: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    tree = fetch.debian("php", "php8.2-cli", "php8.2-curl", "php8.2-common")
    (extensions,) = (tree / "usr/lib/php").glob("2*")
    settings = ("memory_limit=-1", f"extension_dir={extensions}", "extension=curl")
    options = [word for setting in settings for word in ("-d", setting)]
    return [str(tree / "usr/bin/php8.2"), "-n", *options, str(HERE / "client.php")], _libraries(tree)


def _go(folder: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    root = fetch.debian("go", "golang-1.19-go", "golang-1.19-src") / "usr/lib/go-1.19"
    cache = fetch.CACHE / "go-build"
    environment = {"GOROOT": str(root), "GOCACHE": str(cache), "GO111MODULE": "off", "CGO_ENABLED": "0"}
    return [str(root / "bin/go"), "run", str(HERE / "client.go")], environment


def _libraries(tree: Path) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": str(tree / "usr/lib/x86_64-linux-gnu")}


CLIENTS = [
    Client("curl", lambda url, key, folder: _Curl(url, key, folder).see(), quick=True),
    *[_python(library) for library in ("http.client", "requests", "urllib3", "httpx", "aiohttp")],
    *[_node(library) for library in ("http", "fetch", "undici", "got", "axios")],
    _alone("wget", _Wget, "chunked"),
    _alone("HTTPie", _Httpie),
    _language("PHP curl", _php),
    _language("Ruby Net::HTTP", _ruby),
    _language("Perl HTTP::Tiny", _perl),
    _language("Java HttpClient", _java),
    _language("Go net/http", _go),
]
