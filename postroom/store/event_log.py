"""Events of all messages: those after an event (`--follow`), and the newest ones, for the rates of `postroom top`."""

from __future__ import annotations

from typing import NamedTuple

from postroom.core.clock import Instant
from postroom.store.noun import Noun


class LoggedEvent(NamedTuple):
    """An event, with its message."""

    id: int
    message_id: int
    request_id: str
    at: Instant
    kind: str
    forward_path: str | None
    detail: str | None


class RecentEvent(NamedTuple):
    """An event, with the account of its message."""

    kind: str
    at: Instant
    account_id: int


class EventLog(Noun):
    def newest_id(self) -> int:
        return self._tx.value(int, "newest_event") or 0

    def behind(self, event_id: int, most: int) -> list[LoggedEvent]:
        """Return the first events behind one, oldest first."""
        return self._tx.rows(LoggedEvent, "events_after", after=event_id, most=most)

    def recent(self, since: Instant, most: int) -> list[RecentEvent]:
        """Return the events since a time, the newest first, of up to `most` that are looked at."""
        rows = self._tx.rows(RecentEvent, "newest_events", most=most)
        return [row for row in rows if row.at >= since]
