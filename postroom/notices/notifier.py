"""The process that tells the admins: looks, decides, stores what is to be told, sends it, and stores that it was sent.

A notice is stored before it is sent, and deleted once each way has taken it: after a kill between the two it is sent twice,
with the same id. While the database stores nothing, notices are sent from memory.
"""

from __future__ import annotations

import json
import logging
import queue
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from postroom.core import failpoint
from postroom.core.clock import SECOND, Clock, system_clock
from postroom.core.errors import LeaseLost, StoreError
from postroom.core.heartbeat import beat
from postroom.core.notices.decide import decide
from postroom.core.notices.document import notice_from_json, notice_to_json, told_from_values, told_to_values
from postroom.core.notices.kinds import Kind
from postroom.core.notices.routes import ways_for
from postroom.core.notices.values import Event, Look, Notice, Policy, Seen, State
from postroom.core.text import printable
from postroom.intake.request_id import new_request_id
from postroom.notices.election import TAKE_OVER_S, Election
from postroom.notices.observe import Observer, Totals
from postroom.notices.sending import GIVE_UP, Answered, Sender, Sending
from postroom.settings import Settings
from postroom.store.notices import NoticeChanges, Notices
from postroom.store.store import Store

log = logging.getLogger(__name__)

_LOOK_S: Final = 5.0
_SHORTEST_LOOK_S: Final = 0.05
_LAST_ANSWERS_S: Final = 5.0


@dataclass(slots=True)
class ToSend:
    """A notice, and the names of the ways that have not taken it."""

    notice: Notice
    ways: tuple[str, ...]


