"""Traces where OpenTelemetry's variables ask for them (OTEL_…) and `postroom[otel]` is installed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from postroom.settings import traces_wanted

if TYPE_CHECKING:
    from postroom.telemetry.traces import Traces

log = logging.getLogger(__name__)


def traces_of_process() -> Traces | None:
    """Return what makes the spans of this process; None where no traces are wanted, or the library is missing."""
    if not traces_wanted():
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from postroom.telemetry.traces import Traces
    except ImportError:
        log.warning(
            "OTEL_… asks for traces, and OpenTelemetry is not installed: pip install 'postroom[otel]'; there are none"
        )
        return None
    # Each try that is repeated is a warning, with another number in it; what is given up is an error.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    return Traces(OTLPSpanExporter())
