"""Daily limits of accounts: recipients are counted in usage buckets of ten minutes, over a rolling day."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core.clock import SECOND, Instant
from postroom.core.job import JobRef
from postroom.store.noun import Noun

BUCKET = 600 * SECOND
BUCKETS_A_DAY = 145  # 24 h and the bucket that has begun: never less than the rolling day
LONGEST_PARK = BUCKETS_A_DAY * BUCKET
_LIMIT_REACHED = "the account's limit of {} recipients in 24 hours is reached"


def bucket_of(now: Instant) -> int:
    """Return the number of the usage bucket that a time is in."""
    return now // BUCKET


class _Used(NamedTuple):
    recipients: int
    oldest: int | None


class Usage(Noun):
    def used(self, account_id: int, now: Instant) -> _Used:
        """Return the recipients of the last 24 hours, and the first bucket that holds any."""
        current = bucket_of(now)
        found = self._tx.row(
            _Used,
            "usage_since",
            account_id=account_id,
            bucket=current - BUCKETS_A_DAY + 1,
            latest=current + BUCKETS_A_DAY,  # further on lies only what a clock that went wrong has left
        )
        assert found is not None
        return found

    def recipients_used(self, account_id: int, now: Instant) -> int:
        """Return how many recipients of its daily limit an account has used in the 24 hours until now."""
        return self.used(account_id, now).recipients

    def reserve(self, account_id: int, recipients: int, now: Instant) -> None:
        """Count recipients towards an account's limit."""
        self._tx.change("reserve_usage", account_id=account_id, bucket=bucket_of(now), recipients=recipients)

    def park_until_room(self, account_id: int, daily_limit: int, now: Instant) -> None:
        """Park an account until its oldest bucket is over a day old."""
        oldest = self.used(account_id, now).oldest
        bucket = bucket_of(now) if oldest is None else oldest
        self._tx.accounts.suspend(
            account_id,
            state="parked",
            reason=_LIMIT_REACHED.format(daily_limit),
            resume_at=(bucket + BUCKETS_A_DAY) * BUCKET,
            now=now,
        )

    def give_back(self, job: JobRef, unused: int) -> None:
        """Give back what was reserved for recipients to whom nothing was sent."""
        if job.reserved_bucket is None or not unused:
            return
        self._tx.change("return_usage", job_id=job.id, bucket=job.reserved_bucket, recipients=unused)
        self._tx.change("resume_within_limit", job_id=job.id, reason=_LIMIT_REACHED.format("%"))

    def forget(self, now: Instant) -> None:
        """Drop what is older than a day."""
        self._tx.change("forget_usage", bucket=bucket_of(now) - BUCKETS_A_DAY)
