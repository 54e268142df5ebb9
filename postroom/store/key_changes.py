"""Which accounts and issued keys each of the last changes was about, so that web processes read those again alone.

A setting holds the last changes, oldest first: `41=a17,k5 42=* 43=a9`. The number is the revision that the change has
raised, `a` an account with all its keys, `k` an issued key, and `*` stands for anything. The row of the revision is
locked until the commit, so the changes stand in the order of their commits. A revision that is missing (of an earlier
version, or long ago) means that all has to be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postroom.core.numbers import whole_number
from postroom.store.noun import Noun

if TYPE_CHECKING:
    from collections.abc import Iterable

RECENT_CHANGES: Final = "recent_key_changes"  # setting
_ANYTHING: Final = "*"
_MOST_KEPT: Final = 100  # changes
_MOST_NAMED: Final = 20  # of a change; one of more is of anything
_MOST_READ: Final = 200  # one by one, before all are read at once


@dataclass(frozen=True, slots=True)
class ChangedKeys:
    """What is to be read again: accounts with all their keys, and issued keys."""

    accounts: frozenset[int]
    issued: frozenset[int]


class KeyChanges(Noun):
    def note(self, revision_of: str, words: frozenset[str] | None) -> None:
        """Note what the change is about that has just raised this revision; None: anything."""
        revision = self._tx.settings.get(revision_of)
        named = _ANYTHING if words is None or len(words) > _MOST_NAMED else ",".join(sorted(words))
        recent = (self._tx.settings.get(RECENT_CHANGES) or "").split()[1 - _MOST_KEPT :]
        self._tx.settings.set(RECENT_CHANGES, " ".join([*recent, f"{revision}={named}"]))


def changed_between(recent: str | None, seen: str | None, revision: str | None) -> ChangedKeys | None:
    """Return what has changed after the revision `seen` up to `revision`; None: anything may have."""
    first, last = _number(seen), _number(revision)
    if recent is None or first is None or last is None or not 0 < last - first <= _MOST_KEPT:
        return None
    words = {number: named for number, _, named in (entry.partition("=") for entry in recent.split())}
    found: set[str] = set()
    for number in range(first + 1, last + 1):
        named = words.get(str(number), _ANYTHING)
        found.update(named.split(",") if named else ())
    if _ANYTHING in found or len(found) > _MOST_READ:
        return None
    return ChangedKeys(_ids("a", found), _ids("k", found))


def _ids(kind: str, words: Iterable[str]) -> frozenset[int]:
    numbers = (_number(word[1:]) for word in words if word.startswith(kind))
    return frozenset(number for number in numbers if number is not None)


def _number(text: str | None) -> int | None:
    return None if text is None else whole_number(text)
