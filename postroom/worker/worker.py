"""The worker process: starts dispatching and chores, and drains on a signal to stop."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

import uvloop

from postroom.accounts.csv_sync import AccountsFile, report
from postroom.accounts.vault import Vault
from postroom.core.clock import Clock, system_clock
from postroom.core.descriptors import raise_descriptor_limit
from postroom.core.errors import CommitUnknown, StoreError
from postroom.core.heartbeat import Pulse, report_ready, report_stopping
from postroom.core.lifeline import stop_signals, watch_lifeline
from postroom.core.text import counted
from postroom.settings import Settings
from postroom.store import position
from postroom.store.async_writer import AsyncWriter
from postroom.store.store import Store
from postroom.telemetry.lifecycle import Lifecycle
from postroom.telemetry.metrics.exposition import metrics_of
from postroom.worker.chores import Chores
from postroom.worker.dispatch import Dispatcher
from postroom.worker.liveness import Registration
from postroom.worker.mail.connect import connector_for
from postroom.worker.mail.context import Context

log = logging.getLogger(__name__)

_DRAIN_S = 10.0  # how long a session may go on whose dot is not out
_RECORD_S = 60.0  # how long the database may be away at the end
_RECORD_IN_VAIN_S = 1.0  # somebody has taken its file away


class Worker:
    """One process that delivers. `var` is the folder for lock files and the inbox."""

    def __init__(
        self, settings: Settings, store: Store, vault: Vault, *, var: Path, clock: Clock = system_clock
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        accounts_file = AccountsFile(store, vault, settings.accounts_csv, clock)
        report(accounts_file.sync())  # a worker that is there knows the accounts
        self._registration = Registration(store, var / "workers", clock)
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_unsure = False
        self._context = Context(
            settings=settings,
            store=store,
            vault=vault,
            async_writer=AsyncWriter(store, on_unknown=self._end_unsure),
            clock=clock,
            worker_id=self._registration.worker_id,
            var=var,
            connector=connector_for(settings, store, vault, var / "inbox"),
            request_work=self._wake.set,
            finished=lambda: self._chores.note_finished(),
        )
        self._dispatcher = Dispatcher(self._context, self._wake, self._stopping)
        self._chores = Chores(self._context, self._registration, accounts_file, self._stopping.is_set)

    def _end_unsure(self) -> None:
        """A commit's outcome is unknown, so this worker may own jobs it does not know of. Exit; another recovers them."""
        log.error("the database may not hold what this worker has done; it ends and is started anew")
        self._is_unsure = True
        self.stop()

    def stop(self) -> None:
        """Ask the worker to finish what it is sending and end."""
        self._stopping.set()
        self._wake.set()

    def stalled_s(self) -> float:
        """Return for how long a commit, or the lease's renewal, has not come back: both do, with an error if need be."""
        if self._stopping.is_set():
            return 0.0
        return max(self._chores.unrenewed_s, self._context.async_writer.under_way.seconds)

    async def run(self) -> None:
        """Deliver until `stop`; then drain. Raises WorkerExpired when the lease was lost."""
        chores = [*self._chores.start(), asyncio.create_task(self._dispatcher.watch())]
        dispatching = asyncio.create_task(self._dispatcher.run())
        try:
            await asyncio.wait([*chores, dispatching], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            # A claim under way must reach its account's sender, or nobody would give it back.
            await asyncio.wait([dispatching])
            await self._drain()
            for task in (*chores, dispatching):
                if task.done():
                    task.result()
            if self._is_unsure:
                raise CommitUnknown
        finally:
            for task in (*chores, dispatching):
                task.cancel()
            await asyncio.gather(*chores, dispatching, return_exceptions=True)
            self._context.async_writer.close()

    # -- the end

    async def _drain(self) -> None:
        """Finish what is being sent, give back the rest, record everything.

        A session whose dot is out is never broken off: its answer has the dot's own deadline, and
        without it a copy might be sent again.
        """
        self._context.draining = True
        report_stopping()
        log.info("stopping: %s in hand", counted(len(self._context.in_hand), "message"))
        for sender in self._dispatcher.senders:
            sender.release_waiting()
            sender.say_goodbye()
        sessions = [asyncio.create_task(sender.drained()) for sender in self._dispatcher.senders]
        if sessions:
            await asyncio.wait(sessions, timeout=_DRAIN_S)
        unanswered = sum(sender.cancel() for sender in self._dispatcher.senders)
        if unanswered:
            log.warning(
                "waiting for the answers to %s that the servers have all of", counted(unanswered, "message")
            )
        if sessions:
            await asyncio.wait(sessions)
        try:
            within = _RECORD_S if self._store.is_in_place() else _RECORD_IN_VAIN_S
            await asyncio.wait_for(self._context.async_writer.drained(), within)
        except TimeoutError:
            log.warning("the database is away; what could not be recorded is in doubt")
        await self._chores.write_rest_of_log()
        if not self._store.is_remote:  # what the next start misses it can tell
            with suppress(StoreError):
                position.note(self._store, self._context.var / position.FILE)
        await asyncio.to_thread(self._registration.leave, self._settings.in_doubt, crashed=self._is_unsure)


def run_worker(
    settings: Settings,
    store: Store,
    vault: Vault,
    *,
    var: Path,
    lifeline: int | None = None,
    life: Lifecycle | None = None,
) -> None:
    """Deliver until SIGTERM or SIGINT, or until the other end of the pipe `lifeline` is closed."""

    raise_descriptor_limit()

    told = metrics_of(settings, store, var, "worker")
    told.start()

    def stop(worker: Worker, number: int) -> None:
        if life is not None:
            life.because_of_signal(number)
        worker.stop()

    async def main() -> None:
        worker = Worker(settings, store, vault, var=var)
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, stop, worker, number)
        if lifeline is not None:
            watch_lifeline(lifeline)
        report_ready()
        if life is not None:
            life.start()
        Pulse(worker.stalled_s).start(loop)
        await worker.run()

    try:
        uvloop.run(main())
    finally:
        told.close()
