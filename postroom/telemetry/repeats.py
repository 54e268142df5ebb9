"""Log lines that repeat are written once a minute, with their count."""

from __future__ import annotations

import atexit
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_PERIOD_S: Final = 60.0
_MOST_KINDS: Final = 1000
_ID: Final = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_SUMMARY: Final = "is_summary"  # the attribute of a record that counts the repetitions of another


@dataclass(slots=True)
class _Kind:
    """Lines with the same text: the last of them, when the period ends, and how many were held back."""

    record: logging.LogRecord
    until: float
    more: int = 0


class Repeats(logging.Filter):
    """Lets the first line of a kind through at once, and after each minute one more with their count.

    Lines that differ in the id of a message only are of one kind. Loggers whose names do not begin
    with one of `names`, and CRITICAL lines, pass as they are. `again` is given the lines that it
    makes itself, from a thread of its own.
    """

    def __init__(
        self,
        names: Sequence[str],
        again: Callable[[logging.LogRecord], object],
        *,
        period: float = _PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._names = tuple(names)
        self._again = again
        self._period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, int, str], _Kind] = {}
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if not self._concerns(record):
            return True
        key = record.name, record.levelno, _ID.sub("…", record.getMessage())
        now = self._clock()
        with self._lock:
            kind = self._kinds.get(key)
            if kind is None or (now >= kind.until and not kind.more):
                self._kinds.pop(key, None)
                self._kinds[key] = _Kind(record, now + self._period)
                if len(self._kinds) > _MOST_KINDS:
                    self._forget_the_oldest()
                return True
            kind.record, kind.more = record, kind.more + 1
            self._wake_at(kind.until)
        return False

    def _concerns(self, record: logging.LogRecord) -> bool:
        own = record.name.startswith(self._names) and record.levelno < logging.CRITICAL
        return own and not hasattr(record, _SUMMARY)

    def _forget_the_oldest(self) -> None:
        """Forget the oldest kind without held-back lines, since those would never be written."""
        oldest = next((key for key, kind in self._kinds.items() if not kind.more), next(iter(self._kinds)))
        del self._kinds[oldest]

    def _wake_at(self, when: float) -> None:
        if self._timer is None:
            self._timer = threading.Timer(max(when - self._clock(), 0.0), self.say_what_is_due)
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        """End the timer; the lines that were held back are not written. For a handler that is taken out of use."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for kind in self._kinds.values():
                kind.more = 0

    def say_what_is_due(self, *, all_of_it: bool = False) -> None:
        """Write the counts of the periods that are over; a new period begins for each kind."""
        now = self._clock()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            due = [kind for kind in self._kinds.values() if kind.more and (all_of_it or now >= kind.until)]
            summaries = [_summary(kind, self._period) for kind in due]
            for kind in due:
                kind.more, kind.until = 0, now + self._period
            waiting = [kind.until for kind in self._kinds.values() if kind.more]
            if waiting:
                self._wake_at(min(waiting))
        for summary in summaries:
            self._again(summary)


def _summary(kind: _Kind, period: float) -> logging.LogRecord:
    last = kind.record
    again = f"{kind.more} times more" if kind.more > 1 else "once more"
    text = f"{last.getMessage()} ({again} within {period:g} s)"
    record = logging.LogRecord(last.name, last.levelno, last.pathname, last.lineno, text, None, None)
    setattr(record, _SUMMARY, True)
    return record


def quieten(handler: logging.Handler, *names: str) -> None:
    """Have a handler write repeated lines once a minute, for the loggers whose names begin with these.

    It takes the place of the handler before, whose stream may be closed: that one writes nothing more by itself.
    """
    global _current
    unquieten()
    _current = Repeats(names, handler.handle)
    handler.addFilter(_current)


def unquieten() -> None:
    """Stop the timer of the handler that `quieten` was last given."""
    global _current
    if _current is not None:
        _current.stop()
        _current = None


def _say_the_rest() -> None:
    if _current is not None:
        logging.raiseExceptions = False  # the stream may be closed already
        _current.say_what_is_due(all_of_it=True)


_current: Repeats | None = None
atexit.register(_say_the_rest)
