"""An account's pace in the database, shared by all workers (core/pace.py has the arithmetic)."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core import pace
from postroom.core.clock import Instant
from postroom.core.pace import Pace
from postroom.store.noun import Noun


class _StoredPace(NamedTuple):
    gap: int
    average: int
    since: Instant
    taken: int
    slowed_at: Instant
    refusals: int
    paid_until: Instant

    @property
    def pace(self) -> Pace:
        return Pace(self.gap, self.average, self.since, self.taken, self.slowed_at, self.refusals)


class AccountPace(Noun):
    def slow(self, account_id: int, started: Pace, *, reason: str, tried_at: Instant, now: Instant) -> None:
        """Halve an account's pace, which is `started` where it had none, and let it rest for a while.

        What was tried before the pace was last halved tells nothing new.
        """
        self._tx.accounts.lock(account_id)
        found = self._get(account_id)
        before = started if found is None else found.pace
        slower = pace.slowed(before, tried_at=tried_at, now=now)
        if slower is before:
            return
        resume_at = now + pace.rest(slower)
        self._write(account_id, slower, resume_at)
        self._tx.accounts.suspend(account_id, state="parked", reason=reason, resume_at=resume_at, now=now)

    def quicken(self, account_id: int, *, began_at: Instant, now: Instant) -> None:
        """Raise the pace of an account that has one by a step: a message was taken."""
        self._tx.accounts.lock(account_id)
        found = self._get(account_id)
        if found is None:
            return
        quicker = pace.quickened(found.pace, began_at=began_at, now=now)
        if quicker is None:
            self._tx.change("forget_pace", account_id=account_id)
        else:
            # What is due by the slower pace is due sooner by the quicker one.
            self._write(account_id, quicker, min(found.paid_until, now + quicker.gap))
        self._tx.has_new_work = True

    def count_due(self, account_id: int, most: int, now: Instant) -> int:
        """Return how many jobs the account's pace allows now, up to `most`, and count them."""
        found = self._get(account_id)
        if found is None:
            return most
        count, paid_until = pace.due(found.paid_until, found.gap, now, most)
        if count:
            self._write(account_id, found.pace, paid_until)
        return count

    def _get(self, account_id: int) -> _StoredPace | None:
        return self._tx.row(_StoredPace, "read_pace", account_id=account_id)

    def _write(self, account_id: int, new: Pace, paid_until: Instant) -> None:
        self._tx.change(
            "write_pace",
            account_id=account_id,
            gap=new.gap,
            average=new.average,
            since=new.since,
            taken=new.taken,
            slowed_at=new.slowed_at,
            refusals=new.refusals,
            paid_until=paid_until,
        )
