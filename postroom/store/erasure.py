"""Erases the data of a person: contents, subjects, dialogues and the address itself; ids, times and states stay."""

from __future__ import annotations

import json
from collections import Counter
from enum import Enum
from typing import NamedTuple

from postroom.core.api_key import ALL_MESSAGES, Sight
from postroom.core.clock import Instant
from postroom.core.erasure import ErasedAddress
from postroom.core.errors import Conflict, NotFound
from postroom.core.events import EventKind, NewEvent
from postroom.store.noun import Noun

_AUDIT_AT_ONCE = 1000


class Fate(Enum):
    """What erasing means for one message."""

    ERASED = "erased"
    CANCELLED = "cancelled"  # it waited; it is erased too
    SPARED = "spared"  # it waits for others as well: it goes to them, and no more to this person
    SENDING = "sending"  # a worker has it in hand
    HELD = "held"  # its account is on hold


class DeliveryTo(NamedTuple):
    """A delivery to the address, and its message."""

    delivery_id: int
    message_id: int


class _DeliveryAt(NamedTuple):
    delivery_id: int
    message_id: int
    forward_path: str


class _Message(NamedTuple):
    message_id: int
    request_id: str
    account_id: int
    job_id: int | None
    job_state: str | None
    hold: int | None
    pending: int


class _Words(NamedTuple):
    kind: str
    id: int
    first: str | None
    second: str | None


class _Text(NamedTuple):
    id: int
    words: str


class _AuditWords(NamedTuple):
    target: str | None
    detail: str | None


class _NoticeDetail(NamedTuple):
    kind: str
    subject: str
    detail: str


class _WaitingNotice(NamedTuple):
    notice_id: str
    notice: str


