"""Finds the messages of a list, the newest first: by an index for one filter, and a bounded look at each for the others.

Order, pages and cursors go by the number of a message, which is the order of acceptance. What finds messages by recipient or
status are notes that a worker makes soon after the commits (store/projection.py). Messages of events that are not noted yet
are looked at one by one, and so are those of before the first note, so that a list is right at any time.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Final, NamedTuple, TypeAlias

from postroom.core.clock import Instant
from postroom.core.listing import (
    BLOCK,
    ENDS,
    Filter,
    Kind,
    Note,
    has_words,
    is_to,
    note_of_recipient,
    note_of_status,
)
from postroom.core.status_word import StatusWord
from postroom.store.messages import Listed
from postroom.store.noun import Noun
from postroom.store.projection import Projection

NEWEST: Final = (1 << 63) - 1  # behind all messages
MOST_LOOKED_AT: Final = 10_000
_MOST_FOREIGN: Final = (
    10_000  # messages that the key may not see, before its own are looked at one by one instead
)
_MOST_UNNOTED: Final = 10_000  # events that are not noted yet, before all messages are looked at instead
_MOST_WAITING: Final = 500  # jobs that are put in order here
_MOST_PAUSED: Final = 100  # accounts
_CHUNK: Final = 1000
_Fetch: TypeAlias = "Callable[[int, int], list[int]]"
"""Returns up to so many messages before one, the newest first."""

_JOB_STATES: Final = {
    StatusWord.SENDING: "claimed",
    StatusWord.SENT: "done",
    StatusWord.FAILED: "failed",
    StatusWord.CANCELLED: "cancelled",
    StatusWord.SUPPRESSED: "",
}


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a list; `reached` is where the next one begins, None at the end. `is_partial`: it ended the look early."""

    messages: list[Listed]
    reached: int | None
    is_partial: bool


class _Light(NamedTuple):
    """What most filters need of a message."""

    message_id: int
    account_id: int
    key_id: int | None
    accepted_at: Instant
    subject: str
    test: int | None
    job_state: str | None
    held: int | None
    not_before: Instant | None


class _Path(NamedTuple):
    """A recipient of a message."""

    message_id: int
    forward_path: str


