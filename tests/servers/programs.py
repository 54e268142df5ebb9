"""Programs of the machine: finding them, giving them a port, starting and ending them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn, Protocol, Self

from tests.servers import logs
from tests.servers.waiting import POLL

PACKAGES = {
    "postfix": "postfix",
    "dovecot": "dovecot-core",
    "redis-server": "redis-server",
    "memcached": "memcached",
    "pgbouncer": "pgbouncer",
    "node": "nodejs",
    "promtool": "prometheus",
}
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
# Below Linux' range for outgoing connections (32768 and up), so that no client takes a port between our look and its use.
PORTS = range(12000, 32000)
_given: deque[int] = deque(maxlen=200)


WANTING = "not available here:"  # begins the reason of each test that is skipped for want of a server


class StartupError(AssertionError):
    """A server ended, or did not answer in time, while it was started."""


def unavailable(reason: str) -> NoReturn:
    """Skip the test; where the servers are promised (CI, POSTROOM_REQUIRE_SERVERS=1), fail it instead."""
    reason = f"{WANTING} {reason}"
    import pytest  # which the servers in processes of their own do without

    if os.environ.get("CI") or os.environ.get("POSTROOM_REQUIRE_SERVERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require(*programs: str) -> list[str]:
    """Return the paths of `programs`; a missing one skips or fails the test, naming its Debian package."""
    found = {program: shutil.which(program, path=PATH) for program in programs}
    missing = sorted(PACKAGES.get(program, program) for program, path in found.items() if path is None)
    if missing:
        packages = " ".join(missing)
        unavailable(
            f"Debian package missing: {packages} (apt-get install {packages}, or tools/debian-packages.sh)"
        )
    return [path for path in found.values() if path is not None]


def own_ports() -> range:
    """Return those of PORTS that no other worker of xdist may take, not even while a server of ours is down."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = max(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), number + 1)
    size = len(PORTS) // count
    return PORTS[number * size : (number + 1) * size]


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on just now, and that was not given out lately."""
    ports = own_ports()
    for port in random.SystemRandom().sample(ports, min(len(ports), 400)):
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.append(port)
            return port
    raise StartupError("no free port found")


def answers(host: str, port: int, say: bytes, expect: bytes, timeout: float = 1.0) -> bool:
    """Return whether the server, told `say`, has `expect` in the first block that it answers."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            if say:
                connection.sendall(say)
            return expect in connection.recv(65536)
    except OSError:
        return False


class Process(Protocol):
    """A process of ours, started or forked."""

    pid: int
    stdout: IO[bytes] | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...


def end(process: Process, how: int = signal.SIGTERM, timeout: float = 10.0) -> int:
    """End a process of ours, forcibly when it takes too long, and return its exit status."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return status


def wait_ready(
    process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, timeout: float
) -> None:
    """Wait until `ready()`; raise StartupError with the log when the process ends first or time runs out."""
    deadline = time.monotonic() + timeout
    while not ready():
        status = process.poll()
        if status is not None or time.monotonic() >= deadline:
            text = log.read_text(errors="replace")[-3000:] if log.exists() else ""
            why = f"ended with {status}" if status is not None else f"not ready after {timeout:g} s"
            raise StartupError(f"{process.args!r} {why}\n{text}")
        time.sleep(POLL)


class Daemon:
    """A server in the foreground of a process of ours, on one port of 127.0.0.1, restartable there."""

    program: str
    host = "127.0.0.1"

    def __init__(self, timeout: float = 15.0) -> None:
        self.timeout = timeout
        self.port = 0
        self._program = require(self.program)[0]
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, folder: Path) -> list[str]:
        raise NotImplementedError

    def ready(self, pid: int) -> bool:
        """Return whether the process `pid`, and not somebody else's on the same port, answers."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start and wait until it answers; the first start picks a port, later ones use the same."""
        if self._process is not None:
            return
        if self.port:
            self._start()
            return
        for attempt in range(4):
            self.port = free_port()
            try:
                self._start()
            except StartupError:
                if attempt == 3:
                    raise
            else:
                return

    def _start(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{self.program}-"))
        log = self._folder / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [self._program, *self.command(self._folder)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        logs.watch(log)
        try:
            wait_ready(process, lambda: self.ready(process.pid), log, self.timeout)
        except BaseException:
            end(process, signal.SIGKILL)
            raise
        self._process = process

    def stop(self, how: int = signal.SIGKILL) -> None:
        """End it at once (it keeps nothing on the disk) and wait for its end."""
        if self._process is not None:
            end(self._process, how)
            self._process = None

    def pause(self) -> None:
        """Freeze it: connections are accepted by the kernel, nothing is answered."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._remove_folder()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
