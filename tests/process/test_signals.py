"""Signals, Unix sockets, and children that cannot start: the service as terminals, systemd and proxies treat it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from postroom.runtime.supervisor import INBOX, Supervisor, _Child
from tests.servers.installation import KEY, ROOT, Client, Installation, account_rows, descendants
from tests.servers.programs import end, free_port
from tests.servers.sink import Sink
from tests.servers.systemd import Systemd
from tests.servers.waiting import eventually

MAIL = {"subject": "A subject", "recipient": "you@postroom.example", "body": "A body", "key": KEY}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def post(path: Path) -> int:
    client = UnixConnection(path)
    try:
        client.request("POST", "/send-email", json.dumps(MAIL), {"Content-Type": "application/json"})
        return client.getresponse().status
    finally:
        client.close()


def refuses_the_key(path: Path) -> bool:
    try:
        return post(path) == 401
    except (FileNotFoundError, ConnectionRefusedError):
        return False


class Serving:
    """`postroom WORDS` in a folder, without a TCP port that a test could ask."""

    def __init__(self, folder: Path, *words: str, **settings: str) -> None:
        (folder / "data.csv").write_text("\n".join(account_rows(9)) + "\n", encoding="utf-8")
        self.log = folder / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "postroom", *words],
                cwd=folder,
                env={**environment, "PYTHONPATH": str(ROOT), **settings},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def test_a_unix_socket_and_signals(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))  # as a service that was killed leaves it
    serving = Serving(tmp_path, "serve", HOST=f"unix:{path}")
    process = serving.process
    try:
        eventually(lambda: answers(path), 60, "serve to answer")
        assert post(path) == 202
        before = sorted(descendants(process.pid))
        for pid in (process.pid, *before):
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                os.kill(pid, number)
        assert post(path) == 202
        assert sorted(descendants(process.pid)) == before
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
        assert not path.exists()
    finally:
        end(process)
    log = serving.log.read_text()
    assert f", on unix:{path}" in log
    assert "Traceback" not in log
    assert "ended with status" not in log


def test_a_stop_turns_readiness_before_the_listener_closes(tmp_path: Path) -> None:
    """In all web processes, for new connections and old ones, while requests are still taken, and sent."""
    settings = {"WEB_CONCURRENCY": "2", "POSTROOM_DRAIN": "5m"}
    with Sink() as sink, Installation(tmp_path, account_rows(sink.port), **settings) as service:
        eventually(lambda: service.client.call("GET", "/readyz").status == 200, 60, "it to be ready")
        os.kill(service.pid, signal.SIGTERM)
        eventually(lambda: readiness(service.port) == (503, {"status": "stopping"}), 10, "it to say so")
        assert {readiness(service.port)[0] for _ in range(20)} == {503}
        assert service.client.call("GET", "/readyz").status == 503
        service.wait_for(service.send())
        port = service.port
        assert service.stop() == 0  # a second signal ends the drain
        assert not listens(port)
        lines = [line.partition(": ")[2] for line in service.log().splitlines()]
        assert [line for line in lines if line.startswith("stop")] == [
            "stopping",
            "stopping: 0 messages in hand",
        ]
        assert {line for line in lines if " stopped: " in line} == {
            f"{name} stopped: SIGTERM" for name in ("serve", "web", "worker")
        }


def readiness(port: int) -> tuple[int, object]:
    client = Client(port)
    try:
        answer = client.call("GET", "/readyz")
        return answer.status, answer.document
    finally:
        client.close()


def answers(path: Path) -> bool:
    try:
        return post(path) == 202
    except OSError:
        return False


@pytest.mark.parametrize("words", ["web", "worker"])
def test_sighup_ends_each_process_as_sigterm_does(tmp_path: Path, words: str) -> None:
    """Systemd hears when it is ready, which HTTP is when it listens, that it goes on, and that it ends."""
    installation = Installation(tmp_path, account_rows(9), HOST="localhost")
    installation.command("migrate")
    with Systemd() as systemd:
        serving = Serving(tmp_path, words, HOST="localhost", PORT=str(installation.port), **systemd.settings)
        _ends_at_sighup(serving, systemd, port=installation.port if words == "web" else None)


def _ends_at_sighup(serving: Serving, systemd: Systemd, port: int | None) -> None:
    process = serving.process
    try:
        assert systemd.hears("READY=1"), serving.log.read_text()
        assert port is None or listens(port)
        assert systemd.hears("WATCHDOG=1")
        eventually(lambda: catches(process.pid, signal.SIGHUP), 60, "its handlers")
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGHUP)
        assert systemd.hears("STOPPING=1")
        assert process.wait(60) == 0, serving.log.read_text()
    finally:
        end(process)


def catches(pid: int, number: signal.Signals) -> bool:
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_nohup_keeps_it(tmp_path: Path) -> None:
    """What is ignored already stays ignored, in granian's main process too."""
    installation = Installation(tmp_path, account_rows(9))
    installation.command("migrate")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        serving = Serving(tmp_path, "web", PORT=str(installation.port))
    finally:
        signal.signal(signal.SIGHUP, before)
    process = serving.process
    try:
        eventually(lambda: listens(installation.port), 60, "web to answer")
        process.send_signal(signal.SIGHUP)
        assert installation.post().status == 401  # no worker has read data.csv
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        installation.client.close()
        end(process)


