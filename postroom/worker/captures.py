"""Ends the messages of test keys: without a log-in, a limit or a server, whatever the state of their account."""

from __future__ import annotations

import time
from collections.abc import Callable

from postroom.core import failpoint
from postroom.core.clock import Clock
from postroom.core.errors import LeaseLost, StoreUnavailable
from postroom.settings import Settings
from postroom.store.captures import CAPTURED, Captures, EndedCapture
from postroom.store.store import Store
from postroom.telemetry.finished_messages import log_captured

_BATCH = 100
_LOOK_S = 2.0  # for those that were told a time


class CaptureRunner:
    """Runs the jobs of kind `capture`, in batches over all accounts; `finished` is called when some have ended."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        is_stopping: Callable[[], bool],
        finished: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._is_stopping = is_stopping
        self._finished = finished
        self._seen, self._looked = -1, float("-inf")

    def may_be_due(self) -> bool:
        """Whether anybody has committed since the last look, or that is a while ago; it waits for no database."""
        try:
            seen = self._store.change_counter()
        except StoreUnavailable:
            return False
        now = time.monotonic()
        if seen == self._seen and now - self._looked < _LOOK_S:
            return False
        self._seen, self._looked = seen, now
        return True

    def run(self) -> None:
        """End what is due."""
        while (
            not self._is_stopping()
            and self._has_disk_space()
            and self._store.read(Captures.is_due, self._clock())
        ):
            ended = self._end_some()
            if ended:
                failpoint.hit("capture.committed")
                self._finished()
                log_captured(
                    [(each.request_id, each.reverse_path, each.recipients) for each in ended], CAPTURED
                )
            if len(ended) < _BATCH:
                return

    def _end_some(self) -> list[EndedCapture]:
        try:
            return self._store.write(Captures.end_due, self._clock(), _BATCH)
        except LeaseLost:  # somebody has cancelled one just now
            return []

    def _has_disk_space(self) -> bool:
        """The same as for messages to servers: begin nothing whose end might find no room."""
        return self._store.free_bytes() >= self._settings.disk_reserve // 4
