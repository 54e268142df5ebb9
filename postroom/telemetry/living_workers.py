"""Counts the workers that are alive, by the leases that they renew; a wrong clock makes nobody dead."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from postroom.core.clock import Instant
from postroom.store.workers import WorkerRecord

_RENEWED_WITHIN_S: Final = 15.0  # workers renew their leases every ten seconds
_LEASE_S: Final = 60.0


class Leases:
    """Which workers are alive. As with the workers themselves, a clock that is wrong makes nobody dead."""

    def __init__(self) -> None:
        # Each worker's lease, and since when it is the same.
        self._seen: dict[int, tuple[Instant, float]] = {}

    def alive(self, records: Sequence[WorkerRecord], now: Instant) -> int:
        """Count the workers whose lease was renewed of late, or, at the first look, is not over by the clock."""
        before, self._seen = self._seen, {}
        return sum([self._is_alive(record, before.get(record.id), now) for record in records])

    def _is_alive(self, record: WorkerRecord, seen: tuple[Instant, float] | None, now: Instant) -> bool:
        looked, over = time.monotonic(), record.lease_until <= now
        since = looked if seen is not None or not over else float("-inf")
        if seen is not None and seen[0] == record.lease_until:
            since = seen[1]
        self._seen[record.id] = record.lease_until, since
        return looked - since < (_RENEWED_WITHIN_S if over else _LEASE_S)
