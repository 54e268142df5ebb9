"""Notices in the database: what the admins were told, what is still to be sent, and which process sends (one at a time)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.core.notices.document import detail_of, trouble_of
from postroom.core.notices.kinds import Kind
from postroom.core.notices.values import Key, Trouble
from postroom.store.noun import Noun


class NoticeMemory(NamedTuple):
    """Which process sends notices, how often it has said that it lives, and what it keeps in mind, as JSON."""

    holder: str
    beat: int
    memory: str


class StoredNotice(NamedTuple):
    """A notice that is to be sent, as JSON, and the ways that have not taken it, as a JSON list."""

    notice: str
    ways: str


class NoticeMessage(NamedTuple):
    """A notice that is a message, and the state of its job; None: nothing is known of it any more."""

    request_id: str
    state: str | None
    finished_at: Instant | None


class _Row(NamedTuple):
    kind: str
    subject: str
    first_at: Instant
    noticed_at: Instant
    last_at: Instant
    times: int
    told_at: Instant | None
    ended_at: Instant | None
    notice_id: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class NoticeChanges:
    """What a look, or a notice that was sent, changes in the database."""

    memory: str
    troubles: tuple[Trouble, ...] = ()
    over: tuple[Key, ...] = ()
    to_send: tuple[tuple[str, str, str], ...] = ()  # id, notice, ways
    sent: tuple[str, ...] = ()  # ids
    ended_messages: tuple[str, ...] = ()  # request_ids


class Notices(Noun):
    def memory(self) -> NoticeMemory | None:
        """Return which process sends notices; None: none has ever."""
        return self._tx.row(NoticeMemory, "notice_memory")

    def begin(self, holder: str) -> None:
        """Be the first process that sends notices, where there was none."""
        self._tx.change("begin_notice_memory", holder=holder)

    def renew(self, holder: str) -> bool:
        """Say that the process that sends notices lives; False when another one has taken over."""
        return bool(self._tx.change("renew_notice_memory", holder=holder))

    def take_over(self, holder: str, former: NoticeMemory) -> bool:
        """Send notices from now on, in place of a process that has not said since that it lives."""
        return bool(
            self._tx.change("take_notice_memory", holder=holder, former=former.holder, beat=former.beat)
        )

    def troubles(self) -> list[Trouble]:
        """Return everything that is remembered as wrong, or as not told yet; kinds of a later version are left out."""
        known = Kind.__members__.values()
        return [_trouble(row) for row in self._tx.rows(_Row, "all_notices") if row.kind in known]

    def to_send(self) -> list[StoredNotice]:
        return self._tx.rows(StoredNotice, "notices_to_send")

    def note_message(self, request_id: str) -> None:
        """Remember that a message is a notice: its failure is none that a notice tells of."""
        self._tx.change("note_notice_message", request_id=request_id)

    def messages(self) -> list[NoticeMessage]:
        """Return the notices that are messages, with what has become of each."""
        return self._tx.rows(NoticeMessage, "notice_messages")

    def keep(self, holder: str, changes: NoticeChanges) -> None:
        """Store what has changed. Raises LeaseLost, storing nothing, when another process sends notices now."""
        self._tx.guard(self._tx.change("keep_notice_memory", holder=holder, memory=changes.memory))
        for kind, subject in changes.over:
            self._tx.change("forget_notice", kind=kind.value, subject=subject)
        self._keep_troubles(changes.troubles)
        for id_, notice, ways in changes.to_send:
            self._tx.change("keep_notice_to_send", notice_id=id_, notice=notice, ways=ways)
        for id_ in changes.sent:
            self._tx.change("forget_notice_to_send", notice_id=id_)
        for request_id in changes.ended_messages:
            self._tx.change("forget_notice_message", request_id=request_id)

    def _keep_troubles(self, troubles: Iterable[Trouble]) -> None:
        for trouble in troubles:
            self._tx.change(
                "keep_notice",
                kind=trouble.kind.value,
                subject=trouble.subject,
                first_at=trouble.first_at,
                noticed_at=trouble.noticed_at,
                last_at=trouble.last_at,
                count=trouble.count,
                told_at=trouble.told_at,
                ended_at=trouble.ended_at,
                notice_id=trouble.notice_id,
                detail=detail_of(trouble),
            )


def _trouble(row: _Row) -> Trouble:
    return trouble_of(
        Kind(row.kind),
        row.subject,
        first_at=row.first_at,
        noticed_at=row.noticed_at,
        last_at=row.last_at,
        count=row.times,
        told_at=row.told_at,
        ended_at=row.ended_at,
        notice_id=row.notice_id,
        detail=row.detail,
    )
