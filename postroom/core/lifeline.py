"""Ends a process of the service: on signals, and when the process that started it dies.

Imports only the standard library.
"""

from __future__ import annotations

import os
import select
import signal
import threading

from postroom.core.heartbeat import BEAT_S, beat

_orphaned = threading.Event()
LIFELINE = "POSTROOM_LIFELINE"  # the environment variable with the descriptor of the supervisor's pipe


def watch_lifeline(fd: int, *, beats: bool = False) -> None:
    """End this process, as if by SIGTERM, when the pipe's other end closes: its holder has died.

    With `beats`, send heartbeats meanwhile.
    """

    def wait() -> None:
        while True:
            ready, _, _ = select.select([fd], [], [], BEAT_S if beats else None)
            if ready and not os.read(fd, 1):
                break
            if beats:
                beat()
        _orphaned.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def was_orphaned() -> bool:
    """Whether this process ends since the one that started it has died."""
    return _orphaned.is_set()


def ignore_stray_signals() -> None:
    """Ignore SIGUSR1 and SIGUSR2, here and in processes that are started from here."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that end a process in order: SIGHUP (a terminal that closes) too, unless `nohup` ignores it."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers
