"""Deletes contents, dialogues, history, uploads, idempotency keys when their time is over; nothing of accounts on hold."""

from __future__ import annotations

from itertools import takewhile
from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.store.noun import Noun

# Settings: the end and the job up to which contents were dropped, and up to which messages are kept by holds.
_BODIES_PRUNED = "bodies_pruned"
_HISTORY_PASSED = "history_passed"
_DIALOGUES_PRUNED = "dialogues_pruned"  # setting: the attempt up to which dialogues were dropped
_BEGINNING = "0:0"


class Pruned(NamedTuple):
    """What one batch has done: how much was dropped, and how much of the way is behind it."""

    dropped: int
    passed: int


class _Over(NamedTuple):
    job_id: int
    message_id: int
    finished_at: Instant
    hold: int | None  # of its account: nothing of it is deleted


class _Attempt(NamedTuple):
    id: int
    finished_at: Instant
    hold: int | None


class _OldKey(NamedTuple):
    account_id: int
    key: str


class Pruning(Noun):
    def prune_bodies(self, until: Instant, most: int) -> Pruned:
        """Drop the content of messages that were over by then, of the next `most`.

        How far that has come is remembered, so that the next time goes on from there.
        """
        after, after_id = self._mark(_BODIES_PRUNED)
        rows = self._tx.rows(_Over, "over_after", after=after, after_id=after_id, until=until, count=most)
        dropped = [row for row in rows if not row.hold]
        for row in dropped:
            self._tx.contents.delete(row.message_id)
        if rows:
            self._remember(_BODIES_PRUNED, rows[-1])
        return Pruned(len(dropped), len(rows))

    def prune_history(self, until: Instant, most: int) -> Pruned:
        """Drop all that is known of messages that were over by then and are in the log, of the next `most`."""
        after, after_id = self._mark(_HISTORY_PASSED)
        rows = self._tx.rows(
            _Over, "over_and_logged", after=after, after_id=after_id, until=until, count=most
        )
        dropped = [row for row in rows if not row.hold]
        self._tx.projection.forget([row.message_id for row in dropped])
        for row in dropped:
            self._tx.change("delete_attempts", job_id=row.job_id)
            self._tx.change("delete_events", message_id=row.message_id)
            self._tx.contents.delete(row.message_id)
            self._tx.change("delete_deliveries", message_id=row.message_id)
            self._tx.change("delete_job", job_id=row.job_id)
            self._tx.change("delete_message", message_id=row.message_id)
        if dropped:
            self._tx.projection.forget_ids()
        if len(dropped) < len(rows) == most and not self._waits_for_log(rows[-1].finished_at):
            self._remember(_HISTORY_PASSED, rows[-1])  # so that kept messages are not looked at each time
        return Pruned(len(dropped), len(rows))

    def prune_dialogues(self, until: Instant, most: int) -> Pruned:
        """Drop the dialogues of attempts that had ended by then, of the next `most`.

        Attempts are looked at in the order in which they were recorded, and the first that is younger ends it.
        """
        after = int(self._tx.settings.get(_DIALOGUES_PRUNED) or 0)
        rows = self._tx.rows(_Attempt, "attempts_after", after=after, count=most)
        old = list(takewhile(lambda row: row.finished_at <= until, rows))
        if old:
            self._tx.change("drop_dialogues", after=after, last=old[-1].id)
            self._tx.settings.set(_DIALOGUES_PRUNED, str(old[-1].id))
        return Pruned(sum(not row.hold for row in old), len(old))

    def begin_anew(self) -> None:
        """Have the next pruning look at all messages again: a hold was lifted."""
        self._tx.settings.set(_BODIES_PRUNED, _BEGINNING)
        self._tx.settings.set(_HISTORY_PASSED, _BEGINNING)
        self._tx.settings.set(_DIALOGUES_PRUNED, "0")

    def _mark(self, name: str) -> tuple[Instant, int]:
        """Return the end and the job up to which pruning has come."""
        finished_at, _, job_id = (self._tx.settings.get(name) or _BEGINNING).partition(":")
        return int(finished_at), int(job_id)

    def _waits_for_log(self, until: Instant) -> bool:
        """Whether a message that was over by then is not in the log yet."""
        return bool(self._tx.value(int, "waits_for_log", until=until))

    def _remember(self, mark: str, row: _Over) -> None:
        self._tx.settings.set(mark, f"{row.finished_at}:{row.job_id}")

    def prune_uploads(self, until: Instant, most: int) -> int:
        """Drop up to `most` contents that were begun by then and belong to no message; return how many."""
        uploads = self._tx.column(int, "old_uploads", until=until, count=most)
        for upload_id in uploads:
            self._tx.contents.drop_upload(upload_id)
        return len(uploads)

    def prune_keys(self, until: Instant, most: int) -> int:
        """Forget up to `most` idempotency keys of messages that were accepted by then and are gone; return how many."""
        rows = self._tx.rows(_OldKey, "old_idempotency_keys", until=until, count=most)
        for row in rows:
            self._tx.change("delete_idempotency_key", account_id=row.account_id, key=row.key)
        return len(rows)
