"""Writes an accepted message: content, deliveries, job, event and idempotency key, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from postroom.core import failpoint
from postroom.core.job import CAPTURE, DELIVERY
from postroom.core.message import Accepted, NewMessage
from postroom.store.envelopes import envelope_checksum
from postroom.store.noun import Noun
from postroom.store.queries import Changed
from postroom.store.totals import TESTS_ACCEPTED


@dataclass(frozen=True, slots=True)
class IdempotencyClash:
    """The idempotency key was used before, for a different request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A content whose pieces are stored: its number of octets, and their CRC-32."""

    id: int
    size: int
    checksum: int


class _Earlier(NamedTuple):
    """The acceptance that an idempotency key belongs to."""

    fingerprint: bytes | None
    request_id: str


class Acceptance(Noun):
    def accept(self, message: NewMessage, upload: Upload | None = None) -> Accepted | IdempotencyClash:
        """Store message, deliveries, job, event and idempotency key: the moment of acceptance.

        With `upload` the content is there already. Raises LeaseLost when it was dropped meanwhile.
        """
        if message.key is not None:
            self._tx.issued_keys.hold(message.key, len(message.forward_paths), message.accepted_at)
        outcome = self._before_insertion(message)
        if outcome is not None:
            if upload is not None:
                self._tx.contents.drop_upload(upload.id)
            return outcome
        self._insert(message, upload)
        self._tx.events.tell_accepted(message)
        if not message.is_test:
            self._tx.accepted[message.account_id] += 1
        else:
            self._tx.totals.add(TESTS_ACCEPTED)
        failpoint.hit("accept.inserted")
        self._tx.has_new_work = True
        return Accepted(message.request_id)

    def _before_insertion(self, message: NewMessage) -> Accepted | IdempotencyClash | None:
        """Note the idempotency key; return what came of an earlier message with it."""
        if message.idempotency_key is None:
            return None
        is_new = self._add_idempotency(message)
        if self._tx.results_deferred:
            self._tx.guard(is_new)  # one that was used is rare: all are run again, results known at once
            return None
        while not is_new:
            before = self._accepted_before(message)
            if before is not None:
                return before
            is_new = self._add_idempotency(message)  # it was pruned just now
        return None

    def _add_idempotency(self, message: NewMessage) -> Changed:
        return self._tx.change(
            "add_idempotency",
            account_id=_idempotency_account(message),
            key=message.idempotency_key,
            fingerprint=message.fingerprint,
            request_id=message.request_id,
            now=message.accepted_at,
        )

    def _accepted_before(self, message: NewMessage) -> Accepted | IdempotencyClash | None:
        before = self._tx.row(
            _Earlier,
            "find_idempotent",
            account_id=_idempotency_account(message),
            key=message.idempotency_key,
        )
        if before is None:
            return None
        if before.fingerprint == message.fingerprint:
            return Accepted(before.request_id, replayed=True)
        return IdempotencyClash(before.request_id)

    def _insert(self, message: NewMessage, upload: Upload | None) -> None:
        first, *others = message.forward_paths
        mime = message.mime if upload is None else b""
        checksum = crc32(mime) if upload is None else upload.checksum
        self._tx.change(
            "accept_message",
            request_id=message.request_id,
            account_id=message.account_id,
            reverse_path=message.reverse_path,
            subject=message.subject,
            size=len(message.mime),
            smtputf8=int(message.smtputf8),
            now=message.accepted_at,
            in_doubt=None if message.in_doubt is None else message.in_doubt.value,
            mime=mime,
            checksum=checksum,
            forward_path=first,
            envelope_checksum=envelope_checksum(message.reverse_path, first, checksum),
            not_before=message.not_before,
            key_id=None if message.key is None else message.key.id,
            test=int(message.is_test),
            traceparent=message.traceparent,
            kind=CAPTURE if message.is_test else DELIVERY,
        )
        if upload is not None:
            self._tie(message.request_id, upload)
        for path in others:
            self._tx.change(
                "add_delivery",
                request_id=message.request_id,
                forward_path=path,
                checksum=envelope_checksum(message.reverse_path, path, checksum),
            )

    def _tie(self, request_id: str, upload: Upload) -> None:
        """Give the message the content that was stored in pieces."""
        self._tx.guard(self._tx.change("end_upload", upload=upload.id))
        tied = self._tx.change(
            "tie_upload", request_id=request_id, upload=upload.id, checksum=upload.checksum
        )
        self._tx.guard(tied)
        self._tx.change("drop_empty_content", request_id=request_id)


def _idempotency_account(message: NewMessage) -> int:
    return message.account_id if message.idempotency_account is None else message.idempotency_account
