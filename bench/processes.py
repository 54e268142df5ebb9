"""The processes that are measured: starting them, reading their use of CPU and memory from /proc, ending them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_GRACE_S = 30.0
PROC = Path("/proc")


class StartError(Exception):
    """A program ended, or did not answer, before it could be measured."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as /proc shows it; the time of its start tells it from a later one with the same number."""

    pid: int
    parent: int
    started: int
    cpu: float  # seconds, of all its threads
    command: str


def _read(pid: int) -> Process | None:
    try:
        stat = (PROC / str(pid) / "stat").read_text()
        command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(
        pid, int(fields[1]), int(fields[19]), (int(fields[11]) + int(fields[12])) / _TICKS, command
    )


def tree(root: int) -> list[Process]:
    """Return a process and all its descendants."""
    found = [process for pid in _pids() if (process := _read(pid)) is not None]
    members = {root}
    while True:
        more = {process.pid for process in found if process.parent in members} - members
        if not more:
            return [process for process in found if process.pid in members]
        members |= more


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


@dataclass(frozen=True, slots=True)
class Memory:
    rss: int  # bytes; pages that processes share are counted in each
    pss: int  # bytes; shared pages are divided among those who share them


def memory(processes: Sequence[Process]) -> Memory:
    rss = pss = 0
    for process in processes:
        with contextlib.suppress(OSError):
            text = (PROC / str(process.pid) / "smaps_rollup").read_text()
            sizes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
            rss, pss = rss + sizes["Rss"] * 1024, pss + sizes["Pss"] * 1024
    return Memory(rss, pss)


def machine_busy() -> float:
    """Return the CPU seconds that all processes of the machine have used since it started."""
    fields = [int(field) for field in (PROC / "stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / _TICKS


class Program:
    """A program and its children, started in a folder with its output in a file there."""

    def __init__(self, command: Sequence[str], folder: Path, variables: Mapping[str, str], log: str) -> None:
        self._log = folder / log
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tree(self) -> list[Process]:
        return tree(self._process.pid)

    def cpu(self) -> float:
        """Return the CPU seconds of the whole tree."""
        return sum(process.cpu for process in self.tree())

    def wait_listening(self, port: int, seconds: float = 30.0) -> None:
        """Wait until the port takes connections. Raises StartError."""
        deadline = time.monotonic() + seconds
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise StartError(f"{self._process.args!r} does not answer:\n{self.output()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)

    def output(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def stop(self) -> float:
        """End the program and what it started, by force if need be; return how many seconds it took."""
        started = time.monotonic()
        members = self.tree()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        _end_survivors(members)
        self._process.wait()
        return time.monotonic() - started


def _end_survivors(members: Sequence[Process]) -> None:
    """Kill those of `members` that are still there and still the same processes."""
    for member in members:
        now = _read(member.pid)
        if now is not None and now.started == member.started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)


@contextmanager
def running(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], log: str = "output.txt"
) -> Iterator[Program]:
    """Run a program for the length of a `with` block."""
    program = Program(command, folder, variables, log)
    try:
        yield program
    finally:
        program.stop()


@contextmanager
def running_sink(
    command: Sequence[str], folder: Path, variables: Mapping[str, str]
) -> Iterator[tuple[int, int]]:
    """Run the SMTP sink, which prints its port; give its pid and port."""
    with (folder / "sink.txt").open("ab") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 30.0)
        line = process.stdout.readline().strip() if ready else b""
        if not line.isdigit():
            raise StartError(f"the sink did not start; see {folder / 'sink.txt'}")
        yield process.pid, int(line)
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
