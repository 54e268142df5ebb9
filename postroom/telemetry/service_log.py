"""The log of a process of the service: records, events of messages and answered requests, to one stream of lines."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, runtime_checkable

from postroom.core.events import Happened
from postroom.core.log_options import LogFormat, LogOptions
from postroom.core.measures import Measures
from postroom.telemetry.addresses import Addresses
from postroom.telemetry.entry import SINKS_ALONE, Answered, Entries, Entry, level_of
from postroom.telemetry.formats import encoder_of
from postroom.telemetry.line_writer import LineWriter
from postroom.telemetry.lines import LogLine
from postroom.telemetry.log import LineFormatter, is_journal
from postroom.telemetry.repeats import quieten

log = logging.getLogger("postroom")
access = logging.getLogger("postroom.access")
messages = logging.getLogger("postroom.messages")  # `finished_messages.py`
_FOR_PEOPLE: Final = (access.name, messages.name)  # what the sinks have by other ways

STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2
LOCK: Final = "log.lock"


class Sink(Protocol):
    """Where lines go."""

    def put(self, lines: Sequence[LogLine]) -> None:
        """Take lines. Nothing that goes wrong here is raised."""

    def close(self) -> None:
        """Let go what is left, within a bounded time."""


@runtime_checkable
class ShippingSink(Sink, Protocol):
    """A sink that ships lines to another machine: how many have gone, were dropped, and how many octets wait."""

    shipped: int
    dropped: int
    octets: int


class Output:
    """Writes lines, those of one call together."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def put(self, lines: Sequence[LogLine]) -> None:
        self._writer.write([line.text + b"\n" for line in lines])

    def close(self) -> None:
        self._writer.close()


class ServiceLog(logging.Handler):
    """Takes all that a process has to say; `text` is the handler of the plain form, where that is chosen.

    An event of a message makes no record: `tell` is the store's listener.
    """

    def __init__(
        self,
        options: LogOptions,
        sinks: Sequence[tuple[LogFormat, Sink]],
        text: logging.Handler | None = None,
    ) -> None:
        super().__init__()
        self.addresses = Addresses(options.addresses)
        self._entries = Entries(self.addresses)
        self._sinks = tuple(sinks)
        self._encoders = {form: encoder_of(options, form) for form, _ in sinks}
        self._text = text
        self._least = logging.getLevelNamesMapping()[options.level]
        self.takes_events = bool(sinks)

    def emit(self, record: logging.LogRecord) -> None:
        if self._text is not None and not hasattr(record, SINKS_ALONE):
            self._text.handle(record)
        if self._sinks and record.name not in _FOR_PEOPLE:
            try:
                self._put([self._entries.of_record(record)])
            except Exception:
                self.handleError(record)

    def _put(self, entries: Sequence[Entry]) -> None:
        made = {
            form: [LogLine(entry.id, encode(entry)) for entry in entries]
            for form, encode in self._encoders.items()
        }
        for form, sink in self._sinks:
            sink.put(made[form])

    def tell(self, happened: Sequence[Happened]) -> None:
        """Write a line for each event of a commit, all at once."""
        entries = [self._entries.of_event(each) for each in happened if level_of(each.kind) >= self._least]
        if entries:
            self._put(entries)

    def measure(self, measures: Measures) -> None:
        """Have the metrics tell what became of the lines that are shipped."""
        for _, sink in self._sinks:
            if isinstance(sink, ShippingSink):
                measures.gauge("log_lines_shipped_total", partial(getattr, sink, "shipped"))
                measures.gauge("log_lines_dropped_total", partial(getattr, sink, "dropped"))
                measures.gauge("log_waiting_bytes", partial(getattr, sink, "octets"))

    def note_answered(self, answered: Sequence[Answered]) -> None:
        """Write a line for each answered request, all at once."""
        if self._least > logging.INFO:
            return
        entries = [self._entries.of_answered(each) for each in answered]
        if self._text is not None:
            access.info("%s", "\n".join(entry.message for entry in entries))
        if self._sinks:
            self._put(entries)

    def close(self) -> None:
        """Let go what is left; what a shipper says of its end is still written."""
        for _, sink in reversed(self._sinks):
            sink.close()
        super().close()


def start(
    options: LogOptions,
    var: Path,
    repetitive: Sequence[str] = (),
    shipper: tuple[LogFormat, Sink] | None = None,
) -> ServiceLog:
    """Have all that this process logs go where `options` say; it takes the place of what was there before."""
    is_text = options.format is LogFormat.TEXT
    sinks = [] if shipper is None else [shipper]
    if not is_text:
        sinks.insert(0, (options.format, Output(LineWriter(STANDARD_OUTPUT, var / LOCK))))
        _catch_the_rest()
    handler = ServiceLog(options, sinks, text_handler() if is_text else None)
    replace_handlers(handler, options.level)
    messages.disabled = not is_text
    quieten(handler, *repetitive)
    return handler


def start_inherited(var: Path, level: str | None = None) -> ServiceLog:
    """Do the same in a process that reads no settings: `serve` has handed down how."""
    options = LogOptions.inherited()
    if level is not None:
        options = replace(options, level=level)
    if not options.ships:
        return start(options, var)
    from postroom.settings import load_settings  # they take memory, and only shipping needs them
    from postroom.telemetry.shipping.chosen import shipper_of

    return start(options, var, shipper=shipper_of(load_settings()))


def close_current() -> None:
    """Let go what the log of this process has left, within a bounded time."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ServiceLog):
            handler.close()


def text_handler() -> logging.Handler:
    """Return the handler of lines for people, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(for_journal=is_journal(_STANDARD_ERROR)))
    return handler


def replace_handlers(handler: logging.Handler, level: str) -> None:
    """Have this handler alone take what is logged, from `level` on."""
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
        former.close()
    root.addHandler(handler)
    root.setLevel(level)


def _catch_the_rest() -> None:
    """Log what Python would print: warnings, and exceptions that nobody has caught."""
    logging.captureWarnings(True)
    sys.excepthook = lambda kind, error, trace: _log_uncaught((kind, error, trace))
    threading.excepthook = lambda args: _log_uncaught((args.exc_type, args.exc_value, args.exc_traceback))
    sys.unraisablehook = lambda args: _log_uncaught((args.exc_type, args.exc_value, args.exc_traceback))


def _log_uncaught(raised: tuple[type[BaseException], BaseException | None, TracebackType | None]) -> None:
    kind, error, trace = raised
    if error is None or issubclass(kind, SystemExit):
        return
    log.critical("an exception that nobody has caught", exc_info=(kind, error, trace))
