"""Values of metrics: their form in the library, and as one process writes them for another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)

from postroom.core.measures import Histogram, bounds_of
from postroom.telemetry.metrics.table import BY_NAME, METRICS, Metric


class Value(NamedTuple):
    """A sample of a metric: its name in the table, the values of all its labels, and how much it is."""

    name: str
    labels: tuple[str, ...]
    value: float | Histogram


class Page(NamedTuple):
    """An answer to a scrape."""

    content_type: str
    body: bytes


class Said(NamedTuple):
    """What another process says of itself."""

    values: list[Value]


@dataclass(frozen=True, slots=True)
class Buckets:
    """What the library takes for a histogram: cumulative counts by their upper bounds, and the sum."""

    counts: list[tuple[str, float]]
    total: float


def buckets_of(histogram: Histogram) -> Buckets:
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    return Buckets(list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total)


def families(values: Iterable[Value]) -> Iterator[Family]:
    """Return what the library writes: a family for each metric that has a value, in the order of the table."""
    by_name: dict[str, list[Value]] = {}
    for value in values:
        by_name.setdefault(value.name, []).append(value)
    for metric in METRICS:
        if metric.name in by_name:
            yield _family(metric, by_name[metric.name])


def _family(metric: Metric, values: Iterable[Value]) -> Family:
    name, labels = metric.full_name, metric.all_labels
    if metric.type == "histogram":
        histograms = HistogramMetricFamily(name, metric.meaning, labels=labels)
        for value in values:
            assert isinstance(value.value, Histogram)
            buckets = buckets_of(value.value)
            histograms.add_metric(value.labels, buckets.counts, buckets.total)
        return histograms
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    family = kind(name, metric.meaning, labels=labels)
    for value in values:
        assert not isinstance(value.value, Histogram)
        family.add_metric(value.labels, value.value)
    return family


def written(values: Iterable[Value]) -> bytes:
    """Return values as one process of the installation sends them to another."""
    rows = [[name, labels, _plain(value)] for name, labels, value in values]
    return json.dumps({"values": rows}).encode()


def _plain(value: float | Histogram) -> object:
    return [value.counts, value.total] if isinstance(value, Histogram) else value


def read(said: bytes) -> Said:
    """Return what another process has sent. What is cut off, or of another version, is left out."""
    try:
        document = json.loads(said)
        return Said([value for row in document["values"] for value in _read(*row)])
    except (ValueError, TypeError, KeyError):
        return Said([])


def _read(name: str, labels: list[str], plain: float | list[object]) -> Iterator[Value]:
    metric = BY_NAME.get(name)
    if metric is None or len(labels) != len(metric.all_labels):
        return
    if metric.type != "histogram":
        if isinstance(plain, int | float):
            yield Value(name, tuple(labels), plain)
        return
    histogram = Histogram(bounds_of(name))
    counts, total = plain if isinstance(plain, list) else ([], 0)
    if isinstance(counts, list) and len(counts) == len(histogram.counts) and isinstance(total, int | float):
        histogram.counts, histogram.total = counts, total
        yield Value(name, tuple(labels), histogram)
