"""The processes that granian forks: what wakes its main loop, and who looks after them without a supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from postroom.runtime.forks import Interrupt
from postroom.runtime.supervisor import Steadiness
from tests.servers.systemd import Systemd


@pytest.mark.parametrize("stopping", [False, True])
def test_a_signal_to_stop_is_not_cleared_with_the_death_of_a_worker(stopping: bool) -> None:
    server: Any = SimpleNamespace(interrupt_signal=stopping, interrupt_children=[])
    interrupt = Interrupt(server)
    interrupt.set()
    interrupt.clear()
    assert interrupt.is_set() is stopping


def test_the_log_says_what_ended_a_web_process(caplog: pytest.LogCaptureFixture) -> None:
    processes = [
        SimpleNamespace(inner=SimpleNamespace(pid=pid, exitcode=end)) for pid, end in ((1, -9), (2, 75))
    ]
    server: Any = SimpleNamespace(interrupt_signal=False, interrupt_children=[], wrks=processes)
    interrupt = Interrupt(server)
    for index in 0, 1:
        server.interrupt_children.append(index)
        interrupt.set()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "was killed by signal 9 (SIGKILL): out of memory?" in said[0]
    assert "ended with status 75; starting another (deaths since the start: 2)" in said[1]


def test_web_processes_that_never_stay_up_end_the_one_that_starts_them(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    now = 0.0
    server: Any = SimpleNamespace(interrupt_signal=False, interrupt_children=[0], wrks=[])
    interrupt = Interrupt(server, Steadiness(600, clock=lambda: now))
    for death in range(8):
        now = 100.0 * death
        server.wrks = [SimpleNamespace(inner=SimpleNamespace(pid=death, exitcode=-9))]
        interrupt.set()
        assert interrupt.has_given_up is (death == 7)
    interrupt.set()
    assert signals == [(os.getpid(), signal.SIGTERM)]
    assert caplog.text.count("no web process has stayed up for 10 minutes") == 1


def test_while_a_server_is_away_web_processes_are_started_anew_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "kill", lambda pid, number: None)
    now = 0.0
    server: Any = SimpleNamespace(interrupt_signal=False, interrupt_children=[0], wrks=[])
    interrupt = Interrupt(server, Steadiness(600, clock=lambda: now))
    for death in range(20):
        now = 100.0 * death
        server.wrks = [SimpleNamespace(inner=SimpleNamespace(pid=death, exitcode=75))]
        interrupt.set()
    assert not interrupt.has_given_up


def test_web_processes_that_are_of_use_for_a_while_are_started_anew_for_ever() -> None:
    now = 0.0
    steadiness = Steadiness(600, clock=lambda: now)
    for death in range(100):
        now = 10.0 * death
        assert not steadiness.note_end(11.0 if death % 10 == 9 else 1.0)


KEEPING = """
import logging, os, signal, sys, time
from postroom.runtime.forks import Keeper
from postroom.core.heartbeat import beat, report_ready
logging.basicConfig()
Keeper(still_after_s=1.0).start()
frozen, lively = os.fork(), None
if frozen:
    lively = os.fork()
if frozen and lively:
    _, status = os.waitpid(frozen, 0)
    assert os.waitpid(lively, os.WNOHANG) == (0, 0)
    os.kill(lively, signal.SIGKILL)
    sys.exit(os.waitstatus_to_exitcode(status) % 256)
report_ready()
while True:
    beat()
    if not frozen:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.1)
"""


def test_without_a_supervisor_a_web_process_that_stands_still_is_killed() -> None:
    """Though another goes on; and only the first process speaks to systemd."""
    with Systemd() as systemd:
        ended = subprocess.run(
            [sys.executable, "-c", KEEPING],
            env={**os.environ, **systemd.settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL % 256, ended.stderr
        assert "has hung for 1 s; it is killed and started again" in ended.stderr
        assert systemd.hears("READY=1")
        assert systemd.hears("WATCHDOG=1")
