"""Traces (OpenTelemetry, `postroom[otel]`): makes spans of the events of messages, and exports them in a thread by OTLP.

A message keeps the `traceparent` of the request that it was accepted with, so that its spans in the worker, at every
try, are those of one trace. No span names a recipient, a subject or a secret.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from postroom import __version__
from postroom.core.clock import Instant
from postroom.core.dialogue import Speaker, parse
from postroom.core.events import EventKind, Happened
from postroom.core.outcome import Blame
from postroom.core.trace_context import TraceParent, is_sampled, parsed

log = logging.getLogger(__name__)

_REQUEST: Final = "POST /send-email"
_MOST_BEGUN: Final = 10_000  # requests whose acceptance has not been told yet
_LAST_SPANS_S: Final = 2.0
_SCOPE: Final = InstrumentationScope("postroom", __version__)


class _Begun(NamedTuple):
    """A request that has begun: the span of its caller, and when, in nanoseconds."""

    caller: SpanContext | None
    at: int


class _Step(NamedTuple):
    """A command of the dialogue and its reply, in milliseconds since the beginning."""

    verb: str
    began: int
    ended: int
    code: str


class Traces:
    """Makes the spans of this process. Nothing that goes wrong with their export delays a message."""

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create({"service.name": "postroom", "service.version": __version__})
        self._resource = resource.merge(OTELResourceDetector().detect())
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler  # OTEL_TRACES_SAMPLER
        self._exporter = exporter
        self._processor: BatchSpanProcessor | None = None  # it has a thread, which must be this process's
        self._cannot_begin = False
        self._begun: OrderedDict[int, _Begun] = OrderedDict()

    def begin(self, traceparent: str | None) -> str:
        """Return the traceparent that a message is to keep: of the request's own span, in its caller's trace."""
        caller = None if traceparent is None else _context_of(parsed(traceparent), is_remote=True)
        trace_id = secrets.randbits(128) or 1 if caller is None else caller.trace_id
        around = None if caller is None else set_span_in_context(NonRecordingSpan(caller))
        decision = self._sampler.should_sample(around, trace_id, _REQUEST, SpanKind.SERVER).decision
        if decision is not Decision.RECORD_AND_SAMPLE:
            return f"00-{trace_id:032x}-{secrets.randbits(64) or 1:016x}-00"
        own = _own(trace_id)
        self._begun[own.span_id] = _Begun(caller, time.time_ns())
        while len(self._begun) > _MOST_BEGUN:  # requests that were refused tell of no event
            self._begun.popitem(last=False)
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def tell(self, happened: Sequence[Happened]) -> None:
        """Make the spans of a commit's events; of an attempt at several recipients there is one."""
        attempts: dict[tuple[str, int], Happened] = {}
        for each in happened:
            if each.traceparent is None or not is_sampled(each.traceparent):
                continue
            if each.kind is EventKind.ACCEPTED:
                self._tell_accepted(each, _context_of(parsed(each.traceparent), is_remote=False))
            elif each.began_at is not None and each.attempt is not None:
                key = each.request_id, each.attempt
                if key not in attempts or attempts[key].kind is EventKind.SENT:
                    attempts[key] = each
        for each in attempts.values():
            assert each.traceparent is not None
            self._tell_attempt(each, _context_of(parsed(each.traceparent), is_remote=True))

    def check(self) -> None:
        """Raise ValueError where OTEL_BSP_… does not let an export begin. Nothing is exported."""
        BatchSpanProcessor(self._exporter).shutdown()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Export what is left, within a bounded time."""
        if self._processor is None:
            return
        last = threading.Thread(target=self._processor.shutdown, daemon=True)
        last.start()
        last.join(_LAST_SPANS_S)
        if last.is_alive():
            self._exporter.shutdown()  # it waits for its next try no longer; a request under way is left

    def _tell_accepted(self, event: Happened, own: SpanContext) -> None:
        begun = self._begun.pop(own.span_id, None)
        now = time.time_ns()
        about: dict[str, AttributeValue] = {"postroom.request_id": event.request_id}
        if begun is not None:
            served: dict[str, AttributeValue] = {
                "http.request.method": "POST",
                "http.route": "/send-email",
                "http.response.status_code": 202,
                **about,
            }
            self._emit(_REQUEST, own, begun.caller, begun.at, now, served, SpanKind.SERVER)
        self._emit("accept", _own(own.trace_id), own, _ns(event.at), now, about)

    def _tell_attempt(self, event: Happened, request: SpanContext) -> None:
        assert event.began_at is not None
        steps = list(_steps(event.dialogue or ""))
        whole = max((step.ended for step in steps), default=0) * 1_000_000
        ended = _ns(event.at)
        began = min(_ns(event.began_at), ended - whole)
        if event.attempt == 1 and event.blame is not Blame.ACCOUNT:  # of an account's fault no try is counted
            accepted = min(_accepted_at(event.request_id), began)
            self._emit("queue", _own(request.trace_id), request, accepted, began, {})
        own = _own(request.trace_id)
        for step in steps:
            start = ended - whole + step.began * 1_000_000
            end = ended - whole + step.ended * 1_000_000
            code: dict[str, AttributeValue] = {"smtp.reply.code": step.code}
            self._emit(f"SMTP {step.verb}", _own(request.trace_id), own, start, end, code, SpanKind.CLIENT)
        self._emit(
            "attempt", own, request, began, ended, _about_attempt(event), SpanKind.CLIENT, _status(event)
        )

    def _emit(
        self,
        name: str,
        own: SpanContext,
        parent: SpanContext | None,
        began: int,
        ended: int,
        about: dict[str, AttributeValue],
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status | None = None,
    ) -> None:
        processor = self._begin_export()
        if processor is None:
            return
        processor.on_end(
            ReadableSpan(
                name,
                own,
                parent,
                self._resource,
                about,
                kind=kind,
                status=status or Status(StatusCode.UNSET),
                start_time=began,
                end_time=max(began, ended),
                instrumentation_scope=_SCOPE,
            )
        )

    def _begin_export(self) -> BatchSpanProcessor | None:
        """Return what exports spans, in a thread of this process; None where OTEL_BSP_… does not let it begin."""
        if self._processor is None and not self._cannot_begin:
            try:
                self._processor = BatchSpanProcessor(self._exporter)
            except ValueError as error:
                self._cannot_begin = True
                log.warning(
                    "there are no traces, since OTEL_BSP_… has values that do not go together: %s", error
                )
        return self._processor


def _own(trace_id: int) -> SpanContext:
    """Return the context of a new span of a trace that is sampled."""
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(trace_id, secrets.randbits(64) or 1, is_remote=False, trace_flags=flags)


def _context_of(parent: TraceParent, *, is_remote: bool) -> SpanContext:
    return SpanContext(
        parent.trace_id, parent.span_id, is_remote=is_remote, trace_flags=TraceFlags(parent.flags)
    )


def _about_attempt(event: Happened) -> dict[str, AttributeValue]:
    about: dict[str, AttributeValue] = {
        "postroom.request_id": event.request_id,
        "postroom.attempt": event.attempt or 0,
        "postroom.outcome": event.kind.value,
    }
    if event.phase is not None:
        about["postroom.phase"] = event.phase
    if event.blame is not None:
        about["postroom.blame"] = event.blame.value
    if event.reply is not None:
        about["smtp.reply.code"] = str(event.reply.code)
        if event.reply.enhanced is not None:
            about["smtp.reply.enhanced_code"] = event.reply.enhanced
    return about


def _status(event: Happened) -> Status:
    return Status(StatusCode.OK if event.kind is EventKind.SENT else StatusCode.ERROR)


def _steps(dialogue: str) -> Iterator[_Step]:
    """Yield each command of a dialogue that was answered. Replies come in the order of the commands (RFC 2920 §3.1)."""
    asked: list[tuple[str, int]] = []
    for line in parse(dialogue) if dialogue else ():
        if line.speaker is Speaker.CLIENT:
            verb = "DATA end" if line.text == "." else line.text.split(" ")[0].partition(":")[0].upper()
            if verb.isascii() and verb.replace(" ", "").isalpha():
                asked.append((verb, line.ms))
        elif line.speaker is Speaker.SERVER and asked and line.text[3:4] != "-":
            verb, began = asked.pop(0)
            yield _Step(verb, began, line.ms, line.text[:3])


def _accepted_at(request_id: str) -> int:
    """Return when a message was accepted, in nanoseconds: its id begins with the milliseconds (RFC 9562 §5.7)."""
    return int.from_bytes(bytes.fromhex(request_id.replace("-", "")[:12]), "big") * 1_000_000


def _ns(at: Instant) -> int:
    return at * 1000
