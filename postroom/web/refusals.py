"""Logs refused requests: who was refused and why, bounded so that no client fills the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from ipaddress import ip_network
from typing import Final

from postroom.core.measures import Measures
from postroom.core.text import counted, printable
from postroom.web.answers import Problem
from postroom.web.api_request import ApiRequest

log = logging.getLogger(__name__)

_INCIDENT: Final = 500  # logged where it arises
_ALL_ALIKE: Final = (429, 503)  # of one source: the first is said, the others are counted
_PERIOD_S: Final = 60.0
_LINES_OF_STRANGERS: Final = 5  # in a period, from one prefix of addresses
_LINES_OF_ALL_STRANGERS: Final = 100
_LINES_OF_ACCOUNT: Final = 60
_MOST_SOURCES: Final = 1000
_OTHERS: Final = "other addresses"
_LONGEST_PATH, _LONGEST_REASON = 100, 300


class Refusals:
    """Logs refusals, so many in a minute; the rest is counted, and the count is said at the end of the minute."""

    def __init__(self, period: float = _PERIOD_S, measures: Measures | None = None) -> None:
        self._measures = measures or Measures()
        self._period = period
        self._lock = threading.Lock()
        self._lines: Counter[str] = Counter()
        self._held_back: Counter[str] = Counter()
        self._strangers = 0
        self._until = 0.0  # the end of the period, by the monotonic clock
        self._timer: threading.Timer | None = None

    def note(self, request: ApiRequest, problem: Problem) -> None:
        """Log a refusal, or count it. An account is known from its key; without one it is a stranger's."""
        self._measures.count("http_refusals_total", problem.code)
        is_incident = problem.status == _INCIDENT
        if is_incident:
            return
        source = request.account or _prefix(request.address)
        alike = problem.status if problem.status in _ALL_ALIKE else None
        if time.monotonic() >= self._until:
            self.end_period()
        with self._lock:
            may_say = self._may_say(source, alike, is_stranger=request.account is None)
        if may_say:
            log.info("%s", _line(request, problem))

    def _may_say(self, source: str, alike: int | None, *, is_stranger: bool) -> bool:
        if is_stranger and source not in self._lines and len(self._lines) >= _MOST_SOURCES:
            source = _OTHERS
        most = _LINES_OF_STRANGERS if is_stranger else _LINES_OF_ACCOUNT
        if alike is not None:
            source, most = f"{source} ({alike})", 1
        is_full = is_stranger and self._strangers >= _LINES_OF_ALL_STRANGERS
        if is_full or self._lines[source] >= most:
            self._held_back[source] += 1
            self._wake_at_the_end()
            self._lines.setdefault(source, 0)
            return False
        self._lines[source] += 1
        self._strangers += is_stranger
        return True

    def _wake_at_the_end(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(max(0.0, self._until - time.monotonic()), self.end_period)
            self._timer.daemon = True
            self._timer.start()

    def end_period(self) -> None:
        """Say how much was held back; a new period begins."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._strangers = None, 0
            self._until = time.monotonic() + self._period
            held_back, self._held_back = self._held_back, Counter()
            self._lines.clear()
        shown = held_back.most_common(_LINES_OF_STRANGERS * 2)
        rest = held_back.total() - sum(count for _, count in shown)
        for source, count in [*shown, *([(_OTHERS, rest)] if rest else [])]:
            requests = counted(count, "more request", "more requests")
            log.info("refused %s from %s within %g s", requests, source, self._period)


def _prefix(address: str) -> str:
    """Return the network that one client is likely to have all of: RFC 6177 gives a site a /48 to a /56."""
    try:
        return str(ip_network(f"{address}/{48 if ':' in address else 24}", strict=False))
    except ValueError:
        return _OTHERS  # a socket has no address, and a proxy may forward anything


def _line(request: ApiRequest, problem: Problem) -> str:
    fields = ", ".join(dict.fromkeys(field for field, _ in problem.faults if field))
    of = f", account {request.account}" if request.account else ""
    at = f", {fields}" if fields else ""
    path = request.path[:_LONGEST_PATH]
    text = f"refused {problem.status} {request.method[:10]} {path} from {request.address[:50]}{of}{at}: {problem.reason}"
    return printable(text)[: _LONGEST_PATH + _LONGEST_REASON]
