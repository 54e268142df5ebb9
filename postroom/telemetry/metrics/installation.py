"""Metrics that all instances have alike: read from the database at a scrape, in bounded time and not too often."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from typing import Final

from postroom.core.clock import SECOND, Clock, system_clock
from postroom.core.errors import ConfigError, StoreError
from postroom.providers import server_for
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.connections import Connections
from postroom.store.messages import Messages
from postroom.store.store import Store
from postroom.store.totals import ATTEMPTS, EVENTS, JOBS, TESTS_ACCEPTED, TESTS_CAPTURED, Totals
from postroom.store.workers import Workers
from postroom.telemetry.living_workers import Leases
from postroom.telemetry.metrics import table
from postroom.telemetry.metrics.table import INSTALLATION
from postroom.telemetry.metrics.values import Value

_WITHIN_S: Final = 5.0  # Prometheus gives a scrape ten seconds
_FRESH_S: Final = 0.2
_SHARE_OF_LIMITS: Final = 100  # of 10,000 accounts they take 0.14 s, 0.2 s with a metric for each
_SHARE: Final = (
    10  # of the time is the most that looking may take: a look that took 50 ms holds for half a second
)


class Installation:
    """Looks at the database, in a thread of its own: one that does not answer holds up no more than a scrape."""

    def __init__(self, settings: Settings, store: Store, clock: Clock = system_clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._leases = Leases()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._mutex = threading.Lock()
        self._look: Future[list[Value]] | None = None
        self._fresh_until = float("-inf")
        self._limits_found: list[tuple[str, tuple[str, ...], float]] = []
        self._limits_fresh_until = float("-inf")

    def values(self) -> list[Value] | None:
        """Return what was found just now; None where the database cannot be read."""
        with self._mutex:
            if self._look is None or (self._look.done() and time.monotonic() >= self._fresh_until):
                self._look = self._thread.submit(self._timed)
            look = self._look
        try:
            return look.result(_WITHIN_S)
        except (StoreError, NotInTime):  # the reason is in the log of whatever else needs the database
            return None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _timed(self) -> list[Value]:
        began = time.monotonic()
        try:
            return [Value(name, (INSTALLATION, *labels), value) for name, labels, value in self._read()]
        finally:
            ended = time.monotonic()
            self._fresh_until = ended + max(_FRESH_S, _SHARE * (ended - began))

    def _read(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        yield from self._totals()
        yield from self._queue()
        yield from self._limits_of_late()
        yield from self._disk()

    def _totals(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        found = self._store.read(Totals.all)
        jobs = {state: value for (name, state), value in found.items() if name == JOBS}
        accepted = jobs.get("accepted", 0)
        yield "messages_accepted_total", (), accepted
        for status, state in table.STATUSES.items():
            yield "messages_ended_total", (status,), jobs.get(state, 0)
        waiting = accepted - sum(jobs.get(state, 0) for state in table.STATUSES.values())
        yield "queue_messages", (), max(0, waiting)
        yield "test_messages_accepted_total", (), found.get((TESTS_ACCEPTED, ""), 0)
        yield "test_messages_captured_total", (), found.get((TESTS_CAPTURED, ""), 0)
        for labels in table.ATTEMPTS:
            yield "attempts_total", labels, found.get((ATTEMPTS, " ".join(labels)), 0)
        for kind in table.EVENTS:
            yield "message_events_total", (kind,), found.get((EVENTS, kind), 0)

    def _queue(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        read, now = self._store.read, self._clock()
        yield "queue_sending_messages", (), read(Totals.sending)
        yield "queue_held_messages", (), read(Totals.held)
        oldest = read(Totals.oldest_due)
        age = 0.0 if oldest is None else max(0.0, (now - oldest) / SECOND)
        yield "queue_oldest_due_age_seconds", (), age
        states = read(Totals.accounts)
        for state in table.ACCOUNT_STATES:
            yield "accounts", (state,), states.get(state, 0)
        yield "workers_alive", (), self._leases.alive(read(Workers.living), now)
        yield "smtp_connections", (), read(Connections.count)

    def _limits_of_late(self) -> list[tuple[str, tuple[str, ...], float]]:
        """Return what is said of limits: it needs a look at every account, and changes over hours."""
        began = time.monotonic()
        if began >= self._limits_fresh_until:
            self._limits_found = list(self._limits())
            self._limits_fresh_until = began + _SHARE_OF_LIMITS * (time.monotonic() - began)
        return self._limits_found

    def _limits(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        used = {
            each.account_id: each.recipients for each in self._store.read(Totals.limits_used, self._clock())
        }
        with_accounts = self._settings.metrics_accounts
        waiting = self._store.read(Messages.counts) if with_accounts else {}
        highest = 0.0
        limits: dict[str, list[int]] = {}  # by mailbox: several accounts may have one, at several servers
        for stored in self._store.read(Accounts.all) if used or with_accounts else []:
            account = stored.account
            try:
                limit = server_for(account, self._settings).daily_limit
            except ConfigError:
                limit = account.daily_limit
            recipients = used.get(account.id, 0)
            if limit:
                highest = max(highest, recipients / limit)
            counts = waiting.get(account.id)
            figures = limits.setdefault(account.email, [0, 0, 0])
            for place, figure in enumerate(
                (limit or 0, recipients, counts.waiting + counts.held if counts else 0)
            ):
                figures[place] += figure
        yield "daily_limit_used_ratio", (), highest
        if with_accounts:
            for email, (most, recipients, messages) in limits.items():
                if most:
                    yield "account_daily_limit_recipients", (email,), most
                yield "account_daily_limit_used_recipients", (email,), recipients
                yield "account_queue_messages", (email,), messages

    def _disk(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        if not self._store.is_remote:
            yield "disk_free_bytes", (), self._store.free_bytes()
            yield "database_size_bytes", (), self._store.used_bytes()
        yield "disk_reserve_bytes", (), self._settings.disk_reserve
