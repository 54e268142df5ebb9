"""Deletes in small batches: contents, history, uploads and idempotency keys whose time of keeping is over."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.store.noun import Noun

_BODIES_PRUNED = "bodies_pruned"  # setting: the end and the job up to which contents were dropped


class _Over(NamedTuple):
    job_id: int
    message_id: int
    finished_at: Instant


class _OverAndLogged(NamedTuple):
    job_id: int
    message_id: int


class _OldKey(NamedTuple):
    account_id: int
    key: str


class Pruning(Noun):
    def prune_bodies(self, until: Instant, most: int) -> int:
        """Drop the content of up to `most` messages that were over by then; return of how many.

        How far that has come is remembered, so that the next time goes on from there.
        """
        mark = self._tx.settings.get(_BODIES_PRUNED) or "0:0"
        after, _, after_id = mark.partition(":")
        rows = self._tx.rows(
            _Over, "over_after", after=int(after), after_id=int(after_id), until=until, count=most
        )
        for row in rows:
            self._tx.contents.delete(row.message_id)
        if rows:
            self._tx.settings.set(_BODIES_PRUNED, f"{rows[-1].finished_at}:{rows[-1].job_id}")
        return len(rows)

    def prune_history(self, until: Instant, most: int) -> int:
        """Drop all that is known of up to `most` messages that were over by then and are in the log; return how many."""
        rows = self._tx.rows(_OverAndLogged, "over_and_logged", until=until, count=most)
        for row in rows:
            self._tx.change("delete_attempts", job_id=row.job_id)
            self._tx.change("delete_events", message_id=row.message_id)
            self._tx.contents.delete(row.message_id)
            self._tx.change("delete_deliveries", message_id=row.message_id)
            self._tx.change("delete_job", job_id=row.job_id)
            self._tx.change("delete_message", message_id=row.message_id)
        return len(rows)

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
