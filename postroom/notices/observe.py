"""Looks at the installation for notices: one read of the database, and the troubles in it as values."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from postroom.accounts.doctor.finding import Finding, Severity
from postroom.core.account import Account
from postroom.core.clock import SECOND, Clock, Instant, rfc3339
from postroom.core.errors import ConfigError
from postroom.core.notices.kinds import Kind
from postroom.core.notices.values import Happened, Look, Seen
from postroom.core.notices.words import alike, one_line
from postroom.core.text import counted
from postroom.providers import server_for
from postroom.runtime.examination import about_disk
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.notices import NoticeMessage
from postroom.store.store import Store
from postroom.store.symptoms import AccountAtFault, Deaths, FailedDelivery, OldJobs
from postroom.store.transaction import Transaction
from postroom.worker.liveness import running

_SAMPLE: Final = 500  # failed messages that are read at one look, for their reasons
_OVERLAP: Final = 60 * SECOND  # a commit may show itself later than the time in it says
_EVERY_LOOKS: Final = 3  # at which daily limits are looked at: a row for each account and ten minutes
_ACCOUNTS_S: Final = 60.0
_RESTS: Final = 60 * SECOND  # an account that is parked for less is of no interest
_LEAST_OF_SHARE: Final = 20  # messages: of fewer a share says nothing


@dataclass(slots=True)
class Totals:
    """How many messages had ended at the last look; messages that failed since then are new. Kept in the database."""

    failed: int | None = None
    looked_at: Instant = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """What one read of the database has found."""

    at_fault: Sequence[AccountAtFault]
    old_jobs: Sequence[OldJobs]
    deaths: Sequence[Deaths]
    ended: dict[str, int]
    messages: Sequence[NoticeMessage]


@dataclass(slots=True)
class _Watched:
    """An account whose jobs wait: since when none of its messages has ended, and when one was last seen to have."""

    ended: int
    since: float  # monotonic, in seconds
    moved_at: Instant


@dataclass(slots=True)
class Observer:
    """Looks, and remembers between looks what a single one cannot tell: progress, shares, leases."""

    settings: Settings
    store: Store
    clock: Clock
    monotonic: Callable[[], float] = time.monotonic
    totals: Totals = field(default_factory=Totals)
    ended_messages: tuple[str, ...] = ()  # notices that were messages and have ended, at the last look
    _counted: set[str] = field(default_factory=set)
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _looked_at: Instant | None = None
    _samples: deque[tuple[Instant, int, int]] = field(default_factory=deque)
    _none_since: tuple[Instant, float] | None = None
    _limits: tuple[int, list[Seen]] = (0, [])  # looks so far, and what was found
    _accounts: tuple[float, dict[int, tuple[str, int | None]]] = (float("-inf"), {})

    def look(self) -> Look:
        """Return what is wrong now. Raises StoreError."""
        now = self.clock()
        stuck, window = self.settings.notify_stuck, self.settings.notify_window
        found = self.store.read(_read, now=now, before=now - stuck // 2, since=now - window)
        failed = found.ended.get("failed", 0)
        self._note_sample(now, found.ended)
        happened = self._failures(found, failed, now)
        share, share_known = self._share(now)
        workers = tuple(self._workers(found.deaths, now))
        stuck_known = self._none_since is None and not self._has_full_disk()
        seen = (
            *self._paused(found.at_fault),
            *self._stuck(found.old_jobs if stuck_known else (), now),
            *self._used_up(found.at_fault, now),
            *workers,
            *self._disk(now),
            *share,
        )
        unknown = {
            kind for kind, known in ((Kind.SHARE, share_known), (Kind.STUCK, stuck_known)) if not known
        }
        return Look(frozenset(Kind) - unknown, seen, happened)

    # -- accounts

    def _paused(self, at_fault: Sequence[AccountAtFault]) -> Iterator[Seen]:
        for each in at_fault:
            if each.state == "paused":
                yield Seen(
                    Kind.PAUSED,
                    str(each.id),
                    each.state_since or 0,
                    one_line(each.email),
                    one_line(each.state_reason or ""),
                    account=each.email.lower(),
                )

    def _stuck(self, old_jobs: Sequence[OldJobs], now: Instant) -> Iterator[Seen]:
        """Yield the accounts whose jobs have been due, or whose server away, for too long, and of which nothing has ended.

        A message that ended after the last failed connection shows that the server is back. An account that was not listed
        at the look before had none that failed by then; of what failed before the first look that is not known.
        """
        before, self._watched = self._watched, {}
        looked_at, self._looked_at = self._looked_at or now, now
        monotonic, threshold = self.monotonic(), self.settings.notify_stuck
        for each in old_jobs:
            watched = before.get(each.id)
            if watched is None or watched.ended != each.ended:
                watched = _Watched(each.ended, monotonic, looked_at if watched is None else now)
            self._watched[each.id] = watched
            waits_since = each.waits_since(watched.moved_at)
            if waits_since is None or now - waits_since < threshold:
                continue
            if monotonic - watched.since >= threshold / 2 / SECOND:
                reason = self.store.read(Accounts.last_reason, each.id)
                yield Seen(
                    Kind.STUCK, str(each.id), waits_since, one_line(each.email), one_line(reason or "")
                )

    def _used_up(self, at_fault: Sequence[AccountAtFault], now: Instant) -> Iterator[Seen]:
        """Yield the accounts that rest for a limit, and those that have nearly used up their daily limit."""
        rests = {
            str(each.id): Seen(
                Kind.LIMIT,
                str(each.id),
                each.state_since or now,
                one_line(each.email),
                one_line(f"{each.state_reason}; it goes on at {rfc3339(each.resume_at or now)}"),
                account=each.email.lower(),
            )
            for each in at_fault
            if each.state == "parked" and (each.resume_at or 0) - (each.state_since or now) >= _RESTS
        }
        looks, nearly = self._limits
        if looks % _EVERY_LOOKS == 0:
            nearly = list(self._nearly(now))
        self._limits = looks + 1, nearly
        yield from {**{each.subject: each for each in nearly}, **rests}.values()

    def _nearly(self, now: Instant) -> Iterator[Seen]:
        used = self.store.read(_used_of_limits, now)
        limits = self._daily_limits() if used else {}
        told = {each.subject for each in self._limits[1]}
        for account_id, recipients in used.items():
            if str(account_id) in told or account_id not in limits:  # it may just have been raised, or be new
                self._read_limit(account_id, limits)
            email, limit = limits.get(account_id, ("", None))
            if limit and recipients * 100 >= limit * self.settings.notify_limit:
                said = f"{recipients} of {limit} recipients used in the last 24 hours, {max(0, limit - recipients)} left"
                full = email.lower() if recipients >= limit else ""
                yield Seen(Kind.LIMIT, str(account_id), now, one_line(email), said, account=full)

    def _daily_limits(self) -> dict[int, tuple[str, int | None]]:
        looked, limits = self._accounts
        if self.monotonic() - looked < _ACCOUNTS_S:
            return limits
        limits = {each.account.id: self._limit_of(each.account) for each in self.store.read(Accounts.all)}
        self._accounts = self.monotonic(), limits
        return limits

    def _read_limit(self, account_id: int, limits: dict[int, tuple[str, int | None]]) -> None:
        stored = self.store.read(Accounts.get, account_id)
        limits[account_id] = ("", None) if stored is None else self._limit_of(stored.account)

    def _limit_of(self, account: Account) -> tuple[str, int | None]:
        try:
            return account.email, server_for(account, self.settings).daily_limit
        except ConfigError:
            return account.email, account.daily_limit

    # -- failures

    def _failures(self, found: _Found, failed: int, now: Instant) -> tuple[Happened, ...]:
        """Return what has failed since the last look: the count from the totals, reasons from the newest ones.

        Notices that are messages are left out. One that has ended before the totals were read, and is not in them yet, makes
        the difference negative for a moment: it is kept.
        """
        totals, since = self.totals, self.totals.looked_at
        own = {each.request_id for each in found.messages}
        over = [each for each in found.messages if each.state is None or each.finished_at is not None]
        self.ended_messages = tuple(each.request_id for each in over)
        new = [each for each in over if each.request_id not in self._counted]
        self._counted = set(self.ended_messages)  # until the database has forgotten them
        if totals.failed is None:  # the first look of all: what failed before is no news
            self.totals = Totals(failed, now)
            return ()
        base = totals.failed + sum(each.state == "failed" for each in new)
        count = failed - base
        self.totals = Totals(max(failed, base), now)
        if count <= 0:
            return ()
        sample = self.store.read(_failed_since, since) or self.store.read(_failed_since, since - _OVERLAP)
        others = [each for each in sample if each.request_id not in own]
        causes = Counter(alike(each.explained) for each in others)
        examples = tuple(_example(each) for each in others[:3])
        first_at = min((each.finished_at for each in others), default=now)
        return (Happened(Kind.FAILED, count, first_at, causes, examples),)

    def _note_sample(self, now: Instant, ended: dict[str, int]) -> None:
        if self._samples and now < self._samples[-1][0]:  # the clock was set back
            self._samples.clear()
        self._samples.append((now, ended.get("done", 0), ended.get("failed", 0)))
        while len(self._samples) > 2 and self._samples[1][0] < now - self.settings.notify_window:
            self._samples.popleft()
        if len(self._samples) > 400:  # every second one is enough
            self._samples = deque([*list(self._samples)[::2], self._samples[-1]])

    def _share(self, now: Instant) -> tuple[list[Seen], bool]:
        """Return whether too many of the messages of the last window have failed, and whether that can be said at all."""
        (first_at, sent, failed), (_, sent_now, failed_now) = self._samples[0], self._samples[-1]
        failures, ended = failed_now - failed, failed_now - failed + sent_now - sent
        if ended < _LEAST_OF_SHARE:
            return [], now - first_at >= self.settings.notify_window
        if failures * 100 < ended * self.settings.notify_share:
            return [], True
        said = f"{failures} of the {ended} messages that have ended since {rfc3339(first_at)} have failed"
        return [Seen(Kind.SHARE, "", first_at, "", said)], True

    # -- the installation

    def _workers(self, deaths: Sequence[Deaths], now: Instant) -> Iterator[Seen]:
        for each in deaths:
            if each.deaths >= self.settings.notify_deaths:
                within = self.settings.notify_window // SECOND
                title = f"workers keep dying: {counted(each.deaths, 'death')} within the last {within} s"
                effect = "Each death has the messages that the worker had in hand tried again, later."
                yield Seen(Kind.WORKER, f"deaths {each.host}", each.first_at, title, effect=effect)
        if self._some_live():
            self._none_since = None
            return
        monotonic = self.monotonic()
        if self._none_since is None:
            self._none_since = now, monotonic
        since, looked = self._none_since
        if monotonic - looked >= self.settings.notify_away / SECOND:
            yield Seen(Kind.WORKER, "none", since, "no worker runs", urgent=True)

    def _some_live(self) -> bool:
        """Whether a worker runs: its lock is held, its lease is not over, or it was renewed since the last look."""
        return bool(running(self.store, self.clock))

    def _has_full_disk(self) -> bool:
        """Whether the workers send nothing for want of room: what waits then is no news of its account."""
        return self.store.free_bytes() < self.settings.disk_reserve // 4

    def _disk(self, now: Instant) -> Iterator[Seen]:
        free, reserve = self.store.free_bytes(), self.settings.disk_reserve
        least = self.settings.notify_disk
        finding = about_disk(free, reserve)
        if free == sys.maxsize or not (_is_bad(finding) if least is None else free < max(least, reserve)):
            return
        full = free < reserve
        effect = (
            "No message is accepted (503), and below a quarter of the reserve none is sent." if full else ""
        )
        yield Seen(Kind.DISK, "", now, "the disk", finding.summary, effect=effect, urgent=full)


def _is_bad(finding: Finding) -> bool:
    return finding.severity in (Severity.WARNING, Severity.ERROR)


def _example(failed: FailedDelivery) -> str:
    return one_line(f"{failed.request_id} from {failed.sender} to {failed.forward_path}: {failed.explained}")


def _read(transaction: Transaction, *, now: Instant, before: Instant, since: Instant) -> _Found:
    symptoms = transaction.symptoms
    return _Found(
        symptoms.accounts_at_fault(),
        symptoms.old_jobs(before, now),
        symptoms.deaths(since),
        symptoms.ended(),
        transaction.notices.messages(),
    )


def _used_of_limits(transaction: Transaction, now: Instant) -> dict[int, int]:
    return {each.account_id: each.recipients for each in transaction.symptoms.used_of_limits(now)}


def _failed_since(transaction: Transaction, since: Instant) -> list[FailedDelivery]:
    return transaction.symptoms.failed_since(since, _SAMPLE)
