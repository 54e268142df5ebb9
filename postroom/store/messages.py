"""Reads the state of messages: of one, of each in a list, and the counts of an account."""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from postroom.core.api_key import ALL_MESSAGES, Sight
from postroom.core.classify import summarise
from postroom.core.clock import Instant
from postroom.core.message import MessageState, MessageStatus
from postroom.store.noun import Noun


@dataclass(frozen=True, slots=True)
class Listed:
    """A message in a list."""

    message_id: int
    status: MessageStatus
    account: str
    account_uid: str
    accepted_at: Instant
    finished_at: Instant | None
    subject: str
    recipients: tuple[str, ...]

    @property
    def recipient(self) -> str:
        """The first of its recipients."""
        return self.recipients[0]


@dataclass(frozen=True, slots=True)
class JobCounts:
    """An account's messages since its first one, those that were deleted since among them."""

    waiting: int
    held: int  # for a person
    sent: int
    failed: int
    cancelled: int


NO_JOBS = JobCounts(0, 0, 0, 0, 0)


class DeliveryState(NamedTuple):
    """What became of one recipient."""

    forward_path: str
    state: str
    reason: str | None
    possible_duplicate: int


class _JobState(NamedTuple):
    """A message's job and its account, as far as they say what the message waits for."""

    message_id: int
    account_id: int
    job_state: str | None
    held: int | None
    due_at: Instant | None
    resume_at: Instant | None
    paused_for: str | None
    key_id: int | None
    test: int | None
    sender: str
    not_before: Instant | None


class _ListedRow(NamedTuple):
    """A message of a list with one of its recipients."""

    message_id: int
    request_id: str
    email: str
    accepted_at: Instant
    account_id: int
    job_state: str | None
    held: int | None
    due_at: Instant | None
    resume_at: Instant | None
    paused_for: str | None
    key_id: int | None
    test: int | None
    sender: str
    not_before: Instant | None
    account_uid: str
    finished_at: Instant | None
    subject: str
    forward_path: str
    state: str
    reason: str | None
    possible_duplicate: int


class _Count(NamedTuple):
    account_id: int
    state: str
    jobs: int


class _HeldCount(NamedTuple):
    account_id: int
    jobs: int


class NewestMessage(NamedTuple):
    """The message that came last."""

    request_id: str
    accepted_at: Instant


class Messages(Noun):
    def status(self, request_id: str, sight: Sight = ALL_MESSAGES) -> MessageStatus | None:
        """Return what became of a message so far, or None when there is none by that id in sight of a key."""
        found = self._tx.row(
            _JobState,
            "message_state",
            request_id=request_id,
            account_id=sight.account_id,
            key_id=sight.key_id,
        )
        if found is None:
            return None
        deliveries = self._tx.rows(DeliveryState, "deliveries_of", message_id=found.message_id)
        return _status(request_id, found, deliveries)

    def newest(self, most: int, accounts: Sequence[int] | None = None, *, held_only: bool) -> list[Listed]:
        """Return the messages that came last, the newest first; of some accounts, or only those that wait for a person."""
        return self.listed(self._newest_ids(most, accounts, held_only=held_only))

    def listed(self, message_ids: Sequence[int]) -> list[Listed]:
        """Return messages by their numbers, the newest first."""
        rows = self._tx.rows(_ListedRow, "listed_messages", messages=json.dumps(message_ids))
        found = [_listed(list(of_one)) for _, of_one in groupby(rows, key=lambda row: row.request_id)]
        return found[::-1]

    def _newest_ids(self, most: int, accounts: Sequence[int] | None, *, held_only: bool) -> list[int]:
        """Return the numbers of the newest messages, of all or of these accounts."""
        if accounts is None:
            if held_only:
                return self._tx.column(int, "newest_held_messages", most=most)
            return self._tx.column(int, "newest_messages", most=most)
        ids: list[int] = []
        for account_id in accounts:
            if held_only:
                ids += self._tx.column(int, "newest_held_messages_of", account_id=account_id, most=most)
            else:
                ids += self._tx.column(int, "newest_messages_of", account_id=account_id, most=most)
        return heapq.nlargest(most, ids)

    def last_accepted(self) -> NewestMessage | None:
        """Return the message that came last, and when it was accepted."""
        return self._tx.row(NewestMessage, "newest_message")

    def ids_between(self, first: str, last: str, most: int) -> list[str]:
        """Return the ids of messages from `first` to `last`, both among them, in their order."""
        return self._tx.column(str, "messages_between", first=first, last=last, most=most)

    def octets_of(self, account_id: int) -> int:
        """Return the octets of an account's messages whose content is kept."""
        return self._tx.value(int, "octets_of", account_id=account_id) or 0

    def counts(self) -> dict[int, JobCounts]:
        """Return for each account how many messages were ever accepted and how they ended."""
        held = dict(self._tx.rows(_HeldCount, "held_counts"))
        counts: dict[int, dict[str, int]] = {}
        for account_id, state, jobs in self._tx.rows(_Count, "job_counts"):
            counts.setdefault(account_id, {})[state] = jobs
        return {
            account_id: _job_counts(found, held.get(account_id, 0)) for account_id, found in counts.items()
        }


