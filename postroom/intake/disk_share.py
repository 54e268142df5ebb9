"""Each account's share of the disk: refuses (429) an account whose stored messages would fill it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from postroom.core.account import Account
from postroom.core.errors import QuotaExceeded, StoreError
from postroom.store.messages import Messages
from postroom.store.store import Store

log = logging.getLogger(__name__)

TIMES_WHAT_IS_LEFT = (
    4  # of the room above the reserve: four fifths for one account, four fifths of the rest for the next
)
ALWAYS = 16 * 1024 * 1024  # octets that every account may have
_FRESH_S = 10.0
_PART_OF_TIME = 20  # counting takes no more than this part of it
_RETRY_AFTER_S = 60
_MIB = 1024 * 1024


@dataclass(slots=True)
class _Known:
    """The octets of an account's messages that the database keeps, with what was added since they were counted."""

    octets: int = 0
    until: float = float("-inf")  # they count as known


def _most(room: int) -> int:
    return max(ALWAYS, TIMES_WHAT_IS_LEFT * room)


class DiskShares:
    """What the stored messages of an account may take: some times what they leave to all others.

    They are counted only where the whole database takes more than one share.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[int, _Known] = {}
        self._mutex = threading.Lock()

    def must_check(self, size: int, room: int) -> bool:
        """Whether the whole database takes more than one share, so that an account's messages are to be counted."""
        return self._store.used_bytes() + size > _most(room)

    def is_known(self, account_id: int) -> bool:
        """Whether an account's messages were counted of late; if not, `check` asks the database, which takes a while."""
        known = self._known.get(account_id)
        return known is not None and self._clock() < known.until

    def check(self, account: Account, size: int, room: int) -> None:
        """Count a message of so many octets, while `room` is free above the reserve. Raises QuotaExceeded."""
        if not self.must_check(size, room):
            return
        most = _most(room)
        known = self.count(account.id)
        if known.octets + size > most:
            log.warning(
                "refused: %s has used up its share of the disk: its messages take up %d MiB, and %d MiB are left",
                account.email,
                known.octets // _MIB,
                room // _MIB,
            )
            raise QuotaExceeded(
                "the stored messages of this account take up its share of the disk; try again when some of them are "
                "deleted, after the time in Retry-After (seconds)",
                retry_after=_RETRY_AFTER_S,
            )
        known.octets += size

    def count(self, account_id: int) -> _Known:
        """Count the octets of an account anew, unless that was done of late."""
        with self._mutex:
            known = self._known.setdefault(account_id, _Known())
            began = self._clock()
            if began < known.until:
                return known
            known.until = began + _FRESH_S  # nobody else counts meanwhile
        with suppress(StoreError, TimeoutError):  # what was known before must do
            known.octets = self._store.read(Messages.octets_of, account_id)
            known.until = self._clock() + max(_FRESH_S, _PART_OF_TIME * (self._clock() - began))
        return known
