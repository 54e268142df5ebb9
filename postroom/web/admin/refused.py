"""Writes refusals of the admin API into the audit, bounded so that strangers cause few commits."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Final

from postroom.core.audit import Actor
from postroom.core.clock import Clock
from postroom.core.errors import StoreError
from postroom.store.audit import Audit
from postroom.store.store import Store

_PERIOD_S: Final = 60.0
_MOST: Final = 100  # sources in a period; what is beyond is in the log alone, bounded there too


class RefusedCalls:
    """One entry a minute and source; the database holds to that over all processes."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._sources: set[str] = set()
        self._until = 0.0  # by the monotonic clock

    def note(self, store: Store, actor: Actor, action: str, clock: Clock) -> None:
        """Record a refusal, unless the source had one of late. What cannot be stored is in the log."""
        if self._may_write(actor.source):
            with suppress(StoreError):
                store.write(Audit.append_refusal, actor, action, None, clock())

    def _may_write(self, source: str) -> bool:
        with self._mutex:
            now = time.monotonic()
            if now >= self._until:
                self._sources.clear()
                self._until = now + _PERIOD_S
            if source in self._sources or len(self._sources) >= _MOST:
                return False
            self._sources.add(source)
            return True
