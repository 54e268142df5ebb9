"""The way in: a Submission becomes a committed Message, or is refused whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, TypeAlias
from uuid import UUID

from postroom.core import failpoint
from postroom.core.address import Mailbox, parse_mailbox
from postroom.core.clock import Clock, Instant, system_clock
from postroom.core.errors import InvalidSubmission
from postroom.core.message import Accepted, NewMessage, Submission
from postroom.intake import checks
from postroom.intake.disk_share import DiskShares
from postroom.mime.message import Content, gate, render
from postroom.store.pieces import accept_message
from postroom.store.store import Store
from postroom.store.transaction import IdempotencyClash
from postroom.store.writer import Work

_PIECE = 262_144  # characters
Compute: TypeAlias = "Callable[[Callable[[], NewMessage]], NewMessage]"


def _at_once(call: Callable[[], NewMessage]) -> NewMessage:
    return call()


def accept(
    store: Store,
    submission: Submission,
    *,
    most_bytes: int,
    disk_reserve: int = 0,
    shares: DiskShares | None = None,
    clock: Clock = system_clock,
    write: Callable[[Work[Any]], Any] | None = None,
    compute: Compute = _at_once,
) -> Accepted:
    """Check, render and commit a submission; return only when it is durable.

    From then on the message ends as sent, failed or cancelled, whatever happens.
    `write` commits in place of `Store.write`, and `compute` calls what takes long, for a caller that has something
    else to do meanwhile.
    Raises Rejected (InvalidSubmission, TooLarge) when it may not be sent, and
    StoreUnavailable when it could not be made durable, or when no more than `disk_reserve`
    bytes are free for the database (DiskFull), and QuotaExceeded where `shares` says that the account
    has used up its own; nothing is kept then.
    """
    failpoint.hit("accept.parsed")
    checks.html_is_bounded(submission)
    now = clock()
    if checks.takes_long(submission):
        message = compute(lambda: _checked(submission, most_bytes, now))
    else:
        message = _checked(submission, most_bytes, now)
    free = store.free_bytes()
    checks.check_disk_space(free, disk_reserve)
    if shares is not None:
        shares.check(submission.account, len(message.mime), free - disk_reserve)
    outcome = accept_message(message, write or store.write)
    failpoint.hit("accept.committed")
    if isinstance(outcome, IdempotencyClash):
        raise InvalidSubmission(
            "this idempotency key was used before for a different message; use a new key",
            field="Idempotency-Key",
        )
    return outcome


def _checked(submission: Submission, most_bytes: int, now: Instant) -> NewMessage:
    """Return the message that a submission becomes. Raises Rejected."""
    recipients = checks.recipients(submission)
    checks.subject_is_one_line(submission)
    checks.check_not_empty(submission)
    checks.body_is_text(submission)
    checks.check_size(len(submission.body), most_bytes)  # rendering never makes it smaller
    message = _render(submission, recipients, now)
    checks.check_size(len(message.mime), most_bytes)
    gate(message.mime, smtputf8=message.smtputf8)
    return message


class _RandomPool:
    """Ten random bytes at a time from the system, asked for in bulk: one question takes some 20 µs."""

    _IDS = 256

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Drop what is left, so that no other process can have the same."""
        self._chunks: list[bytes] = []

    def take(self) -> bytes:
        while True:
            try:
                return self._chunks.pop()
            except IndexError:
                fresh = os.urandom(10 * self._IDS)
                self._chunks.extend(fresh[at : at + 10] for at in range(0, len(fresh), 10))


_random = _RandomPool()


def new_request_id(now: Instant) -> str:
    """Return a fresh UUID of version 7 (RFC 9562 §5.7): 74 random bits, and in the order of time."""
    value = (now // 1000) << 80 | int.from_bytes(_random.take(), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


def _render(submission: Submission, recipients: tuple[Mailbox, ...], now: Instant) -> NewMessage:
    request_id = new_request_id(now)
    sender = parse_mailbox(submission.account.email)
    content = Content(
        sender_name=submission.account.name,
        sender=sender,
        recipients=recipients,
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
        smtputf8=sender.smtputf8 or any(recipient.smtputf8 for recipient in recipients),
        accepted_at=now,
        in_doubt=submission.in_doubt,
        idempotency_key=submission.idempotency_key,
        fingerprint=_fingerprint(submission) if submission.idempotency_key is not None else None,
    )


def _fingerprint(submission: Submission) -> bytes:
    """Return a digest of what was asked, to tell a repeated request from a different one under the same key."""
    asked: list[object] = [submission.is_html]
    if submission.in_doubt is not None:  # what was asked before there was a choice keeps its digest
        asked.append(submission.in_doubt.value)
    digest = hashlib.sha256(json.dumps([submission.recipients, submission.subject])[:-1].encode())
    digest.update(b', "')
    for at in range(0, len(submission.body), _PIECE):  # `json` holds Python's lock for as long as it writes
        digest.update(json.dumps(submission.body[at : at + _PIECE])[1:-1].encode())
    digest.update(b'", ' + json.dumps(asked)[1:].encode())
    return digest.digest()
