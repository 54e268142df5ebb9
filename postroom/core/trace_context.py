"""Reads the `traceparent` of a request (W3C Trace Context, level 1): the trace that a message belongs to. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
# §3.2: version, trace-id, parent-id, trace-flags. A later version may have more behind them; ff is none.
_FORM: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_LONGEST: Final = 512
_SAMPLED: Final = 1


class TraceParent(NamedTuple):
    """The parts of a traceparent as numbers."""

    trace_id: int
    span_id: int
    flags: int


def parse_traceparent(text: str | None) -> str | None:
    """Return a traceparent in the form of version 00; None for none, and for one that is not valid, which is ignored."""
    found = None if text is None or len(text) > _LONGEST else _FORM.fullmatch(text.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN or (version == "00" and rest):
        return None
    return f"00-{trace_id}-{span_id}-{flags}"


def parsed(traceparent: str) -> TraceParent:
    """Return the parts of a traceparent that `parse_traceparent` has returned."""
    _, trace_id, span_id, flags = (
        int.from_bytes(bytes.fromhex(part), "big") for part in traceparent.split("-")
    )
    return TraceParent(trace_id, span_id, flags)


def is_sampled(traceparent: str) -> bool:
    """Whether the caller that a traceparent came from records the trace (§3.2.5)."""
    return bytes.fromhex(traceparent[-2:])[0] & _SAMPLED != 0
