"""`prepare`: checks a Submission and renders its bytes, without a database. Pure.

It reads no clock, no database and no randomness: the time and the id are arguments.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import NamedTuple

from postroom.core.address import Mailbox, parse_mailbox
from postroom.core.clock import Instant
from postroom.core.message import NewMessage, Submission
from postroom.intake import checks
from postroom.mime.message import Content, gate, render

_PIECE = 262_144  # characters
_sender = lru_cache(1024)(parse_mailbox)  # an account's own mailbox, for each of its messages


def prepare(submission: Submission, *, most_bytes: int, request_id: str, now: Instant) -> NewMessage:
    """Return the message that a submission becomes, to be stored under `request_id` as accepted at `now`.

    Raises Rejected (InvalidSubmission, TooLarge) when it may not be sent.
    """
    checks.html_is_bounded(submission)
    recipients = checks.recipients(submission)
    if submission.key is not None:
        submission.key.check_recipients(tuple(recipient.path for recipient in recipients))
    sender = checks.sender(submission)
    thread = checks.thread(submission)
    checks.subject_is_one_line(submission)
    checks.check_not_empty(submission)
    checks.body_is_text(submission)
    checks.check_size(len(submission.body), most_bytes)  # rendering never makes it smaller
    message = _render(submission, _Head(sender, recipients, *thread), request_id, now)
    checks.check_size(len(message.mime), most_bytes)
    gate(message.mime, smtputf8=message.smtputf8)
    return message


class _Head(NamedTuple):
    """The checked fields of a message's head."""

    sender: Mailbox | None  # None: the account's own
    recipients: tuple[Mailbox, ...]
    in_reply_to: str | None
    references: tuple[str, ...]


def _render(submission: Submission, head: _Head, request_id: str, now: Instant) -> NewMessage:
    sender, recipients = _sender(submission.account.email), head.recipients
    content = Content(
        sender_name=submission.account.name,
        sender=head.sender or sender,
        recipients=recipients,
        in_reply_to=head.in_reply_to,
        references=head.references,
        subject=submission.subject,
        body=submission.body,
        is_html=submission.is_html,
        message_id=f"{request_id}@{sender.path.rpartition('@')[2]}",
        date=now,
        boundary=f"=_{request_id}",
    )
    return NewMessage(
        request_id=request_id,
        account_id=submission.account.id,
        reverse_path=sender.path,
        forward_paths=tuple(recipient.path for recipient in recipients),
        subject=submission.subject,
        mime=render(content),
        smtputf8=sender.smtputf8
        or content.sender.smtputf8
        or any(recipient.smtputf8 for recipient in recipients),
        accepted_at=now,
        in_doubt=submission.in_doubt,
        key=submission.key,
        idempotency_key=submission.idempotency_key,
        idempotency_account=submission.idempotency_account,
        traceparent=submission.traceparent,
        fingerprint=_fingerprint(submission) if submission.idempotency_key is not None else None,
    )


def _fingerprint(submission: Submission) -> bytes:
    """Return a digest of what was asked, to tell a repeated request from a different one under the same key."""
    asked: list[object] = [submission.is_html]
    if submission.sender is not None or submission.in_reply_to is not None or submission.references:
        asked.append([submission.sender, submission.in_reply_to, submission.references])
    if submission.in_doubt is not None:  # what was asked before there was a choice keeps its digest
        asked.append(submission.in_doubt.value)
    digest = hashlib.sha256(json.dumps([submission.recipients, submission.subject])[:-1].encode())
    digest.update(b', "')
    for at in range(0, len(submission.body), _PIECE):  # `json` holds Python's lock for as long as it writes
        digest.update(json.dumps(submission.body[at : at + _PIECE])[1:-1].encode())
    digest.update(b'", ' + json.dumps(asked)[1:].encode())
    return digest.digest()
