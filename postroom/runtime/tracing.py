"""Traces where OpenTelemetry's variables ask for them (OTEL_…) and `postroom[otel]` is installed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from postroom.core.errors import ConfigError
from postroom.settings import traces_wanted

if TYPE_CHECKING:
    from postroom.telemetry.traces import Traces

log = logging.getLogger(__name__)


_MISSING: Final = "asks for traces, and OpenTelemetry is not installed: pip install 'postroom[otel]'"


def traces_of_process() -> Traces | None:
    """Return what makes the spans of this process; None where no traces are wanted, or the library is missing."""
    if not traces_wanted():
        return None
    try:
        return _traces()
    except ImportError:
        log.warning("OTEL_… %s; there are none", _MISSING)
        return None


def check_traces() -> bool:
    """Return whether traces are wanted. Raises ConfigError where they could not be made."""
    if not traces_wanted():
        return False
    try:
        _traces().check()
    except ImportError:
        raise ConfigError("OTEL_…", _MISSING) from None
    except ValueError as error:
        raise ConfigError(
            "OTEL_…", f"has a value that OpenTelemetry does not take: {error}; correct it"
        ) from error
    return True


def _traces() -> Traces:
    """Raises ImportError where `postroom[otel]` is not installed."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from postroom.telemetry.traces import Traces

    # Each try that is repeated is a warning, with another number in it; what is given up is an error.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    return Traces(OTLPSpanExporter())
