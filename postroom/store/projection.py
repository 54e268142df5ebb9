"""Notes of each message by which lists find it, and counts per day; made after the commits, from the events in their order.

They are rows of `listed` and `daily_count`. An index that finds as much would cost each acceptance a write at a random
place. A note may be written twice without harm; counts are not, since the mark moves on in the same transaction.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

from postroom.core import daily
from postroom.core.clock import Instant
from postroom.core.events import EventKind
from postroom.core.listing import BLOCK, ENDS, WAITING, Kind, Note, note_of_status, recipient_notes
from postroom.core.message import MessageState
from postroom.core.status_word import StatusWord
from postroom.store.messages import DeliveryState, overall
from postroom.store.noun import Noun

NOTED_TO: Final = "listed_to"  # setting: the event up to which all is noted
NOTED_FROM: Final = "listed_from"  # setting: the message from which on all is noted; 0: there is none before
_BEGAN_AT: Final = "listed_began"  # setting: the event from which on deferrals are counted by their events
_FIRST: Final = "listed_first"  # setting: the message from which on acceptances are counted by their events
_LAST: Final = frozenset({EventKind.SENT, EventKind.FAILED})  # what most messages end with
_ID: Final = attrgetter("message_id")
_Count: TypeAlias = "tuple[int, int, str, int]"


class EventsSeen(NamedTuple):
    """The newest event, and the transactions that ran when it was looked at: the oldest, and the next to come."""

    newest: int
    oldest: int
    next: int


class _Event(NamedTuple):
    id: int
    message_id: int
    kind: str
    at: Instant
    account_id: int
    test: int | None


class _NotedRow(NamedTuple):
    """A message with one of its recipients."""

    message_id: int
    account_id: int
    accepted_at: Instant
    test: int | None
    pool_key: int | None
    job_state: str | None
    held: int | None
    not_before: Instant | None
    finished_at: Instant | None
    forward_path: str
    state: str
    reason: str | None


class _Deferral(NamedTuple):
    message_id: int
    at: Instant


@dataclass(frozen=True, slots=True)
class _Message:
    """A message as far as it is noted."""

    row: _NotedRow
    paths: tuple[str, ...]
    word: StatusWord | None  # None: one that is not noted

    @property
    def ended(self) -> StatusWord | None:
        return self.word if self.word in ENDS else None

    def content_notes(self) -> list[Note]:
        """Return the notes that never change."""
        notes = [note for path in self.paths for note in recipient_notes(path)]
        if self.row.pool_key is not None:
            notes.append(Note(Kind.KEY.value, self.row.pool_key))
        return notes

    def status_notes(self) -> list[Note]:
        if self.word is None:
            return []
        notes = [note_of_status(self.word)]
        return [*notes, note_of_status(self.word, self.row.account_id)] if self.ended else notes


@dataclass(slots=True)
class Notes:
    """What a step writes: notes that are removed, notes that are added, times of blocks, counts."""

    removed: list[tuple[int, int, int]] = field(default_factory=list)
    added: list[tuple[int, int, int]] = field(default_factory=list)
    blocks: dict[int, tuple[Instant, Instant]] = field(default_factory=dict)
    counts: Counter[_Count] = field(default_factory=Counter)

    def count(self, account_id: int, at: Instant, measure: str, step: int = 0) -> None:
        self.counts[account_id, daily.day_of(at), measure, step] += 1

    def add(self, message: _Message, *, is_new: bool, is_counted: bool) -> None:
        """Note a message; `is_counted`: its end was counted before."""
        id_ = message.row.message_id
        if is_new:
            self.added += [(*note, id_) for note in message.content_notes()]
            self._note_time(id_, message.row.accepted_at)
        else:
            self.removed += [(*note_of_status(word), id_) for word in WAITING if word is not message.word]
        self.added += [(*note, id_) for note in message.status_notes()]
        if message.ended and not is_counted and not message.row.test:
            self._count_end(message.row, message.ended)

    def _note_time(self, message_id: int, at: Instant) -> None:
        block = message_id // BLOCK
        first, last = self.blocks.get(block, (at, at))
        self.blocks[block] = min(first, at), max(last, at)

    def _count_end(self, row: _NotedRow, word: StatusWord) -> None:
        if row.finished_at is None:
            return
        self.count(row.account_id, row.finished_at, word.value)
        if word is StatusWord.SENT:
            took = row.finished_at - max(row.accepted_at, row.not_before or 0)
            self.count(row.account_id, row.finished_at, daily.AFTER, daily.step_of(took))


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the work: what it writes, and the mark that it moves."""

    mark: str
    former: int
    value: int
    notes: Notes
    size: int
    ended: frozenset[int] = frozenset()  # messages that are noted with their end
    going_on: frozenset[int] = frozenset()  # messages that are noted without


