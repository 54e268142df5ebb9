"""The worker: claim, hand to the account's lane, finish; leases, recovery and drain."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from postroom.accounts.csv_sync import AccountsFile, report
from postroom.accounts.vault import Vault
from postroom.core import failpoint, retry
from postroom.core.account import Account, AccountState
from postroom.core.clock import SECOND, Clock, system_clock
from postroom.core.descriptors import raise_descriptor_limit
from postroom.core.errors import CommitUnknown, StoreError, StoreUnavailable, WorkerExpired
from postroom.core.files import reason_of
from postroom.core.heartbeat import Pulse, report_ready, report_stopping
from postroom.core.job import MOST_IN_MEMORY, ClaimedJob
from postroom.core.lifeline import stop_signals, watch_lifeline
from postroom.core.text import counted
from postroom.core.version import VersionWatch
from postroom.settings import Settings
from postroom.store import position
from postroom.store.async_writer import AsyncWriter
from postroom.store.store import Store, StoredAccount
from postroom.store.transaction import Transaction
from postroom.worker.email_log import LOCK as EMAIL_LOG_LOCK
from postroom.worker.email_log import EmailLog
from postroom.worker.liveness import RENEW_AGAIN_S, RENEW_S, Reaper, Registration, Stocktaker
from postroom.worker.mail.connect import ServerConnector
from postroom.worker.mail.context import Context
from postroom.worker.mail.sender import AccountSender
from postroom.worker.memory import MemoryBudget, Share, is_full
from postroom.worker.retention import Retention

log = logging.getLogger(__name__)

_WATCH_S = 0.02  # how often to ask whether anything was committed, while there is something going on
_DOZE_S = 0.08  # the same, after a second without a commit
_LOOK_S = 0.25  # how often to look for jobs that have become due
_SWEEP_S = 1.0
_MEND_S = 10.0
_MENDED_AT_ONCE = 20_000  # in less time than a statement may take
_TIDY_S = 3600.0
_PRUNE_S = 60.0
_FILE_S = 0.5
_LOG_S = 0.2
_LOG_END_S = 5.0  # how long the end waits for another process that writes the log
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
        self._accounts_file = AccountsFile(store, vault, settings.accounts_csv, clock)
        report(self._accounts_file.sync())  # a worker that is there knows the accounts
        self._registration = Registration(store, var / "workers", clock)
        self._reaper = Reaper(store, clock, settings.in_doubt)
        self._stocktaker = Stocktaker(store, self._registration.worker_id, clock, settings.in_doubt)
        self._email_log = EmailLog(store, settings.email_log, var / EMAIL_LOG_LOCK)
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._retention = Retention(settings, store, clock, self._stopping.is_set)
        self._unlogged = True
        self._had_room = True
        self._unsure = False
        self._renewed = time.monotonic()
        self._version = VersionWatch()
        self._senders: dict[int, AccountSender] = {}
        self._memory = MemoryBudget(MOST_IN_MEMORY)
        self._context = Context(
            settings=settings,
            store=store,
            vault=vault,
            async_writer=AsyncWriter(store, on_unknown=self._end_unsure),
            clock=clock,
            worker_id=self._registration.worker_id,
            var=var,
            connector=ServerConnector(settings, vault, inbox=var / "inbox"),
            request_work=self._wake.set,
            finished=self._note_finished,
        )

    def _end_unsure(self) -> None:
        """The database may hold jobs as ours that are not in our hands: sign off, so that they go to whoever comes next."""
        log.error("the database may not hold what this worker has done; it ends and is started anew")
        self._unsure = True
        self.stop()

    def stop(self) -> None:
        """Ask the worker to finish what it is sending and end."""
        self._stopping.set()
        self._wake.set()

    def stalled_s(self) -> float:
        """Return for how long a commit, or the lease's renewal, has not come back: both do, with an error if need be."""
        if self._stopping.is_set():
            return 0.0
        unrenewed = time.monotonic() - self._renewed - RENEW_S
        return max(unrenewed, self._context.async_writer.under_way.seconds)

    async def run(self) -> None:
        """Deliver until `stop`; then drain. Raises Buried when the lease was lost."""
        chores = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._every(_SWEEP_S, self._sweep)),
            asyncio.create_task(self._every(_MEND_S, self._mend_times)),
            asyncio.create_task(self._every(_MEND_S, self._reaper.look_behind)),
            asyncio.create_task(self._every(RENEW_S, self._renew, again=RENEW_AGAIN_S)),
            asyncio.create_task(self._every(_TIDY_S, self._retention.forget_usage)),
            asyncio.create_task(self._every(_PRUNE_S, self._prune)),
            asyncio.create_task(
                self._every(_FILE_S, self._sync_accounts, when=self._accounts_file.looks_new)
            ),
            asyncio.create_task(self._every(_LOG_S, self._write_log, when=lambda: self._unlogged)),
        ]
        dispatching = asyncio.create_task(self._dispatch())
        try:
            await asyncio.wait([*chores, dispatching], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            # A claim under way must reach its lane, or nobody would give it back.
            await asyncio.wait([dispatching])
            await self._drain()
            for task in (*chores, dispatching):
                if task.done():
                    task.result()
            if self._unsure:
                raise CommitUnknown
        finally:
            for task in (*chores, dispatching):
                task.cancel()
            await asyncio.gather(*chores, dispatching, return_exceptions=True)
            self._context.async_writer.close()

    # -- claiming

    async def _watch(self) -> None:
        """Wake the dispatcher soon after anybody has committed, or when jobs may have become due."""
        last, changed, looked = -1, 0.0, 0.0
        while True:
            now = time.monotonic()
            try:
                seen = self._store.change_counter()
            except StoreUnavailable:
                seen = last  # looking at the queue will say more
            if seen != last:
                last, changed = seen, now
            if changed == now or now - looked > _LOOK_S:
                looked = now
                self._wake.set()
            await asyncio.sleep(_WATCH_S if now - changed < 1.0 else _DOZE_S)

    async def _dispatch(self) -> None:
        while not self._stopping.is_set():
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._claim()
            except StoreUnavailable as error:
                log.warning("cannot claim mail just now: %s", error)
                await asyncio.sleep(_LOOK_S)

    async def _claim(self) -> None:
        if not self._has_room():
            return
        due = await self._context.read(lambda: self._store.accounts_due(self._clock()))
        takers = self._takers(due)
        shares = self._memory.shares(
            [stored.account.id for _, stored, _ in takers], self._context.bytes_in_hand
        )
        claims = [
            (sender, self._context.async_writer.submit(self._claim_work(sender, stored, room, share)))
            for (sender, stored, room), share in zip(takers, shares, strict=True)
        ]
        settled = await asyncio.gather(*(future for _, future in claims), return_exceptions=True)
        if claims:
            failpoint.hit("claim.committed")
        for _, stored, _ in takers:
            self._wake_by_pace(stored.account)
        for (sender, _), (_, stored, _), jobs in zip(claims, takers, settled, strict=True):
            if not isinstance(jobs, BaseException):
                self._memory.note(stored.account.id, got_some=bool(jobs))
                sender.feed(jobs)  # all that was claimed first: an account's trouble is no other's
        for fault in settled:
            if isinstance(fault, BaseException):
                raise fault

    def _wake_by_pace(self, account: Account) -> None:
        """Look again when the pace allows the next message, where that is sooner than the next look."""
        if account.gap is not None and account.gap < _LOOK_S * SECOND:
            asyncio.get_running_loop().call_later(account.gap / SECOND, self._wake.set)

    def _takers(self, due: Sequence[StoredAccount]) -> list[tuple[AccountSender, StoredAccount, int]]:
        """Return the lanes that can take in jobs now, and how many: they share what room there is in memory."""
        full = is_full(self._context.bytes_in_hand)
        takers = []
        for stored in due:
            sender = self._sender(stored)
            room = sender.room()
            if full:  # what hangs in one account's hands keeps nobody else waiting
                room = min(room, int(sender.is_idle))
            if room:
                takers.append((sender, stored, room))
        return takers

    def _has_room(self) -> bool:
        """Nothing is begun whose end might find no room on the disk; the first mail that could not says so."""
        has_room = self._store.free_bytes() >= self._settings.disk_reserve // 4
        if has_room != self._had_room:
            log.warning(
                "the disk is full: no mail is sent" if not has_room else "there is room on the disk again"
            )
            self._had_room = has_room
        return has_room

    def _sender(self, stored: StoredAccount) -> AccountSender:
        sender = self._senders.get(stored.account.id)
        if sender is None:
            sender = self._senders[stored.account.id] = AccountSender(self._context, stored)
        else:
            sender.refresh(stored)
        return sender

    def _claim_work(
        self, sender: AccountSender, stored: StoredAccount, room: int, share: Share
    ) -> Callable[[Transaction], list[ClaimedJob]]:
        def work(transaction: Transaction) -> list[ClaimedJob]:
            return transaction.claim(
                account_id=stored.account.id,
                worker_id=self._registration.worker_id,
                most=room,
                most_bytes=share.most_bytes,
                first_bytes=share.first_bytes,
                now=self._clock(),
                daily_limit=sender.daily_limit,
                paced=stored.account.gap is not None,
                probing=stored.account.state is not AccountState.ACTIVE,
            )

        return work

    # -- chores

    async def _every(
        self,
        seconds: float,
        chore: Callable[[], Any],
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
        self._context.workers = max(1, len(self._store.living_workers()))

    def _mend_times(self) -> None:
        """Let nothing wait for a time that was wrong: our clock, or that of whoever accepted the mail, was ahead."""
        longest = retry.longest(self._settings.retry_schedule)
        mended = _MENDED_AT_ONCE
        while mended == _MENDED_AT_ONCE and self._store.waits_too_long(self._clock(), longest):
            mended = self._store.write(
                lambda transaction: transaction.repair_due_times(self._clock(), longest, _MENDED_AT_ONCE)
            )
            if mended:
                messages = counted(
                    mended, "message that waited for its time is", "messages that waited for its time are"
                )
                log.warning("a clock was ahead: %s due now", messages)

    def _renew(self) -> None:
        try:
            if not self._registration.renew():
                raise WorkerExpired
            position.note(self._store, self._context.var / position.FILE)
            self._stocktaker.compare(self._context.in_hand, self._context.take_marked())
        finally:
            self._renewed = time.monotonic()

    def _prune(self) -> None:
        """The eldest worker prunes for all."""
        self._version.compare()
        eldest = min((record.id for record in self._store.living_workers()), default=None)
        if eldest == self._registration.worker_id:
            self._retention.prune()

    def _sync_accounts(self) -> None:
        report(self._accounts_file.sync_if_changed())

    def _note_finished(self) -> None:
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

    # -- the end

    async def _drain(self) -> None:
        """Finish what is being sent, give back the rest, record everything.

        A session whose dot is out is never broken off: its answer has the dot's own deadline, and
        without it a copy might be sent again.
        """
        self._context.draining = True
        report_stopping()
        log.info("stopping: %s in hand", counted(len(self._context.in_hand), "message"))
        for sender in self._senders.values():
            sender.release_waiting()
            sender.say_goodbye()
        sessions = [asyncio.create_task(sender.drained()) for sender in self._senders.values()]
        if sessions:
            await asyncio.wait(sessions, timeout=_DRAIN_S)
        unanswered = sum(sender.cancel() for sender in self._senders.values())
        if unanswered:
            log.warning(
                "waiting for the answers to %s that the servers have all of", counted(unanswered, "message")
            )
        if sessions:
            await asyncio.wait(sessions)
        try:
            within = _RECORD_S if self._store.is_in_place() else _RECORD_IN_VAIN_S
            await asyncio.wait_for(self._context.async_writer.settle(), within)
        except TimeoutError:
            log.warning("the database is away; what could not be recorded is in doubt")
        await self._write_rest_of_log()
        if not self._store.is_remote:  # what the next start misses it can tell
            with suppress(StoreError):
                position.note(self._store, self._context.var / position.FILE)
        await asyncio.to_thread(self._registration.leave, self._settings.in_doubt, crashed=self._unsure)
        log.info("stopped")

    async def _write_rest_of_log(self) -> None:
        """Write the log to its end; another worker that is writing may have looked before our last line was there."""
        deadline = time.monotonic() + _LOG_END_S
        while await asyncio.to_thread(self._write_log) and time.monotonic() < deadline:
            await asyncio.sleep(_WATCH_S)


def run_worker(
    settings: Settings, store: Store, vault: Vault, *, var: Path, lifeline: int | None = None
) -> None:
    """Deliver until SIGTERM or SIGINT, or until the other end of the pipe `lifeline` is closed."""

    raise_descriptor_limit()

    async def main() -> None:
        worker = Worker(settings, store, vault, var=var)
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, worker.stop)
        if lifeline is not None:
            watch_lifeline(lifeline)
        report_ready()
        Pulse(worker.stalled_s).start(loop)
        await worker.run()

    uvloop.run(main())
