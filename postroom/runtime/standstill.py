"""Finds child processes that hang: no heartbeat for a long time, while this process was listening."""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from postroom.core.heartbeat import watchdog_s

STILL_AFTER_S: Final = 90.0  # eighteen heartbeats; a worker's lease ends after 60
LOOK_S: Final = 5.0
_WE_WERE_AWAY_S: Final = 2 * LOOK_S


def look_every_s(still_after_s: float) -> float:
    """Return how often to check the processes: often enough for a hang, and for systemd's watchdog."""
    return min(LOOK_S, still_after_s / 2, (watchdog_s() or math.inf) / 2)


class Beats:
    """The heartbeats of the processes of one child, which may have others below it, such as those that serve HTTP.

    A process is judged from its first heartbeat on. When this process itself has not run for a while, because the machine
    was suspended or overloaded, all get their full time again. The clock is monotonic.
    """

    def __init__(
        self, *, after_s: float = STILL_AFTER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._after_s = after_s
        self._clock = clock
        self._heard: dict[int, float] = {}
        self._handles: dict[int, int] = {}  # a pidfd each: its number may be another's tomorrow
        self._looked = clock()

    def note(self, pid: int) -> None:
        """Note a heartbeat of a process, which came just now."""
        if pid not in self._handles:
            try:
                self._handles[pid] = os.pidfd_open(pid)
            except (OSError, AttributeError):  # it has ended, or the system knows no such thing
                return
        self._heard[pid] = self._clock()

    def still(self) -> list[int]:
        """Return the processes that hang, and begin their time anew."""
        now = self._clock()
        if now - self._looked > _WE_WERE_AWAY_S:
            self._heard = dict.fromkeys(self._heard, now)
        self._looked = now
        late = [pid for pid, heard in self._heard.items() if now - heard >= self._after_s]
        for pid in [pid for pid in late if self._has_ended(pid)]:
            self._forget(pid)
        found = [pid for pid in late if pid in self._heard]
        self._heard.update(dict.fromkeys(found, now))
        return [pid for pid in found if not is_traced(pid)]

    def kill(self, pid: int, session: int) -> None:
        """End a process that was heard of, and no other that may have got its number since."""
        with suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                signal.pidfd_send_signal(self._handles[pid], signal.SIGKILL)

    def clear(self) -> None:
        """Forget all processes."""
        for pid in list(self._heard):
            self._forget(pid)

    def _has_ended(self, pid: int) -> bool:
        return bool(select.select([self._handles[pid]], [], [], 0)[0])

    def _forget(self, pid: int) -> None:
        del self._heard[pid]
        os.close(self._handles.pop(pid))


def is_traced(pid: int) -> bool:
    """Whether a debugger holds a process: then a person has stopped it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "\nTracerPid:\t0\n" not in status