def _job_counts(found: Mapping[str, int], held: int) -> JobCounts:
    sent, failed, cancelled = (found.get(state, 0) for state in ("done", "failed", "cancelled"))
    waiting = found.get("accepted", 0) - sent - failed - cancelled - held
    # What is counted may change between the two reads.
    return JobCounts(max(waiting, 0), held, sent, failed, cancelled)


def _listed(rows: list[_ListedRow]) -> Listed:
    first = rows[0]
    state = _JobState(
        first.message_id,
        first.account_id,
        first.job_state,
        first.held,
        first.due_at,
        first.resume_at,
        first.paused_for,
        first.key_id,
        first.test,
        first.sender,
        first.not_before,
    )
    deliveries = [
        DeliveryState(row.forward_path, row.state, row.reason, row.possible_duplicate) for row in rows
    ]
    status = _status(first.request_id, state, deliveries)
    return Listed(
        message_id=first.message_id,
        status=status,
        account=first.email,
        account_uid=first.account_uid,
        accepted_at=first.accepted_at,
        finished_at=first.finished_at,
        subject=first.subject,
        recipients=tuple(row.forward_path for row in rows),
    )


def _status(request_id: str, found: _JobState, deliveries: Sequence[DeliveryState]) -> MessageStatus:
    state, reason = overall(found.job_state, deliveries)
    was_deferred = state is MessageState.DEFERRED
    waits_for_account = found.job_state == "queued" and not found.held and not found.test
    if waits_for_account and found.paused_for is not None:
        state, reason = MessageState.DEFERRED, f"account paused: {found.paused_for}"
    possible_duplicate = any(row.possible_duplicate for row in deliveries)
    waits = waits_for_account and (found.resume_at is not None or reason is not None)
    will_send_at = max(found.due_at or 0, found.resume_at or 0) if waits else None
    return MessageStatus(
        request_id,
        state,
        reason,
        possible_duplicate,
        found.account_id,
        will_send_at,
        found.key_id,
        bool(found.test),
        found.sender,
        bool(found.held),
        found.not_before,
        was_deferred,
    )


def overall(job_state: str | None, deliveries: Sequence[DeliveryState]) -> tuple[MessageState, str | None]:
    """Fold the deliveries of a message into one state and one reason."""
    if job_state == "claimed":
        return MessageState.SENDING, None
    if job_state == "queued":
        reason = summarise([(row.forward_path, row.reason) for row in deliveries if row.state == "pending"])
        return (MessageState.DEFERRED, reason) if reason else (MessageState.QUEUED, None)
    if job_state == "cancelled":
        return MessageState.CANCELLED, None
    failed = [(row.forward_path, row.reason if row.state == "failed" else None) for row in deliveries]
    reason = summarise(failed)
    return (MessageState.FAILED, reason) if reason else (MessageState.SENT, None)
