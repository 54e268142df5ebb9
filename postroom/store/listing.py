"""What became of messages: of one, of each in a list, and of all of an account."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postroom.core.classify import summarise
from postroom.core.clock import Instant
from postroom.core.message import MessageState, MessageStatus


@dataclass(frozen=True, slots=True)
class Listed:
    """A message in a list; `recipient` is the first of its recipients."""

    status: MessageStatus
    account: str
    accepted_at: Instant
    recipient: str


@dataclass(frozen=True, slots=True)
class JobCounts:
    """An account's messages since its first one, those that were deleted since among them."""

    waiting: int
    held: int  # for a person
    sent: int
    failed: int
    cancelled: int


NO_JOBS = JobCounts(0, 0, 0, 0, 0)


def job_counts_of(found: Mapping[str, int], held: int) -> JobCounts:
    sent, failed, cancelled = (found.get(state, 0) for state in ("done", "failed", "cancelled"))
    waiting = found.get("accepted", 0) - sent - failed - cancelled - held
    return JobCounts(
        max(waiting, 0), held, sent, failed, cancelled
    )  # what is counted may change between the two reads


def newest(db: Any, q: Any, most: int, account: str | None, *, held_only: bool) -> list[int]:
    """Return the numbers of the newest messages; those of a mailbox from each account that has it."""
    if account is None:
        found = q.newest_held_messages(db, most=most) if held_only else q.newest_messages(db, most=most)
        return [row[0] for row in found]
    ids: list[int] = []
    for (account_id,) in list(q.accounts_of(db, email=account)):
        chosen = {"account_id": account_id, "most": most}
        found = q.newest_held_messages_of(db, **chosen) if held_only else q.newest_messages_of(db, **chosen)
        ids.extend(row[0] for row in found)
    return heapq.nlargest(most, ids)


def listed_message(rows: list[Any]) -> Listed:
    request_id, email, accepted_at = rows[0][:3]
    deliveries = [row[9:] for row in rows]
    return Listed(message_status(request_id, rows[0][3:9], deliveries), email, accepted_at, deliveries[0][0])


def message_status(request_id: str, found: Sequence[Any], deliveries: list[Any]) -> MessageStatus:
    account_id, job_state, held, due_at, resume_at, paused_for = found
    state, reason = overall(job_state, deliveries)
    if job_state == "queued" and not held and paused_for is not None:
        state, reason = MessageState.DEFERRED, f"account paused: {paused_for}"
    possible_duplicate = any(row[3] for row in deliveries)
    waits = job_state == "queued" and not held and (resume_at is not None or reason is not None)
    will_send_at = max(due_at, resume_at or 0) if waits else None
    return MessageStatus(request_id, state, reason, possible_duplicate, account_id, will_send_at)


def overall(
    job_state: str | None, deliveries: list[tuple[str, str, str | None, int]]
) -> tuple[MessageState, str | None]:
    """Fold the deliveries of a message into one state and one reason."""
    if job_state == "claimed":
        return MessageState.SENDING, None
    if job_state == "queued":
        reason = summarise([(path, reason) for path, state, reason, _ in deliveries if state == "pending"])
        return (MessageState.DEFERRED, reason) if reason else (MessageState.QUEUED, None)
    if job_state == "cancelled":
        return MessageState.CANCELLED, None
    failed = [(path, reason if state == "failed" else None) for path, state, reason, _ in deliveries]
    reason = summarise(failed)
    return (MessageState.FAILED, reason) if reason else (MessageState.SENT, None)