class Projection(Noun):
    def seen(self) -> EventsSeen:
        """Return the newest event, and which transactions were running."""
        found = self._tx.row(EventsSeen, "events_seen")
        assert found is not None
        return found

    def begin(self, complete: int) -> None:
        """Have events behind `complete` be noted as they come, and what was accepted before in a second run, backwards."""
        newest = self._tx.value(int, "newest_message_id") or 0
        first = str(newest + 1 if newest else 0)
        self._tx.settings.set_once(NOTED_TO, str(complete))
        self._tx.settings.set_once(_BEGAN_AT, str(complete))
        self._tx.settings.set_once(NOTED_FROM, first)
        self._tx.settings.set_once(_FIRST, first)

    def marks(self) -> tuple[int, int] | None:
        """Return the event up to which, and the message from which on, all is noted; None before the beginning."""
        to, from_ = self._stored(NOTED_TO), self._stored(NOTED_FROM)
        return None if to is None or from_ is None else (to, from_)

    def next_step(self, complete: int, most: int, ended: Container[int] = ()) -> Step | None:
        """Return what is noted of the next events up to `complete`; None: there are none.

        `ended`: messages of earlier steps that were noted with their end, which their last events tell again.
        """
        mark = self._mark(NOTED_TO)
        events = self._tx.packed(_Event, "events_between", after=mark, until=complete, most=most)
        if not events:
            return None
        notes = Notes()
        accepted = {event.message_id for event in events if event.kind == EventKind.ACCEPTED}
        first = self._mark(_FIRST)
        fresh = {message_id for message_id in accepted if message_id >= first}
        for event in events:
            is_first = event.kind == EventKind.ACCEPTED and event.message_id in fresh
            if (is_first or event.kind == EventKind.DEFERRED) and not event.test:
                notes.count(event.account_id, event.at, event.kind)
        told = {
            event.message_id for event in events if event.kind not in _LAST or event.message_id not in ended
        }
        messages = self._note(notes, accepted | told, accepted, fresh)
        now_ended = frozenset(each.row.message_id for each in messages if each.ended)
        going_on = frozenset(each.row.message_id for each in messages) - now_ended
        return Step(NOTED_TO, mark, events[-1].id, notes, len(events), now_ended, going_on)

    def former_step(self, most: int) -> Step | None:
        """Return what is noted of the newest messages that were accepted before the beginning; None: there are no more."""
        mark = self._mark(NOTED_FROM)
        if not mark:
            return None
        ids = self._tx.column(int, "messages_before", before=mark, most=most)
        notes = Notes()
        messages = self._note(notes, ids, set(ids))
        counted = {each.row.message_id: each.row for each in messages if not each.row.test}
        for row in counted.values():
            notes.count(row.account_id, row.accepted_at, daily.ACCEPTED)
        deferrals = self._tx.rows(
            _Deferral, "deferrals_of", messages=json.dumps(ids), until=self._mark(_BEGAN_AT)
        )
        for message_id, at in deferrals:
            if message_id in counted:
                notes.count(counted[message_id].account_id, at, daily.DEFERRED)
        return Step(NOTED_FROM, mark, ids[-1] if len(ids) == most else 0, notes, len(ids))

    def write(self, step: Step) -> None:
        """Write a step. Raises LeaseLost, writing nothing, where another worker was first."""
        self._tx.guard(
            self._tx.change("advance_setting", name=step.mark, value=str(step.value), former=str(step.former))
        )
        notes = step.notes
        if notes.removed:
            self._tx.change("remove_notes", rows=json.dumps(sorted(notes.removed)))
        if notes.added:
            self._tx.change("add_notes", rows=json.dumps(sorted(set(notes.added))))
        for block, (first_at, last_at) in notes.blocks.items():
            self._tx.change("note_block", block=block, first_at=first_at, last_at=last_at)
        for (account_id, day, measure, step_), messages in sorted(notes.counts.items()):
            self._tx.change(
                "count_daily",
                account_id=account_id,
                day=day,
                measure=measure,
                step=step_,
                messages=messages,
            )

    def forget(self, message_ids: Sequence[int]) -> None:
        """Remove the notes of messages that are about to be deleted; their counts stay."""
        rows: list[tuple[int, int, int]] = []
        for message in self._messages(message_ids):
            notes = [*message.content_notes(), *map(note_of_status, WAITING)]
            for word in ENDS:
                notes += [note_of_status(word), note_of_status(word, message.row.account_id)]
            rows += [(*note, message.row.message_id) for note in notes]
        if rows:
            self._tx.change("remove_notes", rows=json.dumps(rows))

    def note_recipients_anew(self, message_id: int, former_path: str) -> None:
        """Replace the notes of a message's recipients, one of whom had another path before."""
        removed = [(*note, message_id) for note in recipient_notes(former_path)]
        self._tx.change("remove_notes", rows=json.dumps(removed))
        paths = self._tx.column(str, "paths_of", message_id=message_id)
        added = {(*note, message_id) for path in paths for note in recipient_notes(path)}
        self._tx.change("add_notes", rows=json.dumps(sorted(added)))

    def forget_ids(self) -> None:
        """Take back marks that are ahead of the newest rows: SQLite gives the ids of deleted rows again."""
        mark = self._stored(NOTED_TO)
        newest = self._tx.value(int, "newest_event") or 0
        if mark is not None and mark > newest:
            self._tx.settings.set(NOTED_TO, str(newest))
        oldest = self._tx.value(int, "oldest_message") or 0
        self._tx.change("forget_blocks", block=oldest // BLOCK)

    def _mark(self, name: str) -> int:
        return self._stored(name) or 0

    def _stored(self, name: str) -> int | None:
        text = self._tx.settings.get(name)
        return None if text is None else int(text)

    def _note(
        self, notes: Notes, ids: Iterable[int], new: set[int], fresh: Container[int] = ()
    ) -> list[_Message]:
        """Note messages; of `fresh` ones nothing was noted before, so that no end of theirs was counted."""
        messages = self._messages(sorted(ids))
        ended: dict[StatusWord, list[int]] = {}
        for message in messages:
            if message.ended and message.row.message_id not in fresh:
                ended.setdefault(message.ended, []).append(message.row.message_id)
        counted = {each for word, some in ended.items() for each in self._noted_with(word, some)}
        for message in messages:
            id_ = message.row.message_id
            notes.add(message, is_new=id_ in new, is_counted=id_ in counted)
        return messages

    def _noted_with(self, word: StatusWord, ids: list[int]) -> list[int]:
        kind, value = note_of_status(word)
        return self._tx.column(int, "noted_with", messages=json.dumps(ids), kind=kind, value=value)

    def _messages(self, ids: Sequence[int]) -> list[_Message]:
        rows = self._tx.packed(_NotedRow, "noted_messages", messages=json.dumps(ids))
        return [_message(list(of_one)) for _, of_one in groupby(rows, key=_ID)]


def _message(rows: list[_NotedRow]) -> _Message:
    first = rows[0]
    paths = tuple(row.forward_path for row in rows)
    if first.job_state == "done" and all(row.state == "sent" for row in rows):
        return _Message(first, paths, StatusWord.SENT)  # most messages
    state, _ = overall(
        first.job_state, [DeliveryState(row.forward_path, row.state, row.reason, 0) for row in rows]
    )
    return _Message(first, paths, _word(first, state))


def _word(row: _NotedRow, state: MessageState) -> StatusWord | None:
    """Return the status that a message is noted with."""
    if state is MessageState.QUEUED and not row.held and row.not_before is not None:
        return StatusWord.SCHEDULED  # for as long as it was not tried; its time is looked at by lists
    word = StatusWord(state.value)
    return word if word in ENDS or word is StatusWord.DEFERRED else None
