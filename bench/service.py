"""A whole service under the scenarios of clients that misbehave: its accounts, its processes' memory, and its posts."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.drain import sink
from bench.load import LoadError
from bench.processes import PROC, Program, free_port, running
from bench.systems import RATE_LIMIT, environment

MIB = 1024 * 1024
_PARTS = ("web", "worker")
_ANSWER_WITHIN_S = 70.0
_SETTLED_S = 0.5
_LITTLE = 0.15  # of a core
_POSTS = 20  # posts over one connection: others are taken from the same listener as those of an attack


def key_of(number: int) -> str:
    return f"bench-{number:026d}"


@dataclass(frozen=True, slots=True)
class Held:
    """Resident memory of a part of the service in MiB, and the most since it was last asked to forget."""

    now: float
    peak: float


@dataclass(frozen=True, slots=True)
class Service:
    """`postroom serve` before a sink."""

    program: Program
    port: int
    folder: Path

    def pids(self) -> dict[str, list[int]]:
        """Return the processes of web and worker."""
        found: dict[str, list[int]] = {part: [] for part in _PARTS}
        for process in self.program.tree():
            part = next((part for part in _PARTS if process.command.split()[-1:] == [part]), None)
            if part is not None:
                found[part].append(process.pid)
        return found

    def memory(self) -> dict[str, Held]:
        """Return what the largest process of each part holds."""
        return {
            part: max((_held(pid) for pid in pids), key=lambda held: held.peak, default=Held(0, 0))
            for part, pids in self.pids().items()
        }

    def settle(self, within_s: float = 10.0) -> None:
        """Wait until the service has little to do: what a beginning costs is not what is measured."""
        deadline = time.monotonic() + within_s
        before = self.program.cpu()
        while time.monotonic() < deadline:
            time.sleep(_SETTLED_S)
            now = self.program.cpu()
            if now - before < _SETTLED_S * _LITTLE:
                return
            before = now

    def forget_peaks(self) -> None:
        for pid in itertools.chain(*self.pids().values()):
            with contextlib.suppress(OSError):
                (PROC / str(pid) / "clear_refs").write_text("5")


def _held(pid: int) -> Held:
    sizes = {"VmRSS": 0.0, "VmHWM": 0.0}
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0]) / 1024
    return Held(sizes["VmRSS"], sizes["VmHWM"])


@contextmanager
def serving(folder: Path, keys: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Run a service with so many accounts, whose messages a sink takes."""
    folder.mkdir(parents=True)
    with sink(folder) as server_port:
        rows = [
            f"{key_of(each)},bench{each}@example.com,abcdefghijklmnop,127.0.0.1,{server_port},none"
            for each in range(keys)
        ]
        accounts = folder / "data.csv"
        accounts.write_text("\n".join(["key,email,app_password,host,port,security", *rows]) + "\n")
        port = free_port()
        variables = {
            **environment(),
            "PORT": str(port),
            "POSTROOM_RATE_LIMIT": RATE_LIMIT,
            "POSTROOM_STOP_DELAY": "0",
            **(settings or {}),
        }
        command = [sys.executable, "-m", "postroom", "serve"]
        with running(command, folder, variables) as program:
            program.wait_listening(port)
            yield Service(program, port, folder)


@dataclass(slots=True)
class Answers:
    """What posts were answered with, and after how many milliseconds."""

    milliseconds: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)  # or the name of the error that there was instead

    def note(self, began: float, status: str) -> None:
        self.milliseconds.append((time.perf_counter() - began) * 1000)
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def percentile(self, percent: float) -> float:
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")

    @property
    def bad(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != "202")


Body = bytes | Callable[[], Iterator[bytes]]


def document(key: str, size: int) -> bytes:
    """Return a request of about so many octets."""
    line = "All the world's a stage, and all the men and women merely players.\n"
    text = (line * (size // len(line) + 1))[:size]
    return json.dumps({"subject": "s", "recipient": "ada@example.org", "body": text, "key": key}).encode()


def chunked(octets: bytes, piece: int = 4096) -> Callable[[], Iterator[bytes]]:
    return lambda: (octets[at : at + piece] for at in range(0, len(octets), piece))


class Poster(threading.Thread):
    """A client that posts one document after another until it is told to end, with a pause between them."""

    def __init__(self, port: int, body: Body, *, pause_s: float = 0.0, key: str | None = None) -> None:
        super().__init__(daemon=True)
        self.answers = Answers()
        self._port = port
        self._body = body
        self._pause_s = pause_s
        self._headers = {
            "Content-Type": "application/json",
            **({"X-API-Key": key} if key is not None else {}),
        }
        self._is_over = threading.Event()

    def end(self) -> None:
        self._is_over.set()

    def run(self) -> None:
        while not self._is_over.is_set():
            client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_WITHIN_S)
            try:
                for _ in range(_POSTS):
                    if self._is_over.is_set() or not self._post(client):
                        break
                    self._is_over.wait(self._pause_s)
            finally:
                client.close()

    def _post(self, client: http.client.HTTPConnection) -> bool:
        """Post once; return whether the connection can be used again."""
        body = self._body if isinstance(self._body, bytes) else self._body()
        began = time.perf_counter()
        try:
            client.request(
                "POST", "/send-email", body, self._headers, encode_chunked=not isinstance(body, bytes)
            )
            answer = client.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.answers.note(began, type(error).__name__)
            return False
        self.answers.note(began, str(answer.status))
        return not answer.will_close


def post_one_by_one(service: Service, body: bytes, count: int) -> None:
    """Post so many. Raises LoadError unless each is accepted."""
    client = http.client.HTTPConnection("127.0.0.1", service.port, timeout=_ANSWER_WITHIN_S)
    try:
        for _ in range(count):
            client.request("POST", "/send-email", body, {"Content-Type": "application/json"})
            answer = client.getresponse()
            if (text := answer.read()) and answer.status != 202:
                raise LoadError(f"refused with {answer.status}: {text[:1000]!r}\n{service.program.output()}")
    finally:
        client.close()


def post_for(seconds: float, posters: Sequence[Poster]) -> list[Answers]:
    """Let clients post side by side for so long; return what each was answered."""
    with posting(posters):
        time.sleep(seconds)
    return [poster.answers for poster in posters]


@contextmanager
def posting(posters: Sequence[Poster]) -> Iterator[None]:
    """Let clients post for the length of a `with` block."""
    for poster in posters:
        poster.start()
    try:
        yield
    finally:
        for poster in posters:
            poster.end()
        for poster in posters:
            poster.join(_ANSWER_WITHIN_S)
