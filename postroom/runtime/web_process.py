"""The web process: runs granian, stops it gracefully, and builds the application in its workers."""

from __future__ import annotations

import logging
import mmap
import multiprocessing.util
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from postroom.core.clock import SECOND
from postroom.core.descriptors import open_descriptors, raise_descriptor_limit
from postroom.core.heartbeat import report_ready, report_stopping
from postroom.core.lifeline import stop_signals, watch_lifeline
from postroom.runtime import listen
from postroom.runtime.forks import Interrupt, Keeper
from postroom.runtime.installation import start_service_log
from postroom.runtime.supervisor import EX_UNAVAILABLE
from postroom.settings import Settings
from postroom.telemetry.lifecycle import Lifecycle

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from postroom.runtime.forks import GranianServer
    from postroom.web.rsgi import RSGIServer

log = logging.getLogger(__name__)

# For a connection without a request; `web/connections.py` has a shorter time for heads.
IDLE_WITHIN_MS = 30_000
_MOST_HEAD_BYTES = 131_072  # granian's buffer for each connection
_INSIST_S = 3.0  # after which a worker that was told to stop is told again
_LOOK_S = 0.01
_STOPS = (signal.SIGTERM, signal.SIGINT)
_MOST_CONNECTIONS = 1 << 20  # at once: the number of descriptors bounds them
_BACKLOG = 4096  # connections that the kernel keeps until they are accepted; somaxconn bounds it too
# Granian's lines go where ours go, and not to standard output.
_AS_OURS = {
    "formatters": {},
    "handlers": {},
    "loggers": {name: {"handlers": [], "propagate": True} for name in ("_granian", "granian.access")},
}
_tie: tuple[int, int] | None = None
_stopping: mmap.mmap | None = None  # shared with granian's workers: whether the service is being stopped


def run_web(settings: Settings, lifeline: int | None) -> None:
    """Serve HTTP until SIGTERM or SIGINT. The application is built in granian's own worker processes."""
    raise_descriptor_limit()
    if lifeline is not None:
        watch_lifeline(lifeline, beats=True)
    else:
        Keeper().start()
    _share_with_workers()
    path = listen.socket_path(settings)
    server = _granian(settings, path)
    start_service_log(settings)  # granian's configuration of logging has closed what there was
    server.main_loop_interrupt = interrupt = Interrupt(server)
    stop = Stop(server, settings.drain / SECOND)
    life = Lifecycle("web")
    end = partial(_end_by_signal, life, stop, interrupt)
    server.signal_handler_interrupt = end  # type: ignore[method-assign]
    guard_forks(server, stop)
    at_hangup = end if signal.SIGHUP in stop_signals() else signal.SIG_IGN
    # Granian's own handler would start new workers.
    server.on_startup(lambda: signal.signal(signal.SIGHUP, at_hangup))
    server.on_startup(lambda: life.start(listen.described(settings)))  # its socket listens then
    if path:
        listen.remove_left_socket(path)
    with life.ending():
        try:
            server.serve()
        finally:
            if interrupt.has_given_up:
                sys.exit(EX_UNAVAILABLE)


def _end_by_signal(life: Lifecycle, stop: Stop, interrupt: Interrupt, number: int, frame: object) -> None:
    if interrupt.has_given_up:
        life.because("no web process has stayed up", is_fault=True)
    life.because_of_signal(number)
    stop(number, frame)


def _granian(settings: Settings, path: Path | None) -> GranianServer:
    """Return granian's server, with our limits and our application."""
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    return Server(
        "postroom.runtime.web_process:web_application",
        address="" if path else listen.address_of(settings),
        port=settings.port,
        uds=path,
        uds_permissions=listen.SOCKET_MODE,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=IDLE_WITHIN_MS, max_buffer_size=_MOST_HEAD_BYTES),
        workers=settings.web_concurrency,
        backlog=_BACKLOG,
        backpressure=_MOST_CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=10,
        factory=True,
        log_level=LogLevels.error,
        log_dictconfig=_AS_OURS,
    )


