"""The worker's periodic chores: leases, dead workers, wrong due times, retention, lists, data.csv, the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from postroom.accounts.csv_sync import AccountsFile, report
from postroom.core import retry
from postroom.core.errors import StoreUnavailable, WorkerExpired
from postroom.core.files import reason_of
from postroom.core.text import counted
from postroom.core.version import VersionWatch
from postroom.store import position
from postroom.store.log_lines import LogLines
from postroom.store.queue import Queue
from postroom.store.workers import Workers
from postroom.worker.captures import CaptureRunner
from postroom.worker.email_log import LOCK as EMAIL_LOG_LOCK
from postroom.worker.email_log import EmailLog
from postroom.worker.listings import ListingRunner
from postroom.worker.liveness import RENEW_AGAIN_S, RENEW_S, Reaper, Registration, Stocktaker
from postroom.worker.mail.context import Context
from postroom.worker.pool_failover import PoolFailover
from postroom.worker.retention import Retention, RetentionJob

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
_REPAIR_S = 10.0
_REPAIRED_AT_ONCE = 20_000  # in less time than a statement may take
_VERSION_S = 60.0
_RETENTION_S = 2.0  # how often to look whether it is due, and whether the worker that had it is gone
_CAPTURES_S = 0.25
_POOLS_S = 2.0
_LISTINGS_S = 1.0
_FILE_S = 0.5
_LOG_S = 0.2
_LOG_OF_OTHERS_S = (
    2.0  # until the end of a message that no worker ended, such as a cancelled one, is in the log
)
_LOG_AGAIN_S = 0.02
_LOG_END_S = 5.0  # how long the end waits for another process that writes the log


class Chores:
    """What a worker does besides sending, for itself and for the installation."""

    def __init__(
        self,
        context: Context,
        registration: Registration,
        accounts_file: AccountsFile,
        is_stopping: Callable[[], bool],
    ) -> None:
        settings, store, clock = context.settings, context.store, context.clock
        self._context = context
        self._settings = settings
        self._store = store
        self._clock = clock
        self._registration = registration
        self._accounts_file = accounts_file
        self._reaper = Reaper(store, clock, settings.in_doubt)
        self._stocktaker = Stocktaker(store, registration.worker_id, clock, settings.in_doubt)
        self._email_log = EmailLog(store, settings.email_log, context.var / EMAIL_LOG_LOCK)
        retention = Retention(settings, store, clock, is_stopping)
        self._retention = RetentionJob(store, retention, registration.worker_id, clock)
        self._captures = CaptureRunner(settings, store, clock, is_stopping, self.note_finished)
        self._pool_failover = PoolFailover(settings, store, clock, is_stopping)
        self._listings = ListingRunner(store, is_stopping)
        self._version = VersionWatch()
        self._unlogged = True
        self._renewed = time.monotonic()

    @property
    def unrenewed_s(self) -> float:
        """For how long the lease's renewal has been late."""
        return time.monotonic() - self._renewed - RENEW_S

    def start(self) -> list[asyncio.Task[None]]:
        """Begin all chores; each goes on until it is cancelled, or fails."""
        return [
            asyncio.create_task(chore)
            for chore in (
                self._every(_SWEEP_S, self._sweep),
                self._every(_REPAIR_S, self._repair_due_times),
                self._every(_REPAIR_S, self._reaper.look_behind),
                self._every(RENEW_S, self._renew, again=RENEW_AGAIN_S),
                self._every(_RETENTION_S, self._retention.run_if_due),
                self._every(_CAPTURES_S, self._captures.run, when=self._captures.may_be_due),
                self._every(_POOLS_S, self._pool_failover.run),
                self._every(_LISTINGS_S, self._listings.run),
                self._every(_VERSION_S, self._version.compare),
                self._every(_FILE_S, self._sync_accounts, when=self._accounts_file.looks_new),
                self._every(_LOG_S, self._write_log, when=lambda: self._unlogged),
                self._every(_LOG_OF_OTHERS_S, self._look_for_lines, when=lambda: not self._unlogged),
            )
        ]

    async def _every(
        self,
        seconds: float,
        chore: Callable[[], object],
        when: Callable[[], bool] = lambda: True,
        *,
        again: float | None = None,
    ) -> None:
        """Run a chore in a thread, again and again, where there is need; a store that is away only delays it.

        `again`: after how many seconds then, where that is sooner.
        """
        while True:
            pause = seconds
            try:
                if when():
                    await asyncio.to_thread(chore)
            except StoreUnavailable as error:
                log.warning("put off: %s", error)
                pause = seconds if again is None else again
            await asyncio.sleep(pause)

    def _sweep(self) -> None:
        self._reaper.sweep(self._registration.worker_id)
        self._context.workers = max(1, len(self._store.read(Workers.living)))

    def _repair_due_times(self) -> None:
        """Repair due times that are too late: this clock, or that of the accepting process, was ahead."""
        longest = retry.longest(self._settings.retry_schedule)
        repaired = _REPAIRED_AT_ONCE
        while repaired == _REPAIRED_AT_ONCE and self._store.read(
            Queue.waits_too_long, self._clock(), longest
        ):
            repaired = self._store.write(Queue.repair_due_times, self._clock(), longest, _REPAIRED_AT_ONCE)
            if repaired:
                messages = counted(
                    repaired, "message that waited for its time is", "messages that waited for its time are"
                )
                log.warning("a clock was ahead: %s due now", messages)

    def _renew(self) -> None:
        try:
            if not self._registration.renew():
                raise WorkerExpired
            position.note(self._store, self._context.var / position.FILE)
            in_hand = self._context.in_hand | self._retention.in_hand
            self._stocktaker.compare(in_hand, self._context.take_marked())
        finally:
            self._renewed = time.monotonic()

    def _sync_accounts(self) -> None:
        report(self._accounts_file.sync_if_changed())

    def note_finished(self) -> None:
        self._unlogged = True

    def _look_for_lines(self) -> None:
        """Note what has ended by another process: cancelled by a person, or with its account."""
        if self._store.read(LogLines.unwritten, 1):
            self._unlogged = True

    def _write_log(self) -> bool:
        """Write the log; say whether there may be more for it: lines that came meanwhile, or while another process wrote."""
        self._unlogged = False
        try:
            may_lack_some = self._email_log.project() != 0
        except (OSError, StoreUnavailable) as error:
            self._unlogged = True
            reason = reason_of(error) if isinstance(error, OSError) else error
            log.warning("cannot write %s: %s", self._settings.email_log, reason)
            return False
        if may_lack_some:
            self._unlogged = True
        return may_lack_some

    async def write_rest_of_log(self) -> None:
        """Write the log to its end; another worker that is writing may have looked before our last line was there."""
        deadline = time.monotonic() + _LOG_END_S
        while await asyncio.to_thread(self._write_log) and time.monotonic() < deadline:
            await asyncio.sleep(_LOG_AGAIN_S)
