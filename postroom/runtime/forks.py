"""Watches the processes that granian forks to serve HTTP: logs what ended each, and kills those that hang."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from postroom.core.heartbeat import WATCHDOG, hear_forks, heard, notify
from postroom.core.version import VersionWatch
from postroom.runtime.standstill import STILL_AFTER_S, Beats, look_every_s
from postroom.runtime.supervisor import EX_TEMPFAIL, Steadiness, described_end

if TYPE_CHECKING:
    from granian.server.common import AbstractServer

    GranianServer: TypeAlias = AbstractServer[Any]

log = logging.getLogger(__name__)


class Interrupt(threading.Event):
    """The event that wakes granian's main loop: a worker died, or a signal to stop came, which must not be lost with it.

    Granian starts another for each that dies, for ever. Where none stays up for long, this process ends with the
    others, so that the supervisor or systemd sees it.
    """

    def __init__(self, server: GranianServer, steadiness: Steadiness | None = None) -> None:
        super().__init__()
        self.has_given_up = False
        self._server = server
        self._steadiness = steadiness or Steadiness()
        self._dead: set[int] = set()
        self._since: dict[int, float] = {}  # when the latest process in each place began
        self._began = time.monotonic()

    def set(self) -> None:
        self._tell_deaths()
        super().set()

    def _tell_deaths(self) -> None:
        """Log what ended each web process that has died; granian does not."""
        for index in self._server.interrupt_children:
            process = self._server.wrks[index].inner
            if process.exitcode is not None and process.pid not in self._dead:
                self._dead.add(process.pid)
                log.error(
                    "a web process %s; starting another (deaths since the start: %d)",
                    described_end(process.exitcode),
                    len(self._dead),
                )
                self._judge(index, process.exitcode)

    def _judge(self, index: int, status: int) -> None:
        now = time.monotonic()
        lived = now - self._since.get(index, self._began)
        self._since[index] = now
        cannot_stay_up = self._steadiness.note_end(lived, excused=status == EX_TEMPFAIL)
        if cannot_stay_up and not self.has_given_up:
            self.has_given_up = True
            log.error(
                "no web process has stayed up for %.0f minutes; HTTP ends, so that its supervisor sees it",
                self._steadiness.within_s / 60,
            )
            os.kill(os.getpid(), signal.SIGTERM)

    def clear(self) -> None:
        super().clear()
        if self._server.interrupt_signal:
            self.set()


class Keeper:
    """Without a supervisor: kills a web process that hangs, and reports to systemd.

    Only this process speaks to systemd's watchdog, and only while it hears from web processes: one that works
    would hide another that hangs.
    """

    def __init__(self, *, still_after_s: float = STILL_AFTER_S) -> None:
        self._still_after_s = still_after_s
        self._look_s = look_every_s(still_after_s)
        self._beats = Beats(after_s=still_after_s)
        self._pipe = hear_forks()
        self._is_ready = False
        self._heard_at = time.monotonic()
        self._version = VersionWatch()

    def start(self) -> None:
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()

    def _keep(self) -> None:
        while True:
            select.select([self._pipe], [], [], self._look_s)
            self._look()
            if self._is_ready:
                time.sleep(self._look_s / 2)  # not every heartbeat has to wake it

    def _look(self) -> None:
        """Read their heartbeats, kill those that hang, and tell systemd that the others are ready and well."""
        for pid, is_ready in heard(self._pipe):
            self._beats.note(pid)
            self._heard_at = time.monotonic()
            if is_ready and not self._is_ready:
                self._is_ready = True
                notify("READY=1")
        for pid in self._beats.still():
            log.error(
                "web process %d has hung for %.0f s; it is killed and started again",
                pid,
                self._still_after_s,
            )
            self._beats.kill(pid, os.getsid(0))
        if WATCHDOG in os.environ and time.monotonic() - self._heard_at < 2 * self._still_after_s:
            notify("WATCHDOG=1")
        self._version.compare()
