"""What ends a web process that is just being forked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from postroom.runtime.supervisor import described_end


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (1, "ended with status 1"),
        (-9, "SIGKILL"),
        (-11, "was ended by SIGSEGV"),
        (-200, "was ended by signal 200"),
    ],
)
def test_an_end_is_described(status: int, said: str) -> None:
    assert said in described_end(status)


LIMIT = """
import resource
from postroom.core.descriptors import raise_descriptor_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
raise_descriptor_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard), resource.getrlimit(resource.RLIMIT_NOFILE)
"""


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    ended = subprocess.run([sys.executable, "-c", LIMIT], capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr.decode()


FORKS = """
import os, signal, time
from types import SimpleNamespace
from postroom.runtime.web_process import Stop, guard_forks

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # so that the parent goes on before the child begins
server = SimpleNamespace(interrupt_signal=False, signal_handler_interrupt=lambda *_: None)
stop = Stop(server, 0.5)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
guard_forks(server, stop)
for number in range(20):
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(9)
    os.kill(child, (signal.SIGTERM, signal.SIGINT)[number % 2])
    deadline = time.monotonic() + 20
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            raise SystemExit(f"child {number} did not heed the signal that it got while it was forked")
        time.sleep(0.001)
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
"""


def test_a_signal_that_comes_while_a_worker_is_forked_ends_it() -> None:
    ended = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr.decode()


INSISTS = """
import signal, time
from types import SimpleNamespace
from postroom.runtime.web_process import Stop

told = []
def worker(name, alive):
    return SimpleNamespace(is_alive=lambda: alive, terminate=lambda: told.append(name))

server = SimpleNamespace(
    signal_handler_interrupt=lambda *_: told.append("closed"), wrks=[worker("lives", True), worker("dead", False)]
)
stop = Stop(server, DELAY, insist_s=0.05)
signal.signal(signal.SIGTERM, stop)
signal.raise_signal(signal.SIGTERM)
deadline = time.monotonic() + 30
while told.count("lives") < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
signal.setitimer(signal.ITIMER_REAL, 0)
assert told[:3] == ["closed", "lives", "lives"] and "dead" not in told, told
"""


@pytest.mark.parametrize("delay", ["0", "0.1"])
def test_a_worker_that_has_lost_the_signal_to_stop_is_told_again(delay: str) -> None:
    program = INSISTS.replace("DELAY", delay)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
