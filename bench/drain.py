"""Queues that are worked off: the time from the first mail at the sink to the last."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.fill import fill_folder, write_accounts
from bench.load import LoadError
from bench.processes import Program, StartError, running, running_sink
from bench.systems import environment

_POLL_S = 0.01
STALLED_S = 60.0


class Counter:
    """A connection to the sink that asks how many mails it has."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._replies = self._socket.makefile("rb")
        self._replies.readline()

    def count(self) -> int:
        self._socket.sendall(b"COUNT\r\n")
        return int(self._replies.readline().split()[1])

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Drain:
    """`arrived` mails came after the first look that saw any, within `seconds`."""

    arrived: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.arrived / self.seconds


def watch(port: int, count: int, each: Callable[[int], None] | None = None) -> Drain:
    """Wait until the sink has `count` mails. Raises LoadError when nothing new comes for a minute."""
    counter = Counter(port)
    seen = first = counter.count()
    changed = began = time.perf_counter()
    try:
        while seen < count:
            now = counter.count()
            if each is not None:
                each(now)
            if now != seen:
                changed = time.perf_counter()
                if seen == 0:
                    first, began = now, changed
                seen = now
            elif time.perf_counter() - changed > STALLED_S:
                raise LoadError(f"{seen} of {count} mails arrived, and no more for {STALLED_S:g} s")
            time.sleep(_POLL_S)
    finally:
        counter.close()
    if seen == first:
        raise LoadError(f"all {count} mails came between two looks: take more")
    return Drain(seen - first, changed - began)


@contextmanager
def sink(folder: Path, *, chunking: bool = False, refuse: bool = False) -> Iterator[int]:
    """Run a sink; give its port. One that refuses counts the recipients that it has refused."""
    command = [sys.executable, "-m", "tests.servers.sink", "--port", "0"]
    command += ["--chunking"] * chunking + ["--refuse"] * refuse
    with running_sink(command, folder, environment()) as (_, port):
        yield port


@contextmanager
def worker(
    folder: Path, database: Mapping[str, str] | None = None, name: str = "worker"
) -> Iterator[Program]:
    """Run Postroom's worker over the installation of this folder."""
    variables = {**environment(), **(database or {})}
    with running([sys.executable, "-m", "postroom", "worker"], folder, variables, f"{name}.txt") as program:
        yield program


@contextmanager
def workers(folder: Path, number: int, database: Mapping[str, str] | None = None) -> Iterator[list[Program]]:
    """Run so many workers over one installation."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(worker(folder, database, f"worker-{each}")) for each in range(number)]


def drain_postroom(
    folder: Path,
    count: int,
    sink_port: int,
    *,
    through: int | None = None,
    connections: int | None = None,
    number: int = 1,
) -> float:
    """Queue mails while no worker runs, start so many, return mails a second. `through` is a proxy's port."""
    write_accounts(folder, [through or sink_port], connections)
    fill_folder(folder, {1: count})
    with workers(folder, number) as programs:
        try:
            return watch(sink_port, count).rate
        except LoadError as error:
            said = "\n".join(program.output() for program in programs)
            raise StartError(f"{error}\n{said}") from error


def rss(pid: int) -> int:
    """Return the resident memory of a process in bytes, or 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
