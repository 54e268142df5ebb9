"""What wakes granian's main loop, and what ends a worker that is just being forked."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from postroom.serve import Interrupt


@pytest.mark.parametrize("stopping", [False, True])
def test_a_signal_to_stop_is_not_cleared_with_the_death_of_a_worker(stopping: bool) -> None:
    server: Any = SimpleNamespace(interrupt_signal=stopping)
    interrupt = Interrupt(server)
    interrupt.set()
    interrupt.clear()
    assert interrupt.is_set() is stopping


FORKS = """
import os, signal, time
from types import SimpleNamespace
from postroom.serve import Stop, guard_forks

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