class Stop:
    """The handler of the signals to stop: `/readyz` answers 503 from then on, and the listener closes after the delay.

    A load balancer needs that time to send its requests elsewhere. A second signal ends the delay.
    Workers that still run after seconds are told again: one that has just started may have lost the first signal between
    its default handler, granian's and the event loop's, and would serve on until it is killed.
    """

    def __init__(self, server: GranianServer, delay_s: float, insist_s: float = _INSIST_S) -> None:
        self._server = server
        self._delay_s = delay_s
        self._insist_s = insist_s
        self._close: Callable[..., None] = server.signal_handler_interrupt
        self._noted_by: int | None = None

    @property
    def is_noted_here(self) -> bool:
        """Whether this process, and not the one that it was forked from, has had the signal."""
        return self._noted_by == os.getpid()

    def __call__(self, *_: object) -> None:
        if self.is_noted_here or not self._delay_s:
            self._finish()
            return
        self._noted_by = os.getpid()
        if _stopping is not None:
            _stopping[0] = 1
        # A thread could not be started here: its lock may be held.
        signal.signal(signal.SIGALRM, self._finish)
        signal.setitimer(signal.ITIMER_REAL, self._delay_s)

    def _finish(self, *_: object) -> None:
        report_stopping()
        self._close()
        signal.signal(signal.SIGALRM, self._insist)
        signal.setitimer(signal.ITIMER_REAL, self._insist_s, self._insist_s)

    def _insist(self, *_: object) -> None:
        for worker in list(self._server.wrks):
            if worker.is_alive():
                worker.terminate()


def _is_stopping() -> bool:
    return _stopping is not None and _stopping[0] != 0


def guard_forks(server: GranianServer, stop: Stop) -> None:
    """Let SIGTERM end a worker that was just forked, however early the signal comes.

    Until granian's own handlers are there the worker has its parent's, which only note the signal. Python discards
    signals that come before it has handled the fork (`PyOS_AfterFork_Child` clears pending ones), so they are blocked
    till then. A worker that has missed the signal would serve on, and hold up the whole stop until it is killed.
    """

    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def end_at_a_signal() -> None:
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        if server.interrupt_signal or stop.is_noted_here:  # the parent noted it before the fork
            os._exit(0)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=end_at_a_signal)


def _share_with_workers() -> None:
    """Open the pipe and the flag that granian's workers inherit: the main process has died; the service is stopping."""
    global _tie, _stopping
    _tie = os.pipe()
    _stopping = mmap.mmap(-1, 1)


def web_application() -> RSGIServer:
    """Build the application; called by granian in each worker process, after the fork."""
    from postroom.runtime import installation
    from postroom.runtime.account_login import verify
    from postroom.runtime.memory import tune_memory
    from postroom.telemetry.metrics.exposition import metrics_of
    from postroom.web.app import create_server

    if _tie is not None:
        os.close(_tie[1])
        watch_lifeline(_tie[0])
    service = installation.open_service(
        serving=True, as_service=True, on_broken=installation.stop_this_process
    )
    # `atexit` is not for processes that granian forks.
    multiprocessing.util.Finalize(None, service.close_telemetry, exitpriority=1)
    told = metrics_of(service.settings, service.store, installation.VAR, "web")
    before = _listening()  # granian's socket too, where another worker listens on it already
    told.start()
    metrics = _listening() - before
    server = create_server(
        service.settings,
        service.store,
        service.vault,
        _is_stopping,
        partial(report_ready_when_it_listens, metrics),
        partial(verify, service),
        told=told,
        write_answered=None if service.log is None else service.log.note_answered,
        begin_trace=None if service.traces is None else service.traces.begin,
    )
    tune_memory()
    return server


def report_ready_when_it_listens(besides: frozenset[int], loop: AbstractEventLoop) -> None:
    """Report that this process is ready as soon as granian accepts connections. `besides`: the sockets of its metrics."""
    ignore_interrupts(loop)
    if _listens(besides):
        report_ready()
    else:
        loop.call_later(_LOOK_S, report_ready_when_it_listens, besides, loop)


def ignore_interrupts(loop: AbstractEventLoop) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that runs the workers: it stops them in order."""
    loop.remove_signal_handler(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _listens(besides: frozenset[int] = frozenset()) -> bool:
    """Whether another socket of this process listens; True where the system does not show sockets."""
    try:
        return any(_is_listening(fd) for fd in open_descriptors() if fd not in besides)
    except FileNotFoundError:
        return True


def _listening() -> frozenset[int]:
    """Return the descriptors of this process's sockets that listen, none where the system does not show sockets."""
    try:
        return frozenset(filter(_is_listening, open_descriptors()))
    except FileNotFoundError:
        return frozenset()


def _is_listening(fd: int) -> bool:
    """Whether a descriptor is a listening socket. No copy is closed: that would give up SQLite's locks on a database."""
    try:
        found = socket.socket(fileno=fd)
    except OSError:  # no socket, or closed meanwhile
        return False
    try:
        return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
    finally:
        found.detach()