class Listings(Noun):
    def accounts(self, named: str) -> list[int]:
        """Return the accounts with this id or this mailbox, those that were deleted too."""
        return self._tx.column(int, "accounts_named", named=named)

    def page(self, wanted: Filter, limit: int, *, before: int, now: Instant) -> ListPage:
        """Return up to `limit` messages before one; it looks at a bounded number of them.

        Messages of other owners do not count, so that the answer tells nothing of them: after too many of them only the
        owner's messages are looked at.
        """
        ids = self._candidates(wanted, before, limit + 1)
        found: list[Listed] = []
        looked, foreign, size, reached, only_own = 0, 0, limit + 1, before, False
        while looked < MOST_LOOKED_AT:
            some = list(islice(ids, size))
            own = self._owned(some, wanted)
            looked, foreign = looked + len(own), foreign + len(some) - len(own)
            found += self._sift(own, wanted, now, limit + 1 - len(found))
            if len(found) > limit:
                return ListPage(found[:limit], found[limit - 1].message_id, is_partial=False)
            if len(some) < size:
                return ListPage(found, None, is_partial=False)
            size = min(_CHUNK, MOST_LOOKED_AT - looked)
            reached = some[-1]
            if foreign >= _MOST_FOREIGN:
                if only_own:  # a pool's messages, while little is noted
                    break
                ids = self._candidates(replace(wanted, recipient=None, status=None), reached, size)
                foreign, only_own = 0, True
        return ListPage(found, reached, is_partial=True)

    def matching(self, ids: Iterable[int], wanted: Filter, now: Instant) -> list[Listed]:
        """Return those of these messages that are wanted, the newest first."""
        own = self._owned(sorted(ids, reverse=True), wanted)
        return self._sift(own, wanted, now, len(own))

    # -- which messages are looked at

    def _first_since(self, since: Instant | None) -> int:
        """Return a lower bound: no noted message before it was accepted at that time or later."""
        if since is None or self._has_former():
            return 0
        block = self._tx.value(int, "first_block_since", since=since)
        return NEWEST if block is None else block * BLOCK

    def _last_until(self, until: Instant | None) -> int:
        """Return an upper bound: no noted message from it on was accepted before that time."""
        if until is None:
            return NEWEST
        block = self._tx.value(int, "last_block_until", until=until)
        if block is not None:
            return (block + 1) * BLOCK
        oldest = self._tx.value(int, "oldest_block")
        return NEWEST if oldest is None else oldest * BLOCK

    def _has_former(self) -> bool:
        """Whether there are messages that were accepted before the first note."""
        marks = Projection(self._tx).marks()
        return marks is None or marks[1] > 0

    def _candidates(self, wanted: Filter, before: int, first: int) -> Iterator[int]:
        """Yield the messages that may be wanted, the newest first."""
        least, last, late = 0, before, list[int]()
        unnoted = None if wanted.since is None and wanted.until is None else self._unnoted()
        if unnoted is not None:
            least = self._first_since(wanted.since)
            last = min(before, self._last_until(wanted.until))
            late = _ordered(unnoted, before)
        streams: list[Iterator[int]] = [iter(late)]
        for source in self._sources(wanted, last) if least < last else []:
            ids = _stream(source, last, first, least) if callable(source) else iter(source)
            streams.append(takewhile(least.__le__, ids))
        latest = before
        for id_ in heapq.merge(*streams, reverse=True):
            if id_ < latest:
                latest = id_
                yield id_

    def _sources(self, wanted: Filter, before: int) -> list[_Fetch | list[int]]:
        """Return where the messages are found: by the filter that leaves the fewest, as far as that is known."""
        if wanted.recipient is not None:
            return self._noted(wanted, before, [note_of_recipient(wanted.recipient)])
        if wanted.status is not None and (wanted.key_id is None or wanted.status not in ENDS):
            return self._with_status(wanted, wanted.status, before)
        if wanted.key_id is not None:
            return self._noted(wanted, before, [Note(Kind.KEY, wanted.key_id)])
        return self._all(wanted)

    def _all(self, wanted: Filter) -> list[_Fetch | list[int]]:
        """Return all messages, or those of the accounts."""
        if wanted.accounts is None:
            return [lambda before, most: self._tx.column(int, "messages_before", before=before, most=most)]
        return [self._of_account(account_id) for account_id in wanted.accounts]

    def _of_account(self, account_id: int) -> _Fetch:
        return lambda before, most: self._tx.column(
            int, "messages_of_before", account_id=account_id, before=before, most=most
        )

    def _noted(self, wanted: Filter, before: int, notes: Iterable[Note]) -> list[_Fetch | list[int]]:
        """Return the messages with these notes, those that may not have them yet, and those without any note."""
        marks, unnoted = Projection(self._tx).marks(), self._unnoted()
        if marks is None or unnoted is None:
            return self._all(wanted)
        _, from_ = marks
        sources: list[_Fetch | list[int]] = [self._with_note(note, from_) for note in notes]
        sources.append(_ordered(unnoted, before))
        if from_:
            sources += [_until(source, from_) for source in self._all(wanted) if callable(source)]
        return sources

    def _unnoted(self) -> set[int] | None:
        """Return the messages of events that are not noted yet; None: nothing is noted, or they are too many."""
        marks = Projection(self._tx).marks()
        if marks is None:
            return None
        behind = self._tx.column(int, "events_behind", after=marks[0], most=_MOST_UNNOTED + 1)
        return None if len(behind) > _MOST_UNNOTED else set(behind)

    def _with_note(self, note: Note, least: int) -> _Fetch:
        return lambda before, most: self._tx.column(
            int, "noted_before", kind=note.kind, value=note.value, before=before, least=least, most=most
        )

    def _with_status(self, wanted: Filter, word: StatusWord, before: int) -> list[_Fetch | list[int]]:
        if word is StatusWord.HELD:
            return [lambda before, most: self._tx.column(int, "held_before", before=before, most=most)]
        if word is StatusWord.SENDING:
            in_hand = self._tx.column(int, "in_hand", most=MOST_LOOKED_AT)
            return [_ordered(in_hand, before)]
        if word in ENDS:
            accounts = (None,) if wanted.accounts is None else wanted.accounts
            return self._noted(wanted, before, [note_of_status(word, each) for each in accounts])
        if wanted.accounts is not None:
            waiting = self._waiting_of(wanted.accounts)
            if waiting is not None:
                return [_ordered([*waiting, *self._captures()], before)]
        if word is StatusWord.QUEUED:
            return self._waiting(wanted, before)
        sources = self._noted(wanted, before, [note_of_status(word)])
        return [*sources, *self._paused(wanted, before)] if word is StatusWord.DEFERRED else sources

    def _waiting(self, wanted: Filter, before: int) -> list[_Fetch | list[int]]:
        """Return the queued messages; all messages where many are queued, since most of the newest are."""
        if wanted.accounts is None:
            waiting = self._tx.column(int, "waiting_deliveries", most=_MOST_WAITING + 1)
            if len(waiting) <= _MOST_WAITING:
                return [_ordered(waiting + self._captures(), before)]
        return self._all(wanted)

    def _paused(self, wanted: Filter, before: int) -> list[_Fetch | list[int]]:
        """Return what waits for accounts that are paused, which is deferred."""
        paused = self._tx.column(int, "paused_accounts", most=NEWEST)
        if wanted.accounts is not None:
            paused = [account_id for account_id in wanted.accounts if account_id in paused]
        if len(paused) > _MOST_PAUSED:
            return self._all(wanted)
        waiting = self._waiting_of(paused)
        return [self._of_account(each) for each in paused] if waiting is None else [_ordered(waiting, before)]

    def _waiting_of(self, accounts: Sequence[int]) -> list[int] | None:
        """Return what waits for accounts; None: too much to be put in order."""
        waiting: list[int] = []
        for account_id in accounts:
            waiting += self._tx.column(int, "waiting_of", account_id=account_id, most=_MOST_WAITING + 1)
            if len(waiting) > _MOST_WAITING:
                return None
        return waiting

    def _captures(self) -> list[int]:
        """Return the messages of test keys that wait, which they do for a moment."""
        return self._tx.column(int, "waiting_captures", most=_MOST_WAITING)

    # -- which of them are wanted

    def _owned(self, ids: Sequence[int], wanted: Filter) -> list[_Light]:
        """Return those of the messages whose owner is asked for."""
        rows = self._tx.rows(_Light, "light_messages", messages=json.dumps(ids))
        return [row for row in rows if _is_owned(row, wanted)]

    def _sift(self, rows: Sequence[_Light], wanted: Filter, now: Instant, most: int) -> list[Listed]:
        """Return the first of these messages that are wanted."""
        found: list[Listed] = []
        likely = self._likely(rows, wanted, now)
        while likely and len(found) < most:
            some, likely = likely[: _CHUNK // 10], likely[_CHUNK // 10 :]
            found += [each for each in self._tx.messages.listed(some) if _is_wanted(each, wanted, now)]
        return found[:most]

    def _likely(self, rows: Sequence[_Light], wanted: Filter, now: Instant) -> list[int]:
        """Return the messages that pass all filters that are cheap to check, the newest first."""
        likely = [row for row in rows if _is_likely(row, wanted, now)]
        if likely and wanted.status in (StatusWord.QUEUED, StatusWord.DEFERRED):
            given = json.dumps([row.message_id for row in likely])
            deferred = set(self._tx.column(int, "deferred_messages", messages=given))
            paused = set(self._tx.column(int, "paused_accounts", most=NEWEST))
            is_deferred = wanted.status is StatusWord.DEFERRED
            likely = [
                row
                for row in likely
                if (row.message_id in deferred or (row.account_id in paused and not row.test)) == is_deferred
            ]
        ids = sorted((row.message_id for row in likely), reverse=True)
        return ids if wanted.recipient is None else self._to(ids, wanted.recipient)

    def _to(self, ids: list[int], recipient: str) -> list[int]:
        """Return those of the messages that go to a recipient."""
        rows = self._tx.rows(_Path, "forward_paths", messages=json.dumps(ids))
        found = {row.message_id for row in rows if is_to(row.forward_path, recipient)}
        return [id_ for id_ in ids if id_ in found]


def _is_owned(row: _Light, wanted: Filter) -> bool:
    if wanted.accounts is not None and row.account_id not in wanted.accounts:
        return False
    return wanted.key_id is None or row.key_id == wanted.key_id


def _is_likely(row: _Light, wanted: Filter, now: Instant) -> bool:
    if wanted.since is not None and row.accepted_at < wanted.since:
        return False
    if wanted.until is not None and row.accepted_at >= wanted.until:
        return False
    if wanted.status is not None and row.job_state != _JOB_STATES.get(wanted.status, "queued"):
        return False
    if wanted.status is StatusWord.SCHEDULED and (row.not_before or 0) <= now:
        return False
    return not wanted.words or has_words(row.subject, wanted.words)


def _is_wanted(message: Listed, wanted: Filter, now: Instant) -> bool:
    return wanted.status is None or message.status.word(now) is wanted.status


def _stream(fetch: _Fetch, before: int, first: int, least: int) -> Iterator[int]:
    """Yield the messages of a source down to `least`, fetched a few first and then more at a time."""
    most = first
    while True:
        some = fetch(before, most)
        yield from some
        if len(some) < most or some[-1] <= least:
            return
        before, most = some[-1], _CHUNK


def _until(fetch: _Fetch, end: int) -> _Fetch:
    return lambda before, most: fetch(min(before, end), most)


def _ordered(ids: Iterable[int], before: int) -> list[int]:
    return sorted((id_ for id_ in ids if id_ < before), reverse=True)
