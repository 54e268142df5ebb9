"""The access log (POSTROOM_ACCESS_LOG): one line for each answered request, written once a round of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from postroom.core.clock import Clock, system_clock
from postroom.telemetry.entry import Answered
from postroom.web.head import Head

ROUTE: Final = "postroom.route"  # in a WSGI environment: the rule that the path has matched
Write: TypeAlias = Callable[[Sequence[Answered]], None]


class AccessLog:
    """Gathers the requests that are answered in one round of the loop, so that they are written together."""

    def __init__(self, write: Write, clock: Clock = system_clock) -> None:
        self._write = write
        self._clock = clock
        self._answered: list[Answered] = []

    def note(self, head: Head, status: int, began: float) -> None:
        """Log a request soon; `began` is when its head came, by `time.perf_counter`."""
        if not self._answered:
            asyncio.get_running_loop().call_soon(self.flush)
        took = int((time.perf_counter() - began) * 1_000_000)
        self._answered.append(
            Answered(self._clock(), head.method, head.path, head.route, status, took, head.remote)
        )

    def flush(self) -> None:
        """Write what has been answered."""
        answered, self._answered = self._answered, []
        if answered:
            self._write(answered)
