"""Processes of Postroom, forked from one that has imported everything, instead of started anew.

Four imports were most of what a `postroom serve` cost, and all of what a command did. What is forked has the folder, the
environment, the descriptors, the session and the exit status of its own; from `postroom.cli.main.main` on nothing differs,
and `postroom serve` has its supervisor and that one's children, each a process. Which is which says /proc/PID/comm.
The start by `python -m postroom` itself is for the tests of the command line, and for `make soak`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Never

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = (
    "postroom.cli.main",
    "postroom.runtime.installation",
    "postroom.intake.accept",
    "postroom.inbox.server",
    "postroom.runtime.web_process",
    "postroom.runtime.supervisor",
    "postroom.store.move",
    "postroom.store.postgres.engine",
    "postroom.web.app",
    "postroom.worker.worker",
    "aiosmtpd.smtp",
    "dotenv",
    "granian.server",
    "granian._loops",
    "limits",
    "psycopg_pool",
    "rich.box",
    "rich.console",
    "rich.progress",
    "rich.table",
    "rich.text",
    "tests.servers.sink",
    "uvloop",
)
_STATUS_FD, _FIRST_FREE_FD, _MOST_FDS = 3, 4, 4096


# --- What the tests see


class ForkedProcess:
    """What `subprocess.Popen` is for a program; the helper waits for the process, and says how it ended."""

    def __init__(self, pid: int, ended: int, stdout: IO[bytes] | None = None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self._note()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status. Raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
            self._note()
        assert self.returncode is not None
        return self.returncode

    def _note(self) -> None:
        text = os.read(self._ended, 20)
        os.close(self._ended)
        self.returncode = int(text or b"-9")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, and its status is on the way to us
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forker:
    """The helper: a process that has imported what is to be forked. It ends with this one."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.forked", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(
        self,
        *words: str,
        cwd: Path,
        environment: Mapping[str, str],
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        strict: bool = False,
    ) -> ForkedProcess:
        """Start `python -m WORDS` in a session of its own; with `strict`, a warning is an error (`-W error`)."""
        text = json.dumps(
            {"words": words, "cwd": str(cwd), "environment": dict(environment), "strict": strict}
        ).encode()
        ended, note = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            fds = [null if stdin is None else stdin, 1 if stdout is None else stdout]
            fds += [2 if stderr is None else stderr, note]
            with self._mutex:
                self._control.settimeout(120)
                socket.send_fds(self._control, [b"%8d" % len(text)], fds)
                self._control.sendall(text)
                pid = int(self._control.recv(100))
        finally:
            os.close(note)
            os.close(null)
        return ForkedProcess(pid, ended)

    def run(
        self, *words: str, cwd: Path, environment: Mapping[str, str], stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `postroom WORDS` to its end, which must come within two minutes."""
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(stdin.encode())
            given.seek(0)
            streams = {"stdin": given.fileno(), "stdout": out.fileno(), "stderr": err.fileno()}
            process = self.start("postroom", *words, cwd=cwd, environment=environment, strict=True, **streams)
            try:
                status = process.wait(120)
            finally:
                process.kill()
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(list(words), status, out.read().decode(), err.read().decode())

    def close(self) -> None:
        self._control.close()
        self._process.wait()


@functools.cache
def forker() -> Forker:
    """Return the helper of this process of pytest."""
    made = Forker()
    atexit.register(made.close)
    return made


# --- The helper


class _Replaced(Exception):
    """A process would be replaced by another program (`os.execv`)."""


def main() -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    for engine in ("sqlite.connections", "postgres.session"):
        importlib.import_module(f"postroom.store.{engine}").load_queries()  # read once, not by each process
    gc.collect()
    gc.freeze()
    Helper(socket.socket(fileno=int(sys.argv[1]))).run()


class Helper:
    """Forks what is asked for, and reports each end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._notes: dict[int, int] = {}  # where the end of each process is to be written

    def run(self) -> None:
        sources: list[socket.socket | int] = [self._control, self._wake]
        while True:
            ready, _, _ = select.select(sources, [], [])
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._reap()
            if self._control in ready and not self._answer():
                return

    def _answer(self) -> bool:
        size, fds, _, _ = socket.recv_fds(self._control, 8, 4)
        if not size:
            return False
        request = json.loads(self._control.recv(int(size), socket.MSG_WAITALL))
        *streams, note = fds
        pid = self._fork(request, streams)
        self._notes[pid] = note
        for fd in streams:
            os.close(fd)
        self._control.sendall(b"%d" % pid)
        return True

    def _fork(self, request: dict[str, Any], streams: Sequence[int]) -> int:
        """Fork the program; one that replaces itself by the supervisor goes on as a second one."""
        if request["words"] != ["postroom", "serve"]:
            return fork(lambda: become(request, streams))
        successor, said = os.pipe()
        pid = fork(lambda: become(request, [*streams, said]))
        os.close(said)
        with open(successor, encoding="utf-8") as file:
            words = file.read()  # until it has ended
        if not words:
            return pid
        os.waitpid(pid, 0)
        return fork(lambda: become({**request, "words": json.loads(words)}, streams))

    def _reap(self) -> None:
        while self._notes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            note = self._notes.pop(pid)
            os.write(note, b"%d" % os.waitstatus_to_exitcode(status))
            os.close(note)


def fork(program: Callable[[], int]) -> int:
    """Return the pid of a process that runs `program`, with the handlers of signals that a new program has."""
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        status = program()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # to take all modules apart would cost more than most commands


def become(request: Mapping[str, Any], streams: Sequence[int]) -> int:
    """Be the program that is asked for, from its first line to its exit status."""
    os.setsid()
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
    os.closerange(len(streams), _MOST_FDS)
    os.chdir(request["cwd"])
    if request["strict"]:
        warnings.simplefilter("error")
    if len(streams) > _STATUS_FD:
        setattr(os, "execv", _be_replaced)  # noqa: B010 - no type that os knows
    return run(request["words"], request["environment"])


def _be_replaced(path: str, arguments: Sequence[str]) -> Never:
    os.write(_STATUS_FD, json.dumps(arguments[2:]).encode())
    sys.stdout.flush()
    os._exit(0)


def run(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run `python -m WORDS` here; return its exit status."""
    from postroom.core import failpoint

    os.environ.clear()
    os.environ.update(environment)
    os.environ["SSL_CERT_FILE"] = (
        os.devnull
    )  # no test trusts the machine's authorities, which take 20 ms to read
    Path("/proc/self/comm").write_text(" ".join(words)[:15], encoding="ascii")
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    failpoint.arm()
    module, *rest = words
    sys.argv = [module, *rest]
    sys.orig_argv = [sys.executable, "-m", *words]
    try:
        for folder in environment.get("PYTHONPATH", "").split(os.pathsep):
            if folder.startswith(f"{ROOT}/"):  # a fault of the tests' own, put in at the start
                runpy.run_path(f"{folder}/sitecustomize.py")
        start_of(module)()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def start_of(module: str) -> Callable[[], object]:
    """Return what `python -m MODULE` calls."""
    if module == "postroom":
        return importlib.import_module("postroom.cli.main").main  # type: ignore[no-any-return]
    main = importlib.import_module(module).main
    if module == "postroom.runtime.supervisor":
        replaced = SimpleNamespace(Popen=Child, TimeoutExpired=subprocess.TimeoutExpired, DEVNULL=None)
        sys.modules[module].subprocess = replaced  # type: ignore[attr-defined]
    if module == "postroom.inbox.server":
        return functools.partial(main, int(os.environ["POSTROOM_LIFELINE"]))
    return main  # type: ignore[no-any-return]


class Child:
    """A child of the supervisor's: `subprocess.Popen`, as far as that uses it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: None,
        pass_fds: Sequence[int],
        env: Mapping[str, str],
        start_new_session: bool,
    ) -> None:
        assert start_new_session
        self.returncode: int | None = None
        self.pid = fork(lambda: self._run(command[2:], env, pass_fds))

    @staticmethod
    def _run(words: Sequence[str], environment: Mapping[str, str], kept: Sequence[int]) -> int:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for fd in range(3, 64):
            if fd not in kept:
                os.closerange(fd, fd + 1)
        os.closerange(64, _MOST_FDS)
        for fd in kept:
            os.set_inheritable(fd, True)
        return run(words, environment)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 1e9) -> int:
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            time.sleep(0.002)
        return status

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


if __name__ == "__main__":
    from tests.servers import forked

    forked.main()  # not of `__main__`, whose names nobody else has