def test_a_name_that_is_nobodys_ends_with_78(tmp_path: Path) -> None:
    serving = Serving(tmp_path, "serve", HOST="no-such-host.invalid", PORT=str(free_port()))
    try:
        assert serving.process.wait(60) == 78
    finally:
        end(serving.process)
    assert "HOST: cannot listen on no-such-host.invalid:" in serving.log.read_text()
    assert "Traceback" not in serving.log.read_text()


SUPERVISE = (
    "import sys; from postroom.runtime.supervisor import Supervisor;"
    " sys.exit(Supervisor([['child']], pause_s=0.001).run())"
)


TOLD = """
import pathlib, signal, sys, time
from postroom.core.heartbeat import report_ready
name, log = sys.argv[1], pathlib.Path("log")
def note(word):
    with log.open("a") as file:
        file.write(f"{name} {word}\\n")
def end(*_):
    note("told")
    if name == "worker":
        time.sleep(0.3)
        note("ended")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path(name).touch()
report_ready()
signal.pause()
"""
ORDER = """
import os, signal, threading, time
from pathlib import Path
from postroom.runtime.supervisor import INBOX, Supervisor, _Child
names = ("inbox", "worker", "web")
def stop():
    while not all(Path(name).exists() for name in names):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=stop, daemon=True).start()
Supervisor([["child", name] for name in names], drain_s=300.0).run()
"""


def test_the_inbox_is_known_by_the_module_that_serve_runs() -> None:
    assert [_Child(command.split()).is_inbox for command in (INBOX, "postroom worker", "postroom web")] == [
        True,
        False,
        False,
    ]


def test_http_is_told_first_and_the_inbox_when_the_worker_has_ended(tmp_path: Path) -> None:
    """Or the worker has no answer to a dot, and sends again. A web process that has ended makes the drain short."""
    supervise(tmp_path, TOLD, ORDER)
    assert (tmp_path / "log").read_text().splitlines() == [
        "web told",
        "worker told",
        "worker ended",
        "inbox told",
    ]


FAILING = """
import pathlib, sys, time
from postroom.core.heartbeat import report_ready
if sys.argv[1] == "inbox":
    with pathlib.Path("deaths").open("a") as file:
        file.write("x")
    sys.exit(HOW)
report_ready()
while not pathlib.Path("deaths").exists() or pathlib.Path("deaths").stat().st_size < 8:
    time.sleep(0.01)
sys.exit(78)
"""
BESIDE = """
import sys
from postroom.runtime.supervisor import INBOX, Supervisor, _Child
sys.exit(Supervisor([["child", name] for name in ("worker", "inbox")], pause_s=0.001, stays_up_within_s=0.0).run())
"""


@pytest.mark.parametrize("how", ["1", "78"])
def test_an_inbox_that_cannot_start_ends_nothing_else(tmp_path: Path, how: str) -> None:
    """The worker here ends with 78 when it has seen the inbox die eight times; five ends end the service else."""
    ended = supervise(tmp_path, FAILING.replace("HOW", how), BESIDE)
    assert ended.returncode == 78
    assert f"child inbox ended with status {how}; starting it again" in ended.stderr
    assert "(deaths since the start: 7)" in ended.stderr


NO_PYTHON = """
import os, sys, threading
from pathlib import Path
from postroom.runtime.supervisor import INBOX, Supervisor, _Child
python, sys.executable = sys.executable, "away/python"
started = []
start = Supervisor._start
def again(self, child):
    started.append(child)
    if len(started) > 3:
        sys.executable = python
    return start(self, child)
Supervisor._start = again
sys.exit(Supervisor([["child"]], pause_s=0.001).run())
"""


def test_a_python_that_is_away_for_a_moment_ends_nothing(tmp_path: Path) -> None:
    ended = supervise(tmp_path, "import sys; sys.exit(78)", NO_PYTHON)
    assert ended.returncode == 78
    assert ended.stderr.count("child cannot be started: away/python: No such file or directory") == 3
    assert "Traceback" not in ended.stderr


def test_the_pause_before_a_start_is_bounded_however_often_it_has_failed() -> None:
    supervisor = Supervisor([["child"]])
    [child] = supervisor._children
    pauses = []
    for child.failures in (0, 1, 10, 5000):
        pauses.append(supervisor._pause_of(child))
    assert pauses == [0.1, 0.2, 5.0, 5.0]
    for fd in (
        *child.pipe,
        supervisor._lifeline,
        supervisor._held,
        supervisor._wake_read,
        supervisor._wake_write,
    ):
        os.close(fd)


