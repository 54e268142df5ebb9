"""The metrics of one process: its counts and histograms, its memory, processor time and open files."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Final

from prometheus_client.process_collector import ProcessCollector

from postroom import __version__
from postroom.core.measures import Measures
from postroom.telemetry.metrics.table import BY_NAME
from postroom.telemetry.metrics.values import Value

_PROCESS: Final = ProcessCollector(registry=None)


def own_values(measures: Measures, process: str, *, database: str) -> Iterator[Value]:
    """Return the values of this process, which is called `process`."""
    yield Value("build_info", (process, __version__, platform.python_version(), database), 1)
    for (name, labels), count in measures.counts().items():
        yield Value(name, (process, *labels), count)
    for (name, labels), histogram in measures.histograms().items():
        yield Value(name, (process, *labels), histogram)
    for name, gauge in measures.gauges().items():
        yield Value(name, (process,), gauge)
    for family in _PROCESS.collect():
        for sample in family.samples:
            if sample.name in BY_NAME:
                yield Value(sample.name, (process,), sample.value)