class Erasure(Noun):
    def last_delivery(self) -> int:
        """Return the id of the newest delivery; 0 where there is none."""
        return self._tx.value(int, "last_delivery") or 0

    def deliveries_to(self, address: ErasedAddress, *, after: int, until: int) -> list[DeliveryTo]:
        """Return the deliveries to an address, of a range of ids.

        The databases lower ASCII alone, and letters by their locale: what has others is compared here.
        """
        if address.address.isascii():
            return self._tx.rows(
                DeliveryTo, "deliveries_to", after=after, until=until, lowered=address.lowered
            )
        at_domain = f"%@{address.lowered.rpartition('@')[2]}"
        rows = self._tx.rows(
            _DeliveryAt, "deliveries_to_domain", after=after, until=until, at_domain=at_domain
        )
        return [
            DeliveryTo(row.delivery_id, row.message_id) for row in rows if address.is_it(row.forward_path)
        ]

    def is_sender(self, address: ErasedAddress) -> bool:
        """Whether an account sends as this address."""
        return bool(self._tx.value(int, "is_sender", lowered=address.lowered))

    def fate_of(self, delivery: DeliveryTo) -> Fate:
        """Return what erasing would mean for a delivery's message now."""
        return _fate(self._message(delivery.message_id))

    def erase(self, delivery: DeliveryTo, address: ErasedAddress, now: Instant) -> Fate:
        """Erase what is known of the person from a delivery's message, as far as that may be done now."""
        message = self._message(delivery.message_id)
        fate = _fate(message)
        if fate is Fate.SPARED:
            if self._tx.change("cancel_delivery", delivery_id=delivery.delivery_id, now=now):
                self._tx.issued_keys.give_back(message.message_id, 1)
        elif fate is Fate.CANCELLED and not self._tx.holds.cancel(message.request_id, now):
            return Fate.SENDING  # a worker has just claimed it
        if fate in (Fate.ERASED, Fate.CANCELLED):
            self._erase_content(message)
            self._erase_words(message, address)
            self._tx.events.append(message.message_id, NewEvent(EventKind.ERASED), now)
            self._tx.change(
                "erase_recipient", delivery_id=delivery.delivery_id, substitute=address.substitute
            )
            self._tx.projection.note_recipients_anew(message.message_id, address.address)
        return fate

    def erase_content(self, request_id: str, now: Instant, sight: Sight = ALL_MESSAGES) -> bool:
        """Erase the content and the subject of one message that has ended; False for one that has not.

        Raises Conflict where the account is on hold, NotFound also for a message out of sight of a key.
        """
        message_id = self._tx.value(
            int,
            "message_in_sight",
            request_id=request_id,
            account_id=sight.account_id,
            key_id=sight.key_id,
        )
        if message_id is None:
            raise NotFound("there is no message with this id", field="id")
        message = self._message(message_id)
        if message.hold:
            raise Conflict("the account of this message is on hold: nothing of it is erased")
        if message.job_state in ("queued", "claimed"):
            return False
        self._erase_content(message)
        self._tx.events.append(message_id, NewEvent(EventKind.ERASED), now)
        return True

    def _message(self, message_id: int) -> _Message:
        found = self._tx.row(_Message, "message_to_erase", message_id=message_id)
        assert found is not None
        return found

    def _erase_content(self, message: _Message) -> None:
        self._tx.contents.delete(message.message_id)
        self._tx.change("erase_subject", message_id=message.message_id)
        if message.job_id is not None:
            self._tx.change("erase_dialogues", job_id=message.job_id)
        self._tx.change("erase_idempotency", account_id=message.account_id, request_id=message.request_id)

    def _erase_words(self, message: _Message, address: ErasedAddress) -> None:
        rows = self._tx.rows(_Words, "words_about", message_id=message.message_id, job_id=message.job_id)
        for row in rows:
            first, second = (text and address.without(text) for text in (row.first, row.second))
            if (first, second) == (row.first, row.second):
                continue
            match row.kind:
                case "delivery":
                    self._tx.change("erase_words_of_delivery", id=row.id, first=first, second=second)
                case "event":
                    self._tx.change("erase_words_of_event", id=row.id, first=first)
                case _:
                    self._tx.change("erase_words_of_attempt", id=row.id, first=first)

    # -- beside the messages

    def erase_elsewhere(self, address: ErasedAddress) -> Counter[str]:
        """Erase the address from the reasons of accounts, the recipients that keys allow, and notices.

        Returns of each how many rows named it.
        """
        found: Counter[str] = Counter()
        for row in self._tx.rows(_Text, "reasons_of_accounts"):
            if (words := address.without(row.words)) != row.words:
                self._tx.change("erase_reason_of_account", id=row.id, words=words)
                found["reasons of accounts"] += 1
        for row in self._tx.rows(_Text, "allowed_recipients"):
            allowed = [str(each) for each in json.loads(row.words)]
            left = [each for each in allowed if not address.is_it(each)]
            if left != allowed:
                self._tx.note_keys_changed()
                self._tx.change("erase_allowed_recipient", id=row.id, words=json.dumps(left))
                found["keys that allow it"] += 1
        if in_notices := self._erase_from_notices(address):
            found["notices to the admins"] = in_notices
        return found

    def _erase_from_notices(self, address: ErasedAddress) -> int:
        """Erase the address from the examples of notices that are not told or not sent yet; return how many named it."""
        changed = 0
        for told in self._tx.rows(_NoticeDetail, "details_of_notices"):
            if (detail := address.without(told.detail)) != told.detail:
                self._tx.change("erase_detail_of_notice", kind=told.kind, subject=told.subject, detail=detail)
                changed += 1
        for waiting in self._tx.rows(_WaitingNotice, "words_of_notices_to_send"):
            if (notice := address.without(waiting.notice)) != waiting.notice:
                self._tx.change("erase_words_of_notice_to_send", notice_id=waiting.notice_id, notice=notice)
                changed += 1
        return changed

    def erase_from_audit(self, address: ErasedAddress, after: int) -> tuple[int, int] | None:
        """Erase the address from the next entries of the audit; return the last one and how many named it.

        None at the end.
        """
        rows = self._tx.rows(_Text, "audit_in_words", after=after, most=_AUDIT_AT_ONCE)
        changed = 0
        for row in rows:
            if address.without(row.words) == row.words:
                continue
            entry = self._tx.row(_AuditWords, "audit_entry", id=row.id)
            assert entry is not None
            target, detail = (text and address.without(text) for text in entry)
            self._tx.change("erase_words_of_audit", id=row.id, target=target, detail=detail)
            changed += 1
        return (rows[-1].id, changed) if rows else None


def _fate(message: _Message) -> Fate:
    if message.hold:
        return Fate.HELD
    if message.job_state == "claimed":
        return Fate.SENDING
    if message.job_state == "queued":
        return Fate.SPARED if message.pending > 1 else Fate.CANCELLED
    return Fate.ERASED
