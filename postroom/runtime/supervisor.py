"""The supervisor: starts the service's processes, restarts those that die or hang, and stops them in order."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from postroom.core.heartbeat import OF_SYSTEMD, READY, WATCHDOG, heard, notify
from postroom.core.lifeline import LIFELINE, ignore_stray_signals, stop_signals
from postroom.core.log_options import OPTIONS
from postroom.runtime.standstill import STILL_AFTER_S, Beats, look_every_s
from postroom.telemetry import service_log
from postroom.telemetry.lifecycle import Lifecycle

log = logging.getLogger("postroom.runtime.supervisor")

DRAIN = "--drain="  # in seconds
INBOX = "postroom.inbox.server"
LOG = "--log="  # LogOptions, which it hands to its children too
NOTIFIER = ("postroom", "notify", "run")
_GRACE_S = 20.0
_WORKER_GRACE_S = 700.0  # a server may take ten minutes to answer a final dot (RFC 5321 §4.5.3.2.6)
_PAUSE_S = 0.1
_SLOWEST_RESTART_S = 5.0
_DOUBLINGS = 16
_USABLE_FOR_S = 10.0
_STAYS_UP_WITHIN_S = 600.0
_GONE_WITHIN_S = 60.0  # after SIGKILL
EX_UNAVAILABLE = 69  # sysexits.h: the processes of a child do not stay up
EX_TEMPFAIL = 75
_EX_CONFIG = 78  # sysexits.h: starting again would not help
_FALSE_STARTS = 5  # of a process that was never ready, before the service gives up on it


class Steadiness:
    """Whether a process that is restarted again and again ever stays up for long enough to be of use."""

    def __init__(
        self, within_s: float = _STAYS_UP_WITHIN_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.within_s = within_s
        self._clock = clock
        self._since: float | None = None

    def note_end(self, lived_s: float, *, excused: bool = False) -> bool:
        """Note an end after so many seconds; return whether every life has been short for longer than `within_s`."""
        now = self._clock()
        if lived_s > _USABLE_FOR_S or excused:
            self._since = None
        elif self._since is None:
            self._since = now
        return self._since is not None and now - self._since > self.within_s


@dataclass(slots=True)
class _Child:
    """One process of the service, and when it may be started (again)."""

    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = field(default=0)
    start_at: float = 0.0
    false_starts: int = 0
    deaths: int = 0
    pipe: tuple[int, int] = field(default_factory=os.pipe)
    was_ready: bool = False
    beats: Beats = field(default_factory=Beats)
    killed_at: float | None = None
    steadiness: Steadiness = field(default_factory=Steadiness)

    def __post_init__(self) -> None:
        os.set_blocking(self.pipe[0], False)

    def hear(self) -> None:
        """Note the heartbeats of its processes."""
        for pid, is_ready in heard(self.pipe[0]):
            self.was_ready = self.was_ready or is_ready
            self.beats.note(pid)

    def kill(self, pid: int) -> None:
        """Kill one of its processes that hangs."""
        if self.process is None:
            return
        if pid == self.process.pid:
            self.killed_at = time.monotonic()
        self.beats.kill(pid, self.process.pid)  # which leads the session of all its processes

    @property
    def is_well(self) -> bool:
        """Whether it ends when it is killed: one that SIGKILL does not end cannot be helped here."""
        return self.killed_at is None or time.monotonic() - self.killed_at < _GONE_WITHIN_S

    def cannot_stay_up(self, status: int) -> bool:
        """Whether it has died again and again, each time soon, and not because a server is away."""
        if status == EX_UNAVAILABLE:
            return True
        lived = time.monotonic() - self.started
        return self.steadiness.note_end(lived, excused=status == EX_TEMPFAIL)

    def note_false_start(self, status: int) -> bool:
        """Count an end before it was ever ready; return whether it counts as unable to start."""
        if (
            not self.was_ready and status > 0 and status != EX_TEMPFAIL
        ):  # no signal, and no server that is away
            self.false_starts += 1
        return not self.was_ready and self.false_starts >= _FALSE_STARTS

    def grace_s(self, drain_s: float) -> float:
        """How long it may take to end: a worker ends by itself as soon as none of its jobs could be sent twice."""
        return _WORKER_GRACE_S if self.command[-1] == "worker" else drain_s + _GRACE_S

    @property
    def is_web(self) -> bool:
        return self.command[-1] == "web"

    @property
    def is_inbox(self) -> bool:
        return self.command[-1].endswith(("inbox", INBOX))

    @property
    def is_needed(self) -> bool:
        """Whether the service ends where it does not stay up: the inbox, for trying things out, and notices do not count."""
        return not self.is_inbox and tuple(self.command) != NOTIFIER

    @property
    def name(self) -> str:
        return " ".join(self.command)

    def tell_to_end(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def end(self, until: float) -> None:
        """Wait for its end; kill it when it still runs at `until`."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s did not end in time and was killed", self.name)
            self.process.kill()
            self.process.wait()


