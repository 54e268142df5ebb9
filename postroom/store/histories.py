"""Reads the history of one message: its recipients, its attempts with their dialogues, its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from postroom.core.api_key import ALL_MESSAGES, Sight
from postroom.core.classify import explain_reply
from postroom.core.clock import Instant
from postroom.core.dialogue import parse
from postroom.core.message_history import AttemptHistory, MessageHistory, PastEvent, RecipientHistory
from postroom.core.outcome import Reply
from postroom.store.noun import Noun

MOST_ATTEMPTS: Final = 100  # the newest


class _Message(NamedTuple):
    email: str
    uid: str
    state: str
    state_reason: str | None
    resume_at: Instant | None
    subject: str
    size: int
    accepted_at: Instant
    due_at: Instant | None
    claimed_at: Instant | None
    finished_at: Instant | None
    job_id: int | None
    message_id: int


class _Recipient(NamedTuple):
    forward_path: str
    state: str
    reason: str | None
    reply_code: int | None
    reply_enhanced: str | None
    reply_text: str | None
    possible_duplicate: int
    finished_at: Instant | None


class _Attempt(NamedTuple):
    number: int
    started_at: Instant
    finished_at: Instant
    outcome: str
    phase: str | None
    blame: str | None
    reply_code: int | None
    reply_enhanced: str | None
    reply_text: str | None
    dialogue: str | None


class Histories(Noun):
    def of(self, request_id: str, sight: Sight = ALL_MESSAGES) -> MessageHistory | None:
        """Return all that is known of a message, or None when there is none by that id in sight of a key."""
        status = self._tx.messages.status(request_id, sight)
        found = None if status is None else self._tx.row(_Message, "history_of", request_id=request_id)
        if status is None or found is None:
            return None
        events = tuple(PastEvent(*event) for event in self._tx.events.of_message(request_id))
        return MessageHistory(
            status=status,
            account=found.email,
            account_uid=found.uid,
            account_state=found.state,
            account_reason=found.state_reason,
            account_until=found.resume_at,
            subject=found.subject,
            size=found.size,
            accepted_at=found.accepted_at,
            due_at=found.due_at,
            claimed_at=found.claimed_at,
            finished_at=found.finished_at,
            recipients=self._recipients(found.message_id),
            attempts=self._attempts(found.job_id, events),
            events=events,
        )

    def _recipients(self, message_id: int) -> tuple[RecipientHistory, ...]:
        return tuple(
            RecipientHistory(
                row.forward_path,
                row.state,
                row.reason,
                _reply(row),
                bool(row.possible_duplicate),
                row.finished_at,
            )
            for row in self._tx.rows(_Recipient, "recipients_of", message_id=message_id)
        )

    def _attempts(self, job_id: int | None, events: Sequence[PastEvent]) -> tuple[AttemptHistory, ...]:
        rows = self._tx.rows(_Attempt, "attempts_of", job_id=job_id, most=MOST_ATTEMPTS)
        return tuple(
            AttemptHistory(
                number=row.number,
                started_at=row.started_at,
                finished_at=row.finished_at,
                outcome=row.outcome,
                phase=row.phase,
                blame=row.blame,
                reply=_reply(row),
                reason=None if row.outcome == "sent" else _reason(row, events),
                dialogue=None if row.dialogue is None else tuple(parse(row.dialogue)),
            )
            for row in reversed(rows)
        )


def _reason(row: _Attempt, events: Sequence[PastEvent]) -> str | None:
    """Return why an attempt ended so: of several recipients, the one whose reply is the attempt's."""
    reply = _reply(row)
    told = [each.detail for each in events if each.at == row.finished_at and each.kind == row.outcome]
    of_reply = [each for each in told if reply is not None and each and explain_reply(reply) in each]
    return next(iter([*of_reply, *told]), None)


def _reply(row: _Recipient | _Attempt) -> Reply | None:
    return None if row.reply_code is None else Reply(row.reply_code, row.reply_text or "", row.reply_enhanced)
