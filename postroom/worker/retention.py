"""What is over is kept for a while: first the mail's text goes, later everything that is known of it.

In small batches, each a transaction of its own, so that nothing else waits for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from postroom.config import Settings
from postroom.model import Clock
from postroom.store import Store, Transaction

log = logging.getLogger(__name__)

BATCH = 100
_MOST_BATCHES = 300  # a minute's work; the rest is for the next one
_PAUSE_S = 0.02


class Retention:
    """Prunes what has been over for longer than the settings keep it."""

    def __init__(self, settings: Settings, store: Store, clock: Clock, stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._stopping = stopping

    def prune(self) -> None:
        """Prune what is due, or as much of it as a minute allows."""
        self._store.forget_commits()
        bodies, history = self._settings.keep_bodies, self._settings.keep_history
        if history is not None:
            until = self._clock() - history
            mails = self._repeat(lambda transaction: transaction.prune_history(until, BATCH))
            keys = self._repeat(lambda transaction: transaction.prune_keys(until, BATCH))
            if mails or keys:
                log.info(
                    "pruned %d mails and %d idempotency keys that were kept for long enough", mails, keys
                )
        if bodies is not None:
            until_body = self._clock() - bodies
            texts = self._repeat(lambda transaction: transaction.prune_bodies(until_body, BATCH))
            if texts:
                log.info("pruned the content of %d mails that were over for long enough", texts)

    def _repeat(self, step: Callable[[Transaction], int]) -> int:
        total = 0
        for _ in range(_MOST_BATCHES):
            done = self._store.write(step)
            total += done
            if done < BATCH or self._stopping():
                break
            time.sleep(_PAUSE_S)
        return total