STANDING = """
import asyncio, ctypes, os, pathlib, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it must not outlive its supervisor, frozen as it is
from postroom.core.heartbeat import Pulse, report_ready
if pathlib.Path("before").exists():
    sys.exit(78)
pathlib.Path("before").touch()
stalled = []
def stop(how):
    if how == "frozen":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "loop":
        time.sleep(1e6)
    stalled.append(1e6)
async def main():
    loop = asyncio.get_running_loop()
    report_ready()
    Pulse(lambda: sum(stalled), every_s=0.02).start(loop)
    loop.call_later(0.1, stop, sys.argv[1])
    await asyncio.sleep(1e6)
asyncio.run(main())
"""
STILL = """
import sys
from postroom.runtime.supervisor import INBOX, Supervisor, _Child
sys.exit(Supervisor([["child", "HOW"]], pause_s=0.001, still_after_s=1.0).run())
"""


@pytest.mark.parametrize("how", ["frozen", "loop", "thread"])
def test_a_child_that_stands_still_is_killed_and_started_anew(tmp_path: Path, how: str) -> None:
    """Frozen, its event loop held up, or a thread of it that does not return. Here it ends with 78 the second time."""
    ended = supervise(tmp_path, STANDING, STILL.replace("HOW", how))
    assert ended.returncode == 78, ended.stderr
    assert re.search(r"process [0-9]+ has hung for 1 s; it is killed and started again", ended.stderr)
    assert f"child {how} was killed, since it hung; starting it again" in ended.stderr


UNSTEADY = """
import sys
from postroom.runtime.supervisor import INBOX, Supervisor, _Child
sys.exit(Supervisor([["child"]], pause_s=0.001, stays_up_within_s=1.0).run())
"""


def test_a_child_that_cannot_stay_up_ends_the_service_after_a_while(tmp_path: Path) -> None:
    """Though it is ready each time, and killed as the kernel does."""
    source = (
        "import os; from postroom.core.heartbeat import report_ready; report_ready(); os.kill(os.getpid(), 9)"
    )
    ended = supervise(tmp_path, source, UNSTEADY)
    assert ended.returncode == 75
    assert "child has not stayed up for" in ended.stderr
    assert "was killed by signal 9 (SIGKILL): out of memory?" in ended.stderr


NOTIFYING = """
import os, signal
from postroom.core.heartbeat import report_ready
assert "NOTIFY_SOCKET" not in os.environ and "WATCHDOG_USEC" not in os.environ
report_ready()
signal.pause()
"""


def test_systemd_hears_that_all_children_are_ready_and_well(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(NOTIFYING, encoding="utf-8")
    with Systemd() as systemd:
        process = subprocess.Popen(
            [sys.executable, "-m", "postroom.runtime.supervisor", "child web", "child worker"],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", **systemd.settings},
        )
        try:
            assert systemd.hears("READY=1")
            assert systemd.hears("WATCHDOG=1")
            process.terminate()
            assert systemd.hears("STOPPING=1")
            assert process.wait(60) == 0
        finally:
            end(process)


def supervise(tmp_path: Path, source: str, program: str = SUPERVISE) -> subprocess.CompletedProcess[str]:
    (tmp_path / "child.py").write_text(source, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_child_that_cannot_start_ends_the_service_with_78(tmp_path: Path) -> None:
    ended = supervise(tmp_path, "raise RuntimeError('it is broken')")
    assert ended.returncode == 78
    assert "child cannot start" in ended.stderr
    assert "with status 1" in ended.stderr
    assert ended.stderr.count("RuntimeError: it is broken") == 5


@pytest.mark.parametrize("how", ["ready", "75", "killed"])
def test_a_child_that_could_start_is_started_again(tmp_path: Path, how: str) -> None:
    """Seven times here; then it says 78 itself."""
    ends = {
        "ready": "report_ready(); sys.exit(1)",
        "75": "sys.exit(75)",
        "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    }
    ended = supervise(
        tmp_path,
        f"""
import os, pathlib, signal, sys
from postroom.core.heartbeat import report_ready
count = pathlib.Path("count")
count.write_text(count.read_text() + "x" if count.exists() else "x")
if len(count.read_text()) > 7:
    sys.exit(78)
{ends[how]}
""",
    )
    assert ended.returncode == 78
    assert len((tmp_path / "count").read_text()) == 8
    assert "cannot start" not in ended.stderr


def test_ctrl_c_on_a_web_process_alone_is_a_quiet_stop(tmp_path: Path) -> None:
    """A terminal sends it to all processes of its group, also to those that granian has forked."""
    path = tmp_path / "http.sock"
    settings = {"HOST": f"unix:{path}", "POSTROOM_DRAIN": "0"}
    migrate = Serving(tmp_path, "migrate", **settings)
    assert migrate.process.wait(60) == 0
    serving = Serving(tmp_path, "web", **settings)
    try:
        eventually(lambda: refuses_the_key(path), 60, "the web process to answer")
        os.killpg(serving.process.pid, signal.SIGINT)
        assert serving.process.wait(60) == 0
    finally:
        end(serving.process)
    assert "Unexpected exit" not in serving.log.read_text(encoding="utf-8")
    assert "ended with status" not in serving.log.read_text(encoding="utf-8")
