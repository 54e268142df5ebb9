"""Claims due jobs and hands them to the senders of their accounts; none while the disk is nearly full."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from postroom.core import failpoint
from postroom.core.account import Account, AccountState
from postroom.core.clock import SECOND
from postroom.core.errors import StoreUnavailable
from postroom.core.job import MOST_IN_MEMORY, ClaimedJob
from postroom.store.accounts import Accounts, StoredAccount
from postroom.store.transaction import Transaction
from postroom.worker.mail.context import Context
from postroom.worker.mail.sender import AccountSender
from postroom.worker.memory import MemoryBudget, Share, is_full

log = logging.getLogger(__name__)

_WATCH_S = 0.02  # how often to ask whether anything was committed, while there is something going on
_DOZE_S = 0.08  # the same, after a second without a commit
_LOOK_S = 0.25  # how often to look for jobs that have become due


class Dispatcher:
    """Gives each account's sender its jobs. `wake` is set whenever there may be some."""

    def __init__(self, context: Context, wake: asyncio.Event, stopping: asyncio.Event) -> None:
        self._context = context
        self._wake = wake
        self._stopping = stopping
        self._had_space = True
        self._senders: dict[int, AccountSender] = {}
        self._memory = MemoryBudget(MOST_IN_MEMORY)

    @property
    def senders(self) -> Iterable[AccountSender]:
        return self._senders.values()

    async def watch(self) -> None:
        """Wake the dispatcher soon after anybody has committed, or when jobs may have become due."""
        last, changed, looked = -1, 0.0, 0.0
        while True:
            now = time.monotonic()
            try:
                seen = self._context.store.change_counter()
            except StoreUnavailable:
                seen = last  # looking at the queue will say more
            if seen != last:
                last, changed = seen, now
            if changed == now or now - looked > _LOOK_S:
                looked = now
                self._wake.set()
            await asyncio.sleep(_WATCH_S if now - changed < 1.0 else _DOZE_S)

    async def run(self) -> None:
        while not self._stopping.is_set():
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._claim()
            except StoreUnavailable as error:
                log.warning("cannot claim messages just now: %s", error)
                await asyncio.sleep(_LOOK_S)

    async def _claim(self) -> None:
        if not self._has_disk_space():
            return
        due = await self._context.read(lambda: self._context.store.read(Accounts.due, self._context.clock()))
        takers = self._takers(due)
        shares = self._memory.shares(
            [stored.account.id for _, stored, _ in takers], self._context.bytes_in_hand
        )
        claims = [
            (sender, self._context.async_writer.submit(self._claim_work(sender, stored, room, share)))
            for (sender, stored, room), share in zip(takers, shares, strict=True)
        ]
        results = await asyncio.gather(*(future for _, future in claims), return_exceptions=True)
        if claims:
            failpoint.hit("claim.committed")
        for _, stored, _ in takers:
            self._wake_by_pace(stored.account)
        for (sender, _), (_, stored, _), jobs in zip(claims, takers, results, strict=True):
            if not isinstance(jobs, BaseException):
                self._memory.note(stored.account.id, got_some=bool(jobs))
                sender.feed(jobs)  # all that was claimed first: an account's trouble is no other's
        for fault in results:
            if isinstance(fault, BaseException):
                raise fault

    def _wake_by_pace(self, account: Account) -> None:
        """Look again when the pace allows the next message, where that is sooner than the next look."""
        if account.gap is not None and account.gap < _LOOK_S * SECOND:
            asyncio.get_running_loop().call_later(account.gap / SECOND, self._wake.set)

    def _takers(self, due: Sequence[StoredAccount]) -> list[tuple[AccountSender, StoredAccount, int]]:
        """Return the accounts that can take in jobs now, and how many: they share what room there is in memory."""
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

    def _has_disk_space(self) -> bool:
        """Begin nothing whose end might find no room on the disk; log when that begins and when it is over."""
        has_space = self._context.store.free_bytes() >= self._context.settings.disk_reserve // 4
        if has_space != self._had_space:
            log.warning(
                "the disk is full: no message is sent" if not has_space else "there is room on the disk again"
            )
            self._had_space = has_space
        return has_space

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
            return transaction.queue.claim(
                account_id=stored.account.id,
                worker_id=self._context.worker_id,
                most=room,
                most_bytes=share.most_bytes,
                first_bytes=share.first_bytes,
                now=self._context.clock(),
                daily_limit=sender.daily_limit,
                paced=stored.account.gap is not None,
                probing=stored.account.state is not AccountState.ACTIVE,
            )

        return work
