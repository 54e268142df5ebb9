"""Held messages, and a person's decisions about messages: release, cancel. Not an account's hold (`managed_accounts.py`)."""

from __future__ import annotations

from postroom.core.clock import Instant
from postroom.core.events import EventKind, NewEvent, sent_again
from postroom.store.noun import Noun
from postroom.store.totals import EVENTS

STEPPED_BACK = (
    "held: the database was restored or has lost its newest state, and this may have been sent already"
)


class Holds(Noun):
    def hold_queued(self, now: Instant, *, until: Instant, claimed: bool) -> int:
        """Hold what was accepted until then and waits, or, with `claimed`, is claimed by a worker that has died.

        For a database that has stepped back: it may have been sent, so each is flagged and waits for a person.
        """
        self._tx.change("doubt_deliveries", reason=STEPPED_BACK, until=until, claimed=int(claimed))
        self._tx.change("add_held_events", now=now, reason=STEPPED_BACK, until=until, claimed=int(claimed))
        held = self._tx.count_changed("hold_jobs", until=until, claimed=int(claimed))
        self._tx.totals.add(EVENTS, EventKind.HELD.value, amount=held)
        return held

    def release(self, request_id: str, now: Instant) -> bool:
        """Send a message that waits for a person after all; False when it does not wait for one."""
        message_id = self._tx.value(int, "message_id", request_id=request_id)
        if message_id is None or not self._tx.change("release_held", message_id=message_id, now=now):
            return False
        self._tx.events.append(message_id, NewEvent(EventKind.RELEASED), now)
        for delivery_id in self._tx.column(int, "doubtful_deliveries", message_id=message_id):
            self._tx.events.append(message_id, sent_again(delivery_id), now)
        self._tx.has_new_work = True
        return True

    def cancel(self, request_id: str, now: Instant) -> bool:
        """End a message for its pending recipients; False when it is being sent just now, or over."""
        message_id = self._tx.value(int, "message_id", request_id=request_id)
        if message_id is None or not self._tx.change("cancel_job", message_id=message_id, now=now):
            return False
        recipients = self._tx.count_changed("cancel_deliveries", message_id=message_id, now=now)
        self._tx.issued_keys.give_back(message_id, recipients)
        self._tx.events.append(message_id, NewEvent(EventKind.CANCELLED), now)
        self._tx.log_lines.add(message_id)
        return True

    def held_messages(self) -> list[str]:
        """Return the ids of all messages that wait for a person, oldest first."""
        return self._tx.column(str, "held_messages")
