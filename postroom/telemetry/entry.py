"""Makes entries of the log, from records, events of messages and answered requests; `formats.py` encodes them."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final, NamedTuple

from postroom.core.clock import Instant
from postroom.core.events import EventKind, Happened
from postroom.core.text import printable, printable_lines, shortened
from postroom.telemetry.addresses import Addresses

SERVICE: Final = "postroom.service"  # what the program says
MESSAGES: Final = "postroom.message"  # the events of messages
ACCESS: Final = "postroom.access"  # answered requests
_LONGEST_TEXT, _LONGEST_STACK = 4096, 16_384
ACTION, OUTCOME = "action", "outcome"  # attributes of a record that tells of an event
SINKS_ALONE: Final = "sinks_alone"  # … of a record that people are told in another way
_SUCCESS, _FAILURE, _UNKNOWN = "success", "failure", "unknown"
OUTCOMES: Final[Mapping[EventKind, str]] = {
    EventKind.ACCEPTED: _SUCCESS,
    EventKind.SENT: _SUCCESS,
    EventKind.DEFERRED: _FAILURE,  # the attempt
    EventKind.FAILED: _FAILURE,
    EventKind.IN_DOUBT: _UNKNOWN,
    EventKind.POSSIBLE_DUPLICATE: _UNKNOWN,
    EventKind.CRASHED: _FAILURE,
    EventKind.HELD: _UNKNOWN,
    EventKind.RELEASED: _SUCCESS,
    EventKind.CANCELLED: _SUCCESS,
    EventKind.MOVED: _SUCCESS,
    EventKind.ERASED: _SUCCESS,
}
_FAULTS: Final = frozenset({EventKind.FAILED, EventKind.IN_DOUBT, EventKind.CRASHED, EventKind.HELD})


class Fault(NamedTuple):
    """An exception."""

    kind: str
    message: str
    stack: str


class Answered(NamedTuple):
    """A request that was answered."""

    at: Instant
    method: str
    path: str
    route: str | None  # the rule that its path has matched
    status: int
    took: int  # microseconds
    client: str
    traceparent: str | None = None


class Origin(NamedTuple):
    """Where in the program a record was made."""

    file: str
    line: int
    function: str


class Entry(NamedTuple):
    """One line of the log, whatever its format. Texts are safe to print, and show no more of an address than they may."""

    at: Instant
    level: int  # as `logging` has it
    message: str
    dataset: str
    id: str
    logger: str | None = None
    action: str | None = None
    outcome: str | None = None
    duration: int | None = None  # microseconds
    fault: Fault | None = None
    trace_id: str | None = None
    origin: Origin | None = None
    sender: str | None = None
    recipients: Sequence[str] = ()
    own: Mapping[str, object] = {}  # the fields of `postroom.*`
    request: Answered | None = None


def level_of(kind: EventKind) -> int:
    """Return the level of an event: a message that goes wrong is a warning."""
    return logging.WARNING if kind in _FAULTS else logging.INFO


class Entries:
    """Makes the entries of one process."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self._process = secrets.token_hex(8)
        self._numbers = count(1)

    def _new_id(self) -> str:
        return f"{self._process}-{next(self._numbers)}"

    def of_record(self, record: logging.LogRecord) -> Entry:
        fault = _fault_of(record)
        if fault is not None:
            fault = Fault(fault.kind, self._safe(fault.message), self._safe(fault.stack, _LONGEST_STACK))
        return Entry(
            int(record.created * 1_000_000),
            record.levelno,
            self._safe(record.getMessage()),
            SERVICE,
            self._new_id(),
            record.name,
            getattr(record, ACTION, None),
            getattr(record, OUTCOME, None),
            fault=fault,
            origin=Origin(record.filename, record.lineno, record.funcName or ""),
        )

    def _safe(self, text: str, longest: int = _LONGEST_TEXT) -> str:
        return printable_lines(self.addresses.hide(shortened(text, longest)))

    def of_event(self, happened: Happened) -> Entry:
        """Make the entry of an event; most lines are of these."""
        kind, began, reply = happened.kind, happened.began_at, happened.reply
        account, recipients, detail = happened.account, happened.recipients, happened.detail or ""
        said = "" if reply is None else str(reply)
        if not self.addresses.shows_all:
            known = (account, *recipients)
            detail, said = self.addresses.hide(detail, known), self.addresses.hide(said, known)
            account, *others = map(self.addresses.shown, known)
            recipients = tuple(others)
        words = f"{happened.request_id} {kind.value}: from {account} to {', '.join(recipients)}"
        if happened.attempt is not None:
            words += f", try {happened.attempt}"
        if detail:
            words += f": {detail}"
        return Entry(
            happened.at,
            level_of(kind),
            printable(words[:_LONGEST_TEXT]),
            MESSAGES,
            happened.id,
            None,
            kind.value,
            OUTCOMES[kind],
            None if began is None else max(0, happened.at - began),
            None,
            trace_id_of(happened.traceparent),
            None,
            printable(account),
            recipients,
            _own_fields(happened, printable(account), said),
        )

    def of_answered(self, answered: Answered) -> Entry:
        shown = answered._replace(path=self._safe(answered.path, 200), client=printable(answered.client[:64]))
        words = (
            f"{shown.method} {shown.path} {shown.status} from {shown.client} in {shown.took / 1000:.1f} ms"
        )
        return Entry(
            answered.at,
            logging.INFO,
            words,
            ACCESS,
            self._new_id(),
            None,
            "request",
            _FAILURE if answered.status >= 400 else _SUCCESS,
            answered.took,
            trace_id=trace_id_of(answered.traceparent),
            own={} if answered.route is None else {"route": answered.route},
            request=shown,
        )


def _own_fields(happened: Happened, account: str, said: str) -> dict[str, object]:
    """Return the fields `postroom.*` of an event; `said` is the server's reply as it may be shown."""
    fields: dict[str, object] = {"request_id": happened.request_id, "account": account}
    reply = happened.reply
    if happened.attempt is not None:
        fields["attempt"] = happened.attempt
    if happened.phase is not None:
        fields["phase"] = happened.phase
    if reply is not None:
        fields["reply"] = printable(said[:_LONGEST_TEXT])
        if reply.enhanced is not None:
            fields["enhanced"] = reply.enhanced
    if happened.blame is not None:
        fields["blame"] = happened.blame.value
    return fields


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id of a `traceparent` (W3C Trace Context), which was checked when it came in."""
    return None if traceparent is None else traceparent.split("-")[1]


def _fault_of(record: logging.LogRecord) -> Fault | None:
    info = record.exc_info
    if not info or info[0] is None or info[1] is None:
        return None if not record.stack_info else Fault("", "", record.stack_info)
    return Fault(info[0].__name__, str(info[1]), "".join(traceback.format_exception(*info)).rstrip("\n"))
