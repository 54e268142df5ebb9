"""Symptoms of what is wrong, read for notices: accounts, waiting jobs, workers, failed messages. Bounded, by index."""

from __future__ import annotations

from typing import Final, NamedTuple

from postroom.core.clock import Instant
from postroom.core.outcome import Reply
from postroom.core.plain_words import with_explanation
from postroom.store.noun import Noun
from postroom.store.usage import BUCKETS_A_DAY, bucket_of

MOST: Final = 1000  # rows of one symptom
_WORKERS: Final = 1000  # the newest ones


class AccountAtFault(NamedTuple):
    """An account that the breaker has paused, or that rests for a limit."""

    id: int
    email: str
    state: str
    state_reason: str | None
    state_since: Instant | None
    resume_at: Instant | None


class OldJobs(NamedTuple):
    """An account whose oldest job has been due for long, or whose server is away, and how many of its messages have ended.

    `away_at` is when the first try of a message that waits ended with the connection, `tried_at` when the last one did.
    """

    id: int
    email: str
    due_at: Instant | None
    away_at: Instant | None
    tried_at: Instant | None
    ended: int

    def waits_since(self, moved_at: Instant) -> Instant | None:
        """Return since when messages wait, where one ended at `moved_at`; None: none is due and no server away."""
        is_away = self.away_at is not None and self.tried_at is not None and self.tried_at > moved_at
        return min(filter(None, (self.due_at, self.away_at if is_away else None)), default=None)


class Deaths(NamedTuple):
    """How many workers of a host have died lately, soon after they began."""

    host: str
    deaths: int
    first_at: Instant


class FailedDelivery(NamedTuple):
    """A recipient to whom a message could not be sent, and why."""

    request_id: str
    sender: str
    forward_path: str
    reason: str
    reply_code: int | None
    reply_enhanced: str | None
    reply_text: str | None
    finished_at: Instant

    @property
    def explained(self) -> str:
        """The reason, and what it means where it does not say so."""
        if self.reply_code is None:
            return self.reason
        reply = Reply(self.reply_code, self.reply_text or "", self.reply_enhanced)
        return with_explanation(self.reason, reply)


class UsedOfLimit(NamedTuple):
    account_id: int
    recipients: int


class _Ended(NamedTuple):
    state: str
    messages: int


class Symptoms(Noun):
    def accounts_at_fault(self) -> list[AccountAtFault]:
        return self._tx.rows(AccountAtFault, "accounts_at_fault", most=MOST)

    def old_jobs(self, before: Instant, now: Instant) -> list[OldJobs]:
        """Return the accounts that may send and have had a job due since before `before`, or a server that is away."""
        return self._tx.rows(OldJobs, "accounts_with_old_jobs", before=before, now=now, most=MOST)

    def deaths(self, since: Instant) -> list[Deaths]:
        """Return, by host, how many workers have died since then that had begun since then."""
        return self._tx.rows(Deaths, "recent_deaths", since=since, most=_WORKERS)

    def last_worker_gone(self) -> Instant | None:
        return self._tx.value(int, "last_worker_gone")

    def ended(self) -> dict[str, int]:
        """Return how many messages have ever ended, by state: exact, whatever the order of the commits."""
        return dict(self._tx.rows(_Ended, "ended_messages"))

    def failed_since(self, since: Instant, most: int) -> list[FailedDelivery]:
        """Return the newest recipients that failed since then, of at most so many messages, oldest first."""
        return self._tx.rows(FailedDelivery, "failed_lately", since=since, most=most)

    def used_of_limits(self, now: Instant) -> list[UsedOfLimit]:
        """Return how many recipients each account has had within a day."""
        current = bucket_of(now)
        return self._tx.rows(
            UsedOfLimit, "used_of_limits", bucket=current - BUCKETS_A_DAY + 1, latest=current + BUCKETS_A_DAY
        )
