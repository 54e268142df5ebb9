"""Deletes by POSTROOM_KEEP_BODIES, _DIALOGUES, _HISTORY and _AUDIT: texts, then dialogues, later all of a message; audit.

In small batches, each a transaction of its own, so that nothing else waits for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from postroom.core import failpoint
from postroom.core.clock import SECOND, Clock, Instant
from postroom.core.daily import day_of
from postroom.core.errors import LeaseLost, StoreUnavailable
from postroom.core.job import Claim
from postroom.core.text import counted
from postroom.settings import Settings
from postroom.store.chores import ChoreJobs
from postroom.store.closing import Closings
from postroom.store.issued_keys import IssuedKeys
from postroom.store.retention import Pruned, Pruning
from postroom.store.store import Store
from postroom.store.transaction import Transaction
from postroom.store.usage import Usage

log = logging.getLogger(__name__)

KIND = "retention"
PERIOD = 60 * SECOND
BATCH = 100
_MOST_BATCHES = 300  # a minute's work; the rest is for the next one
_PAUSE_S = 0.02
_LONGEST_UPLOAD = 3600 * SECOND  # a content whose message has not been accepted by then never will be
_MOST_DRIFT = 3600 * SECOND
_CLOCK_SET = "the clock was set by more than an hour: nothing is pruned until it is as before or the worker is restarted"
# Time since the boot, which nobody sets; where there is such a clock, one that goes on while the machine is suspended.
_UNSET_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def since_boot() -> Instant:
    """Return the time since the machine was started, in microseconds."""
    return time.clock_gettime_ns(_UNSET_CLOCK) // 1000


class Retention:
    """Prunes messages that ended longer ago than the settings keep them.

    A wrong clock makes messages look old: while it is set more than an hour away from where it was at the worker's
    start, nothing is deleted.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        stopping: Callable[[], bool],
        unset_clock: Clock = since_boot,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._stopping = stopping
        self._unset_clock = unset_clock
        self._began = clock() - unset_clock()
        self._trusts_clock = True

    def _clock_was_set(self) -> bool:
        trusts = abs(self._clock() - self._unset_clock() - self._began) <= _MOST_DRIFT
        if trusts != self._trusts_clock:
            log.warning("the clock is as it was again" if trusts else _CLOCK_SET)
            self._trusts_clock = trusts
        return not trusts

    def prune(self) -> None:
        """Prune what is due, or as much of it as a minute allows."""
        self._store.forget_commits()
        self._store.fold_counts()
        failpoint.hit("retention.inside")
        if self._clock_was_set():
            return
        self._store.write(
            Usage.forget, self._clock()
        )  # what no longer counts towards the accounts' daily limits
        self._store.write(IssuedKeys.forget_usage, self._clock())
        self._store.write(Pruning.prune_uploads, self._clock() - _LONGEST_UPLOAD, BATCH)
        with suppress(StoreUnavailable):  # a web process that hangs holds the row of a key
            self._store.write(IssuedKeys.revoke_stopped)
        self._end_accounts()
        self._prune_audit()
        bodies, history = self._settings.keep_bodies, self._settings.keep_history
        if history is not None:
            until = self._clock() - history
            self._repeat(lambda transaction: _all_of(transaction.statistics.prune(day_of(until), BATCH)))
            messages = self._repeat(lambda transaction: transaction.pruning.prune_history(until, BATCH))
            keys = self._repeat(lambda transaction: _all_of(transaction.pruning.prune_keys(until, BATCH)))
            if messages or keys:
                log.info(
                    "pruned %s and %s that were kept for long enough",
                    counted(messages, "message"),
                    counted(keys, "idempotency key"),
                )
        if bodies is not None:
            until_body = self._clock() - bodies
            texts = self._repeat(lambda transaction: transaction.pruning.prune_bodies(until_body, BATCH))
            if texts:
                said = counted(texts, "message that was", "messages that were")
                log.info("pruned the content of %s over for long enough", said)

        self._prune_dialogues()

    def _prune_dialogues(self) -> None:
        if self._settings.keep_dialogues is not None:
            until = self._clock() - self._settings.keep_dialogues
            self._repeat(lambda transaction: transaction.pruning.prune_dialogues(until, BATCH))

    def _end_accounts(self) -> None:
        """End accounts that were deleted once their last message has ended, or had its time (POSTROOM_RETRY_FOR)."""
        now = self._clock()
        for closing in self._store.read(Closings.closing):
            self._store.write(_end_account, closing.id, now - self._settings.retry_for, now)

    def _prune_audit(self) -> None:
        if self._settings.keep_audit is not None:
            until = self._clock() - self._settings.keep_audit
            self._repeat(lambda transaction: _all_of(transaction.audit.prune(until, BATCH)))

    def _repeat(self, step: Callable[[Transaction], Pruned]) -> int:
        total = 0
        for _ in range(_MOST_BATCHES):
            done = self._store.write(step)
            total += done.dropped
            if done.passed < BATCH or self._stopping():
                break
            time.sleep(_PAUSE_S)
        return total


def _all_of(dropped: int) -> Pruned:
    return Pruned(dropped, dropped)


def _end_account(transaction: Transaction, account_id: int, due_by: Instant, now: Instant) -> None:
    transaction.accounts.lock(account_id)
    transaction.closings.fail_overdue(account_id, due_by, now)
    if not sum(transaction.closings.unfinished(account_id, now)):
        transaction.closings.end(account_id, now)


class RetentionJob:
    """Runs the job of kind `retention`, of which the installation has one: a worker claims it, prunes and puts it back."""

    def __init__(self, store: Store, retention: Retention, worker_id: int, clock: Clock) -> None:
        self._store = store
        self._retention = retention
        self._worker_id = worker_id
        self._clock = clock
        self._has_started = False
        self._claim: Claim | None = None

    @property
    def in_hand(self) -> set[int]:
        """The claim token of the job, while this worker has it."""
        claim = self._claim
        return set() if claim is None else {claim.token}

    def run_if_due(self) -> bool:
        """Prune if that is due and no other worker does; return whether this one did.

        When the database goes away meanwhile the job stays this worker's, and the next call goes on with it.
        """
        if self._claim is None:
            self._claim = self._take()
        claim = self._claim
        if claim is None:
            return False
        self._retention.prune()
        try:
            self._store.write(ChoreJobs.put_back, claim, self._clock() + PERIOD)
        except LeaseLost:
            log.warning("another worker has taken retention over")
        self._claim = None
        return True

    def _take(self) -> Claim | None:
        now = self._clock()
        if not self._has_started:
            self._store.write(ChoreJobs.call, KIND, now)
            self._has_started = True
        latest = now + 2 * PERIOD
        if not self._store.read(ChoreJobs.is_due, KIND, now, latest):
            return None
        try:
            return self._store.write(ChoreJobs.claim, KIND, self._worker_id, now, latest)
        except LeaseLost:
            return None
