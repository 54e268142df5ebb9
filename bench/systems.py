"""The systems under test, each started afresh in a folder of its own, and what one run of each gives."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.load import DOCUMENT_BYTES, Load, LoadError, run_load
from bench.processes import (
    Memory,
    Process,
    Program,
    free_port,
    machine_busy,
    memory,
    running,
    running_sink,
    tree,
)

ROOT = Path(__file__).resolve().parent.parent
KEY = "bench-0123456789abcdef0123456789"
RATE_LIMIT = "999999999/minute"
WARM_UP = 200
_OWN_VARIABLES = (
    "POSTROOM_",
    "NAIVE_",
    "DATABASE_URL",
    "HOST",
    "PORT",
    "WEB_CONCURRENCY",
    "RATELIMIT_",
    "REDIS_URL",
)
_SETTLE_S = 12.0  # longer than idle SMTP connections are kept
_IDLE_S = 10.0
_LOG_S = 20.0


@dataclass(frozen=True, slots=True)
class Idle:
    """A system that has nothing to do."""

    cpu: float  # share of one core
    memory: Memory
    processes: int


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one system. `cpu` is in seconds for each part, the load and the sink among them."""

    system: str
    load: Load
    cpu: Mapping[str, float]
    others: float  # cores that the rest of the machine used meanwhile
    memory: Memory
    logged: int  # lines of email_log.txt that say `sent`, the warm-up's apart
    idle: Idle | None = None

    def cost(self, part: str) -> float:
        """Return the CPU time of a part in microseconds a mail."""
        return self.cpu[part] / max(1, self.load.arrived) * 1e6


@dataclass(frozen=True, slots=True)
class System:
    """How to start something that answers POST /send-email in a folder with a data.csv."""

    name: str
    command: Callable[[int], list[str]]  # for an HTTP port
    variables: Callable[[int, int], dict[str, str]]  # for an HTTP port and the sink's


def postroom(web: int, settings: Mapping[str, str] | None = None) -> System:
    return System(
        "postroom" if web == 1 else f"postroom, {web} web processes",
        lambda port: [sys.executable, "-m", "postroom", "serve"],
        lambda port, sink: {
            "PORT": str(port),
            "WEB_CONCURRENCY": str(web),
            "POSTROOM_RATE_LIMIT": RATE_LIMIT,
            **(settings or {}),
        },
    )


def naive(server: str) -> System:
    return System(
        "naive",
        lambda port: [sys.executable, "-m", "bench.naive", "--port", str(port), "--server", server],
        lambda port, sink: {
            "NAIVE_SMTP_HOST": "127.0.0.1",
            "NAIVE_SMTP_PORT": str(sink),
            "NAIVE_RATE_LIMIT": RATE_LIMIT,
        },
    )


def measure(
    system: System,
    folder: Path,
    *,
    messages: int,
    clients: int,
    size: int = DOCUMENT_BYTES,
    idle: bool = False,
    during: Callable[[Program], None] | None = None,
    way: Callable[[int, Path], AbstractContextManager[int]] = lambda port, folder: nullcontext(port),
) -> Run:
    """Start sink and system, warm them up, load them, end them.

    `during` is told of the program first; `way` gives the port by which the system reaches the sink's.
    """
    folder.mkdir(parents=True)
    sink_command = [sys.executable, "-m", "tests.servers.sink", "--port", "0"]
    inherited = environment()
    with (
        running_sink(sink_command, folder, inherited) as (sink_pid, sink_port),
        way(sink_port, folder) as server_port,
    ):
        _write_accounts(folder, server_port)
        port = free_port()
        variables = {**inherited, **system.variables(port, server_port)}
        with running(system.command(port), folder, variables) as program:
            program.wait_listening(port)
            _warm_up(program, port, sink_port, clients)
            if during is not None:
                during(program)
            before, busy = _cpu(program, sink_pid), machine_busy()
            load = run_load(
                key=KEY, port=port, sink_port=sink_port, count=messages, clients=clients, size=size
            )
            after, busy = _cpu(program, sink_pid), machine_busy() - busy
            used = {part: after[part] - before.get(part, 0.0) for part in after}
            logged = _wait_for_log(folder / "email_log.txt", load.arrived + WARM_UP) - WARM_UP
            held = memory(program.tree())
            resting = _rest(program) if idle else None
    others = max(0.0, busy - sum(used.values())) / load.seconds
    return Run(system.name, load, used, others, held, logged, resting)


def _warm_up(program: Program, port: int, sink_port: int, clients: int) -> None:
    """Let the system work for a moment before it is measured. Raises LoadError unless all mails arrive."""
    load = run_load(key=KEY, port=port, sink_port=sink_port, count=WARM_UP, clients=clients)
    if load.arrived != WARM_UP:
        raise LoadError(f"{load.arrived} of the first {WARM_UP} mails arrived:\n{program.output()}")


def environment() -> dict[str, str]:
    """Return our environment without the settings of whoever runs the benchmark; our modules are found anywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
    return {**kept, "PYTHONPATH": str(ROOT)}


def _write_accounts(folder: Path, sink_port: int) -> None:
    (folder / "data.csv").write_text(
        "key,email,app_password,host,port,security\n"
        f"{KEY},bench@example.com,abcdefghijklmnop,127.0.0.1,{sink_port},none\n"
    )


def _cpu(program: Program, sink_pid: int) -> dict[str, float]:
    """Return the CPU seconds so far of every part, by name."""
    used = {"load": time.process_time()}
    members = program.tree()
    parents = {process.pid: process for process in members}
    for process in members:
        part = _part(process, parents, program.pid)
        used[part] = used.get(part, 0.0) + process.cpu
    used["sink"] = sum(process.cpu for process in tree(sink_pid))
    return used


def _part(process: Process, members: Mapping[int, Process], root: int) -> str:
    """Name the part of the system that a process belongs to, after the module or command that it runs."""
    while process.pid != root and process.parent != root and process.parent in members:
        process = members[process.parent]
    _, _, module, *arguments = process.command.split()  # PYTHON -m MODULE …
    return arguments[0] if module == "postroom" else module.rpartition(".")[2]


def _wait_for_log(path: Path, lines: int) -> int:
    """Wait until so many mails are logged as sent; return how many are when that, or the time, is over."""
    deadline = time.monotonic() + _LOG_S
    while True:
        text = path.read_text() if path.exists() else ""
        logged = text.count("Status: sent\n")
        if logged >= lines or time.monotonic() > deadline:
            return logged
        time.sleep(0.1)


def _rest(program: Program) -> Idle:
    time.sleep(_SETTLE_S)
    before, started = program.cpu(), time.monotonic()
    time.sleep(_IDLE_S)
    members = program.tree()
    share = (program.cpu() - before) / (time.monotonic() - started)
    return Idle(share, memory(members), len(members))
