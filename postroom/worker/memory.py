"""Bounds the memory of messages that a worker holds: a budget of octets for all accounts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MIB: Final = 1024 * 1024
MOST_IN_HAND: Final = 64 * _MIB
_FOR_SMALL: Final = 16 * _MIB  # beyond it, so that large messages that hang keep no small one waiting
_SMALL: Final = _MIB
_MOST_A_CLAIM: Final = 8 * _MIB
_ANY_SIZE: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class Share:
    """What one claim may bring in: messages of `most_bytes` together, or one of `first_bytes`."""

    most_bytes: int
    first_bytes: int


class MemoryBudget:
    """Divides what room there is among the accounts that have messages due.

    A message larger than its account's share needs a permit, of which there are as many as fit. Accounts that got
    nothing for want of one come first the next time.
    """

    def __init__(self, largest: int) -> None:
        self._largest = max(largest, _SMALL)
        self._passed_over: dict[int, None] = {}  # accounts, in the order in which they are to have a permit
        self._permitted: set[int] = set()

    def shares(self, accounts: Sequence[int], in_hand: int) -> list[Share]:
        """Return the shares of these accounts, in their order, with so many octets in hand."""
        count = max(1, len(accounts))
        left = max(0, MOST_IN_HAND - in_hand)
        order = {account: place for place, account in enumerate(self._passed_over)}
        queue = sorted(accounts, key=lambda each: order.get(each, len(order)))
        self._permitted = set(queue[: self._permits(left, count)])
        granted = len(self._permitted) * self._largest
        most = max(0, min((left - granted) // count, _MOST_A_CLAIM))
        small = min(max(0, MOST_IN_HAND + _FOR_SMALL - in_hand - granted) // count, _SMALL)
        firsts = dict.fromkeys(accounts, max(most, small)) | dict.fromkeys(self._permitted, self._largest)
        if not in_hand and queue:  # nothing is so large that it is never sent
            firsts[queue[0]] = _ANY_SIZE
        return [Share(most, firsts[account]) for account in accounts]

    def _permits(self, left: int, accounts: int) -> int:
        """Return how many may bring in one of the largest: all where they fit, else half of the room is for the others."""
        fitting = left // self._largest
        return fitting if fitting >= accounts else max(fitting // 2, min(1, fitting))

    def note(self, account: int, *, got_some: bool) -> None:
        """Note whether a claim brought anything in."""
        if got_some or account in self._permitted:
            self._passed_over.pop(account, None)
        else:
            self._passed_over.setdefault(account)


def is_full(in_hand: int) -> bool:
    """Whether only idle accounts take in anything, and that is small."""
    return in_hand >= MOST_IN_HAND
