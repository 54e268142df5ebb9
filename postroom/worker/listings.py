"""Notes messages for lists and statistics soon after their commits, in small steps, and once those of before the upgrade."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from postroom.core import failpoint
from postroom.core.errors import LeaseLost
from postroom.store.projection import Projection, Step
from postroom.store.store import Store

_STEP = 500  # events, or messages of before the upgrade
_MOST_STEPS = 40  # at a time
_MOST_ENDED = 10_000  # messages that are remembered
_PAUSE_S = 0.01  # for other commits; longer behind a step for former messages, which nobody waits for
_FORMER_PAUSE_S = 0.05


@dataclass(slots=True)
class _Look:
    """A look at the newest event: `until` is the transaction before which all must have ended; 0: not known yet."""

    newest: int
    until: int = 0


class ListingRunner:
    """Runs in each worker; where two make the same step, the second one's is not written.

    On PostgreSQL an event may be committed after others with greater ids. So what was newest at one look is taken to be
    complete once all transactions have ended that were running at the next look.
    """

    def __init__(self, store: Store, is_stopping: Callable[[], bool]) -> None:
        self._store = store
        self._is_stopping = is_stopping
        self._looks: deque[_Look] = deque()
        self._complete = 0
        self._has_begun = False
        self._has_former = True
        self._ended: dict[int, None] = {}  # messages that were noted with their end, the latest last

    @property
    def has_more(self) -> bool:
        """Whether messages of before the upgrade may be left."""
        return self._has_former

    def run(self) -> None:
        """Note what has come, as far as it is complete, and some of what was there before."""
        self._look()
        if not self._complete and self._looks:
            return
        if not self._has_begun:
            if self._store.read(Projection.marks) is None:
                self._store.write(Projection.begin, self._complete)
            self._has_begun = True
        self._repeat(
            lambda: self._store.read(Projection.next_step, self._complete, _STEP, self._ended), _PAUSE_S
        )
        if self._has_former:
            self._has_former = self._repeat(
                lambda: self._store.read(Projection.former_step, _STEP), _FORMER_PAUSE_S
            )

    def _look(self) -> None:
        """Find out up to which event all is complete."""
        newest, oldest, next_ = self._store.read(Projection.seen)
        if not next_:
            self._complete = newest
            return
        while self._looks and 0 < self._looks[0].until <= oldest:
            self._complete = self._looks.popleft().newest
        for look in self._looks:
            look.until = look.until or next_
        if newest != (self._looks[-1].newest if self._looks else self._complete):
            self._looks.append(_Look(newest))

    def _repeat(self, next_step: Callable[[], Step | None], pause_s: float) -> bool:
        """Make steps until there are none; return whether there may be more."""
        for _ in range(_MOST_STEPS):
            step = next_step()
            if step is None:
                return False
            failpoint.hit("listings.step")
            try:
                self._store.write(Projection.write, step)
            except LeaseLost:
                return True
            self._remember(step)
            if self._is_stopping():
                return True
            if step.size == _STEP:
                time.sleep(pause_s)
        return True

    def _remember(self, step: Step) -> None:
        """Keep the latest messages that have ended: most ends are committed before the acceptance is noted."""
        for message_id in step.going_on:
            self._ended.pop(message_id, None)
        self._ended.update(dict.fromkeys(step.ended))
        for message_id in list(islice(self._ended, max(0, len(self._ended) - _MOST_ENDED))):
            del self._ended[message_id]
