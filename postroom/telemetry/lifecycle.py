"""The start and the stop of a process of the service, as events of the log: one line each, in every format."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from postroom import __version__
from postroom.core.lifeline import was_orphaned
from postroom.telemetry.entry import ACTION, OUTCOME

log = logging.getLogger("postroom.process")

START: Final = "start"
STOP: Final = "stop"
_started: Final = threading.Event()


def has_started() -> bool:
    """Whether this process has logged its start."""
    return _started.is_set()


class Lifecycle:
    """The life of this process under its name (`web`, `worker`, …)."""

    def __init__(self, name: str, *, is_running: bool = False) -> None:
        if is_running:  # the program that became this one has logged the start
            _started.set()
        self._name = name
        self._reason: str | None = None
        self._is_fault = False

    def start(self, address: str | None = None) -> None:
        _started.set()
        where = f", on {address}" if address else ""
        log.info(
            "%s started: Postroom %s, process %d%s",
            self._name,
            __version__,
            os.getpid(),
            where,
            extra={ACTION: START, OUTCOME: "success"},
        )

    def because(self, reason: str, *, is_fault: bool = False) -> None:
        """Note why it ends; the first reason counts."""
        if self._reason is None:
            self._reason, self._is_fault = reason, is_fault

    def because_of_signal(self, number: int) -> None:
        if was_orphaned():
            self.because("the process that started it has ended")
        else:
            self.because(signal.Signals(number).name)

    def stop(self) -> None:
        """Log the stop of a process that had started."""
        if not has_started():
            return
        log.log(
            logging.ERROR if self._is_fault else logging.INFO,
            "%s stopped: %s",
            self._name,
            self._reason or "its work is done",
            extra={ACTION: STOP, OUTCOME: "failure" if self._is_fault else "success"},
        )

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Log the stop at the end, however it comes; of an exception the reason is its text."""
        try:
            yield
        except SystemExit as error:
            self.because(f"status {error.code}", is_fault=bool(error.code))
            raise
        except BaseException as error:
            self.because(f"{type(error).__name__}: {error}", is_fault=True)
            raise
        finally:
            self.stop()
