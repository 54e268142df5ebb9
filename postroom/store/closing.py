"""The end of an account: what still waits for it, its cancellation or last tries, and the removal of its secrets."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.core.events import EventKind, NewEvent
from postroom.store.noun import Noun

ACCOUNT_DELETED = "account deleted"


class Unfinished(NamedTuple):
    """An account's messages that have not ended: due or being sent, and those that wait for a later time."""

    queued: int
    scheduled: int


class _Waiting(NamedTuple):
    job_id: int
    message_id: int


class Closing(NamedTuple):
    """An account whose deletion was asked for, and when."""

    id: int
    email: str
    closing_at: Instant


class Closings(Noun):
    def unfinished(self, account_id: int, now: Instant) -> Unfinished:
        found = self._tx.row(Unfinished, "unfinished_jobs", account_id=account_id, now=now)
        assert found is not None
        return found

    def begin(self, account_id: int, now: Instant) -> None:
        """Have all keys of an account die at this commit; what was accepted before is still sent."""
        self._tx.note_keys_changed(account_id=account_id)
        self._tx.issued_keys.revoke_of_account(account_id, now)
        self._tx.change("close_account", account_id=account_id, now=now)

    def cancel_waiting(self, account_id: int, now: Instant) -> int:
        """Cancel what has no final dot out; return how many messages."""
        waiting = self._tx.rows(_Waiting, "waiting_jobs", account_id=account_id, due_by=None)
        for job in waiting:
            self._tx.change("cancel_job", message_id=job.message_id, now=now)
            recipients = self._tx.count_changed("cancel_deliveries", message_id=job.message_id, now=now)
            self._tx.issued_keys.give_back(job.message_id, recipients)
            self._tx.events.append(job.message_id, NewEvent(EventKind.CANCELLED), now)
            self._tx.log_lines.add(job.message_id)
        return len(waiting)

    def fail_overdue(self, account_id: int, due_by: Instant, now: Instant) -> int:
        """Have those fail that were due by then: `failed (account deleted)`; return how many."""
        waiting = self._tx.rows(_Waiting, "waiting_jobs", account_id=account_id, due_by=due_by)
        for job in waiting:
            self._tx.change("fail_waiting_job", job_id=job.job_id, now=now)
            for delivery in self._tx.queue.pending(job.message_id):
                event = NewEvent(EventKind.FAILED, delivery.id, ACCOUNT_DELETED)
                self._tx.events.append(job.message_id, event, now)
            self._tx.change("fail_deliveries", message_id=job.message_id, reason=ACCOUNT_DELETED, now=now)
            self._tx.log_lines.add(job.message_id)
        return len(waiting)

    def closing(self) -> list[Closing]:
        """Return the accounts that are closing."""
        return self._tx.rows(Closing, "closing_accounts")

    def end(self, account_id: int, now: Instant) -> None:
        """Take the secrets of an account away; its row stays for the status of its messages."""
        self._tx.note_keys_changed(account_id=account_id)
        self._tx.accounts.forget_refused_password(account_id)
        self._tx.change("forget_oauth_grant", account_id=account_id)
        self._tx.change("forget_aliases", account_id=account_id)
        self._tx.change("forget_pool_member", account_id=account_id)
        self._tx.change("forget_finding", account_id=account_id)
        self._tx.change("end_account", account_id=account_id, now=now)