class Notifier:
    """Tells the admins, in a loop, until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        var: Path,
        *,
        clock: Clock = system_clock,
        take_over_s: float = TAKE_OVER_S,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._ways = {way.name: way for way in settings.notify or ()}
        self._policy = Policy(
            settings.notify_kinds,
            settings.notify_window,
            settings.notify_gather,
            settings.notify_quiet,
            settings.notify_failed,
        )
        self._election = Election(store, var, take_over_s=take_over_s)
        self._observer = Observer(settings, store, clock)
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # which a signal's handler may put into
        self._is_stopping = False
        self._sending = Sending(Sender(settings, store, clock).send, wake=lambda: self._wake.put(None))
        self._state = State()
        self._stored = State()  # as the database has it
        self._to_send: dict[str, ToSend] = {}
        self._unstored: set[str] = set()  # of what is to be sent: what the database lacks
        self._sent: set[str] = set()  # what the database may still have
        self._kept_failed: int | None = None  # how many messages had failed, as the database has it
        self._is_forgetful = False  # the database takes nothing just now
        self._was_elected = False
        self._away_since: tuple[int, float] | None = None
        self.look_s = min(_LOOK_S, max(_SHORTEST_LOOK_S, settings.notify_gather / 2 / SECOND))

    def run(self) -> None:
        """Look again and again until `stop` is called; then wait a moment for what is being sent."""
        while self._goes_on():
            self.look()
            until = time.monotonic() + self.look_s
            while self._goes_on() and time.monotonic() < until:
                self._wait(until)
                self.send()
        deadline = time.monotonic() + _LAST_ANSWERS_S
        while not self._sending.is_idle and time.monotonic() < deadline:
            self._wait(deadline)
            self._take_answers()
        self.close()

    def close(self) -> None:
        self._election.close()

    def _goes_on(self) -> bool:
        return not self._is_stopping

    def stop(self) -> None:
        self._is_stopping = True
        self._wake.put(None)

    def _wait(self, until: float) -> None:
        with suppress(queue.Empty):
            self._wake.get(timeout=max(0.0, until - time.monotonic()))

    # -- looking

    def look(self) -> None:
        """Look once, decide, store and begin to send."""
        beat()
        look = self._look()
        decision = decide(
            self._state, look, self._policy, self._clock(), lambda: new_request_id(self._clock())
        )
        self._state = decision.state
        for notice in decision.notices:
            self._add(notice)
        self._store_changes()
        self.send()

    def _look(self) -> Look:
        """Return what is wrong. A process that is not elected, or has no database, sees the database alone."""
        cannot_write: StoreError | None = None
        try:
            elected = self._election.run()
        except StoreError as error:
            if not self._was_elected:
                return self._without_database(error)
            elected, cannot_write = True, error  # what is wrong can be read all the same
        try:
            if elected and not self._was_elected:
                self._load()
            look = self._observer.look() if elected else Look(frozenset({Kind.DATABASE}))
        except StoreError as error:
            return self._without_database(error)
        self._was_elected = elected
        if not elected:
            self._forget_all_but_database()
        if cannot_write is None or any(seen.kind is Kind.DISK for seen in look.seen):  # which says why
            self._away_since = None
            return look
        away = self._without_database(cannot_write)
        return Look(look.known - {Kind.DATABASE} | away.known, (*look.seen, *away.seen), look.happened)

    def _without_database(self, error: StoreError) -> Look:
        now, monotonic = self._clock(), time.monotonic()
        if self._away_since is None:
            self._away_since = now, monotonic
        since, began = self._away_since
        if monotonic - began < self._settings.notify_away / SECOND:
            return Look(frozenset())
        return Look(
            frozenset({Kind.DATABASE}),
            (Seen(Kind.DATABASE, "", since, "the database", printable(str(error)), urgent=True),),
        )

    def _load(self) -> None:
        """Take over what the process before has left, and add what this one has told from memory."""
        row = self._store.read(Notices.memory)
        troubles = {(each.kind, each.subject): each for each in self._store.read(Notices.troubles)}
        memory = json.loads(row.memory) if row is not None else {}
        self._stored = State(troubles, told_from_values(memory.get("told", {})))
        told = {**self._stored.told, **self._state.told}
        self._state = State({**troubles, **self._state.troubles}, told)
        self._observer.totals = Totals(memory.get("failed"), memory.get("looked_at", 0))
        for stored in self._store.read(Notices.to_send):
            notice = notice_from_json(stored.notice)
            ways = tuple(name for name in json.loads(stored.ways) if name in self._ways)
            if notice.id not in self._to_send and notice.id not in self._sent:
                self._to_send[notice.id] = ToSend(notice, ways)
                self._sent |= set() if ways else {notice.id}

    def _forget_all_but_database(self) -> None:
        """Another process tells of everything else."""
        own = {key: each for key, each in self._state.troubles.items() if each.kind is Kind.DATABASE}
        if len(own) < len(self._state.troubles):
            self._state = State(
                own, {Kind.DATABASE: told} if (told := self._state.told.get(Kind.DATABASE)) else {}
            )
        self._to_send = {
            id_: each for id_, each in self._to_send.items() if each.notice.kind is Kind.DATABASE
        }

    # -- what is to be told

    def _add(self, notice: Notice) -> None:
        """Choose the ways of a notice, and have it sent by them."""
        paused = (
            each.account
            for each in self._state.troubles.values()
            if each.kind is Kind.PAUSED and each.ended_at is None
        )
        nothing_is_sent = any(each.urgent and each.ended_at is None for each in self._state.troubles.values())
        ways = ways_for(
            notice, self._ways.values(), broken=frozenset(paused), nothing_is_sent=nothing_is_sent
        )
        said = printable(f"{notice.title} (notice {notice.id})")
        if not ways:
            log.error("%s; it goes by no way of POSTROOM_NOTIFY: all of them need what is broken", said)
            return
        (log.info if notice.event is Event.RECOVERY else log.warning)("%s", said)
        self._to_send[notice.id] = ToSend(notice, tuple(way.name for way in ways))
        self._unstored.add(notice.id)

    def _store_changes(self) -> None:
        """Store what has changed since it was last stored; where that fails, it is told from memory."""
        if not self._election.is_elected:
            return
        changes = self._changes()
        if changes is None:
            return
        try:
            self._store.write(Notices.keep, self._election.name, changes)
        except LeaseLost:
            self._election.lose()
            self._was_elected = False
            self._forget_all_but_database()
            return
        except StoreError as error:
            if not self._is_forgetful:
                log.warning("what the admins are told cannot be stored, and is told from memory: %s", error)
            self._is_forgetful = True
            return
        self._is_forgetful = False
        self._election.note_renewed()
        self._stored = self._state
        self._unstored.clear()
        self._sent.clear()

    def _changes(self) -> NoticeChanges | None:
        """Return what the database does not have yet; None: nothing."""
        before, after = self._stored.troubles, self._state.troubles
        troubles = tuple(each for key, each in after.items() if before.get(key) != each)
        over = tuple(key for key in before if key not in after)
        to_send = tuple(
            (id_, notice_to_json(each.notice), json.dumps(each.ways))
            for id_ in sorted(self._unstored)
            if (each := self._to_send.get(id_)) is not None
        )
        totals, ended = self._observer.totals, self._observer.ended_messages
        told = told_to_values(self._state.told)
        memory = json.dumps({"told": told, "failed": totals.failed, "looked_at": totals.looked_at})
        told_is_same = self._state.told == self._stored.told and totals.failed == self._kept_failed
        if told_is_same and not (troubles or over or to_send or self._sent or ended):
            return None
        self._kept_failed = totals.failed
        return NoticeChanges(memory, troubles, over, to_send, tuple(sorted(self._sent)), ended)

    # -- sending

    def send(self) -> None:
        """Take what was answered, and hand what is to be sent to its ways."""
        self._take_answers()
        oldest = self._clock() - GIVE_UP
        for id_, each in list(self._to_send.items()):
            if each.notice.at < oldest:
                log.error("notice %s is given up: %s have not taken it", id_, ", ".join(each.ways))
                self._finish(id_)
                continue
            for name in each.ways:
                self._sending.start(each.notice, self._ways[name])

    def _take_answers(self) -> None:
        for answered in self._sending.answers():
            self._note(answered)

    def _note(self, answered: Answered) -> None:
        id_, way, answer = answered
        if not answer.taken:
            log.warning("notice %s is not sent by %s: %s", id_, way.name, answer.words)
            return
        failpoint.hit("notice.sent")
        each = self._to_send.get(id_)
        if each is None:
            return
        each.ways = tuple(name for name in each.ways if name != way.name)
        log.info("notice %s is sent by %s: %s", id_, way.name, answer.words)
        if each.ways:
            self._unstored.add(id_)
        else:
            self._finish(id_)
        self._store_changes()

    def _finish(self, id_: str) -> None:
        self._to_send.pop(id_, None)
        self._unstored.discard(id_)
        self._sent.add(id_)
        self._sending.forget(id_)
