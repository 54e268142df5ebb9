"""Who stands still, and who only seems to: on a machine that was suspended, overloaded, or under a debugger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from postroom.runtime.standstill import LOOK_S, STILL_AFTER_S, Beats


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def beats(clock: Clock) -> Iterator[Beats]:
    made = Beats(clock=clock)
    yield made
    made.clear()


def look(beats: Beats, clock: Clock, seconds: float) -> list[int]:
    """Look as often as the supervisor does, for so long; return who was found to stand still."""
    found = []
    for _ in range(round(seconds / LOOK_S)):
        clock.now += LOOK_S
        found += beats.still()
    return found


def test_one_that_is_silent_for_long_stands_still_and_is_named_once(beats: Beats, clock: Clock) -> None:
    beats.note(os.getpid())
    assert look(beats, clock, STILL_AFTER_S - LOOK_S) == []
    assert look(beats, clock, LOOK_S) == [os.getpid()]
    assert look(beats, clock, STILL_AFTER_S - LOOK_S) == []


def test_one_that_beats_late_on_a_busy_machine_goes_on(beats: Beats, clock: Clock) -> None:
    for _ in range(20):
        beats.note(os.getpid())
        assert look(beats, clock, STILL_AFTER_S - LOOK_S) == []


@pytest.mark.parametrize("away", [3 * LOOK_S, 3600.0, 1e7], ids=["overloaded", "an hour", "months"])
def test_while_we_were_away_ourselves_nobody_stood_still(beats: Beats, clock: Clock, away: float) -> None:
    """A machine that was suspended or frozen: whoever goes on has its full time again."""
    beats.note(os.getpid())
    look(beats, clock, STILL_AFTER_S - LOOK_S)
    clock.now += away
    assert beats.still() == []
    assert look(beats, clock, STILL_AFTER_S - LOOK_S) == []
    assert look(beats, clock, LOOK_S) == [os.getpid()]


def test_one_that_was_never_heard_of_is_not_judged(beats: Beats, clock: Clock) -> None:
    """It may be bringing a large database up to date."""
    assert look(beats, clock, 10 * STILL_AFTER_S) == []


TRACED = "import ctypes, signal; ctypes.CDLL(None).ptrace(0, 0, None, None); print('traced', flush=True); signal.pause()"


def test_one_under_a_debugger_is_left_alone_and_one_that_has_ended_forgotten(
    beats: Beats, clock: Clock
) -> None:
    with subprocess.Popen([sys.executable, "-c", TRACED], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"traced\n"
            beats.note(process.pid)
            assert look(beats, clock, 2 * STILL_AFTER_S) == []
        finally:
            process.kill()
            process.wait()
    assert look(beats, clock, 2 * STILL_AFTER_S) == []


def test_only_a_process_of_the_session_is_killed(beats: Beats) -> None:
    """The number of one that has ended may be another's."""
    assert _end_of_one(beats, its_session=False) == -signal.SIGTERM
    assert _end_of_one(beats, its_session=True) == -signal.SIGKILL


def _end_of_one(beats: Beats, *, its_session: bool) -> int:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        try:
            beats.note(process.pid)
            beats.kill(process.pid, process.pid if its_session else os.getsid(0))
            process.terminate()
            return process.wait(60)
        finally:
            process.kill()
