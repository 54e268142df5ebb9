"""Watermarks: where a claim begins to look for due jobs on PostgreSQL, whose index keeps claimed entries.

PostgreSQL's indexes hold the entries of rows that were changed until nobody can see them any more: while one session
sits in an old transaction, every claim would pass over all that was claimed since. Jobs are claimed in the order in
which they are due, so what is gone lies before what is left. A look begins a little before the last one's end; every few
seconds one begins at the very beginning, for what came in late.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from postroom.core.clock import SECOND, Instant

_MARGIN = 2 * SECOND  # commits that take their time, and clocks that differ
_FROM_THE_BEGINNING_S = 5.0


class Watermarks:
    """The due times below which nothing was left at the last look. Safe to use from several threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._accounts: dict[int, Instant] = {}
        self._whole: dict[
            int | None, float
        ] = {}  # when a look last began at the beginning; None: for all accounts
        self._listed: set[int] = set()  # accounts with jobs due at or since the last whole look for all
        self._others: Instant = 0  # all accounts but these had nothing due before

    def of_account(self, account_id: int) -> Instant:
        """Return where a claim of this account is to begin."""
        with self._mutex:
            return 0 if self._is_time(account_id) else self._accounts.get(account_id, 0)

    def note_claim(self, account_id: int, left: Instant) -> None:
        """Note that nothing is left of an account that was due before `left`."""
        with self._mutex:
            self._accounts[account_id] = left - _MARGIN

    def of_all(self) -> Instant:
        """Return where the look for accounts with jobs due is to begin."""
        with self._mutex:
            if self._is_time(None):
                return 0
            return min([self._others, *(self._accounts.get(each, 0) for each in self._listed)])

    def note_accounts(self, begun_at: Instant, now: Instant, found: Iterable[int]) -> None:
        """Note which accounts a look that began there has found."""
        with self._mutex:
            if begun_at == 0:
                self._listed, self._others = set(found), now - _MARGIN
            else:
                self._listed.update(found)

    def _is_time(self, whose: int | None) -> bool:
        now = time.monotonic()
        if now - self._whole.get(whose, float("-inf")) < _FROM_THE_BEGINNING_S:
            return False
        self._whole[whose] = now
        return True