def _end_of(child: _Child, status: int) -> str:
    return "was killed, since it hung" if child.killed_at is not None else described_end(status)


def described_end(status: int) -> str:
    """Say how a process ended, by what `Popen.returncode` gives."""
    if status >= 0:
        return f"ended with status {status}"
    number = -status
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        return (
            "was killed by signal 9 (SIGKILL): out of memory? `dmesg` tells; or it hung, which a line before says; "
            "else somebody has killed it"
        )
    return f"was ended by {name}"


class Supervisor:
    """Starts the children (`python -m …` each), restarts those that die, and ends them all together.

    A child holds the reading end of a pipe, its lifeline, whose other end is here alone.
    When this process dies, however it dies, the pipe closes and the children end too.

    A stop has three steps. HTTP is told first: it answers for `drain_s` more, and the worker sends meanwhile. Then the
    worker is told, and last the inbox, which may be the server that the worker waits for. A second signal ends the drain.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        pause_s: float = _PAUSE_S,
        drain_s: float = 0.0,
        still_after_s: float = STILL_AFTER_S,
        stays_up_within_s: float = _STAYS_UP_WITHIN_S,
    ) -> None:
        self._drain_s = drain_s
        self._still_after_s = still_after_s
        self._look_s = look_every_s(still_after_s)
        self._is_ready = False
        self._pause_s = pause_s  # before the first start again; it doubles with each
        self._children = [
            _Child(command, beats=Beats(after_s=still_after_s), steadiness=Steadiness(stays_up_within_s))
            for command in commands
        ]
        self._lifeline, self._held = os.pipe()
        inherited = {name: value for name, value in os.environ.items() if name not in OF_SYSTEMD}
        self._environment = {**inherited, LIFELINE: str(self._lifeline)}
        self._wake_read, self._wake_write = os.pipe()
        self._times_told = 0
        self._drained_at: float | None = None
        self._is_over = False
        self._exit = 0
        self._life = Lifecycle("serve", is_running=True)

    def run(self) -> int:
        """Keep the children running until SIGTERM or SIGINT; return the exit status."""
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        ignore_stray_signals()
        for number in stop_signals():
            signal.signal(number, self._on_stop)
        while not self._is_over:
            self._start_what_is_due()
            self._sleep()
            self._reap()
            self._reap_adopted()
            self._look_after()
            if self._times_told:
                self._drain()
        self._end()
        self._life.stop()
        return self._exit

    def _on_stop(self, number: int, _: object) -> None:
        self._life.because_of_signal(number)
        self._times_told += 1

    def _drain(self) -> None:
        """After a signal to stop: tell HTTP, and note when all others may be told."""
        web = [child for child in self._children if child.is_web and child.process is not None]
        if self._drained_at is None:
            self._drained_at = time.monotonic() + self._drain_s
            log.info("stopping")
            notify("STOPPING=1")
            for child in web:
                child.tell_to_end()
        self._is_over = not web or self._times_told > 1 or time.monotonic() >= self._drained_at

    def _sleep(self) -> None:
        """Wait for a signal, a heartbeat, the next start, or the end of the drain."""
        now = time.monotonic()
        waiting = [now + self._look_s]
        waiting += [child.start_at for child in self._children if self._is_to_start(child)]
        if self._drained_at is not None:
            waiting.append(self._drained_at)
        pipes = [child.pipe[0] for child in self._children]
        ready, _, _ = select.select([self._wake_read, *pipes], [], [], max(0.0, min(waiting) - now))
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)

    def _look_after(self) -> None:
        """Read the heartbeats; kill children that hang; tell systemd that all are ready, and that they are well."""
        for child in self._children:
            child.hear()
            for pid in child.beats.still():
                log.error(
                    "%s: process %d has hung for %.0f s; it is killed and started again",
                    child.name,
                    pid,
                    self._still_after_s,
                )
                child.kill(pid)
        needed = [child for child in self._children if child.is_needed]
        if not self._is_ready and all(child.was_ready for child in needed):
            self._is_ready = True
            notify("READY=1")
        if WATCHDOG in os.environ and all(child.is_well for child in needed):
            notify("WATCHDOG=1")

    def _is_to_start(self, child: _Child) -> bool:
        return child.process is None and (self._drained_at is None or not child.is_web)

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if self._is_to_start(child) and child.start_at <= now:
                child.started = now
                try:
                    child.process = self._start(child)
                except OSError as error:  # no memory, no process left, or a Python that is being replaced
                    child.failures += 1
                    child.start_at = now + self._pause_of(child)
                    log.warning("%s cannot be started: %s: %s", child.name, sys.executable, error.strerror)

    def _start(self, child: _Child) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", *child.command],
            stdin=subprocess.DEVNULL,
            pass_fds=[self._lifeline, child.pipe[1]],
            env={**self._environment, READY: str(child.pipe[1])},
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends them in order
        )

    def _pause_of(self, child: _Child) -> float:
        doubled = 2.0 ** min(child.failures, _DOUBLINGS)  # the inbox may fail for ever
        return min(self._pause_s * doubled, _SLOWEST_RESTART_S)

    def _reap(self) -> None:
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                child.hear()
                self._note_death(child, child.process.returncode)
                child.process = child.killed_at = None
                child.beats.clear()

    def _reap_adopted(self) -> None:
        """Reap processes whose parent has died, which the first process of a container inherits."""
        if os.getpid() != 1:
            return
        own = {child.process.pid for child in self._children if child.process is not None}
        with suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in own:  # it ended just now; its end wakes this loop again
                    return
                os.waitpid(ended.si_pid, 0)

    def _note_death(self, child: _Child, status: int) -> None:
        if self._times_told:
            return
        if child.is_needed and (ends_with := self._ends_service(child, status)) is not None:
            self._exit, self._is_over = ends_with, True
            self._life.because(f"{child.name} {_end_of(child, status)}", is_fault=True)
            return
        now = time.monotonic()
        child.failures = 0 if now - child.started > _USABLE_FOR_S else child.failures + 1
        pause = self._pause_of(child)
        child.start_at = now + pause
        child.deaths += 1
        log.warning(
            "%s %s; starting it again in %.1f s (deaths since the start: %d)",
            child.name,
            _end_of(child, status),
            pause,
            child.deaths,
        )

    def _ends_service(self, child: _Child, status: int) -> int | None:
        """Return the status that the service ends with because of this death; None where the child is started again."""
        if status == _EX_CONFIG:
            return _EX_CONFIG
        if child.note_false_start(status):
            log.error(
                "%s cannot start: it has ended with status %d; see above for the reason", child.name, status
            )
            return _EX_CONFIG
        if child.cannot_stay_up(status):
            log.error(
                "%s has not stayed up for %.0f minutes: its last process %s; the service ends, so that systemd sees it",
                child.name,
                child.steadiness.within_s / 60,
                _end_of(child, status),
            )
            return EX_TEMPFAIL
        return None

    def _end(self) -> None:
        """Ask all children to finish, the inbox when the others have; kill those that still run after the grace period."""
        notify("STOPPING=1")
        first = [child for child in self._children if not child.is_inbox]
        last = [child for child in self._children if child.is_inbox]
        was_drained = self._drained_at is not None and self._times_told == 1
        for children in first, last:
            for child in children:
                if not (child.is_web and was_drained):  # a second signal would end its drain
                    child.tell_to_end()
            began = time.monotonic()
            for child in children:
                child.end(began + child.grace_s(0.0 if was_drained else self._drain_s))


def main() -> None:
    """Run the commands given as arguments, each one argument with its words separated by spaces."""
    if options := _option(LOG, ""):
        os.environ[OPTIONS] = options
    own_log = service_log.start_inherited(Path("var"))
    commands = [each.split() for each in sys.argv[1:] if not each.startswith((DRAIN, LOG))]
    status = Supervisor(commands, drain_s=float(_option(DRAIN, "0"))).run()
    own_log.close()
    sys.exit(status)


def _option(name: str, default: str) -> str:
    given = [each.removeprefix(name) for each in sys.argv[1:] if each.startswith(name)]
    return given[-1] if given else default


if __name__ == "__main__":
    main()
