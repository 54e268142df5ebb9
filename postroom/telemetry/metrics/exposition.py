"""Writes all metrics in the format that a client accepts: OpenMetrics, or the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry

from postroom.settings import Settings
from postroom.store.store import Store
from postroom.telemetry.metrics.installation import Installation
from postroom.telemetry.metrics.neighbours import Neighbours
from postroom.telemetry.metrics.port import MetricsPort
from postroom.telemetry.metrics.process import own_values
from postroom.telemetry.metrics.table import INSTALLATION
from postroom.telemetry.metrics.values import Page, Said, Value, families, read, written

FOLDER = "metrics"  # in var/


class Metrics(Collector):
    """All metrics as any process tells them: those of the installation, its own, and those of the others on this host."""

    def __init__(self, settings: Settings, store: Store, neighbours: Neighbours | None = None) -> None:
        self._store = store
        self._neighbours = neighbours
        self._installation = Installation(settings, store)
        self._registry = CollectorRegistry(auto_describe=False)  # our own: nobody else's metrics are in it
        self._registry.register(self)
        self._port: MetricsPort | None = None
        if settings.metrics_port is not None:
            lock = None if neighbours is None else neighbours.port_lock
            self._port = MetricsPort(settings.metrics_host, settings.metrics_port, self.page, lock)

    def start(self) -> None:
        """Answer the other processes, and serve the port where there is one."""
        if self._neighbours is not None:
            self._neighbours.start(self._answer)
        if self._port is not None:
            self._port.start()

    def page(self, accept: str) -> Page:
        """Return the answer to a scrape whose `Accept` is this."""
        encode, content_type = choose_encoder(accept)
        return Page(content_type, encode(self._registry))

    def collect(self) -> Iterator[Family]:
        return families(self._values())

    def _values(self) -> Iterator[Value]:
        found = self._installation.values()
        yield Value("database_up", (INSTALLATION,), 0 if found is None else 1)
        yield from found or ()
        yield from self._own()
        for said in self._others():
            yield from said.values

    def _own(self) -> Iterator[Value]:
        database = "PostgreSQL" if self._store.is_remote else "SQLite"
        name = "web" if self._neighbours is None else self._neighbours.name
        return own_values(self._store.measures, name, database=database)

    def _answer(self) -> bytes:
        """Return what this process tells another one that is scraped."""
        return written(self._own())

    def _others(self) -> Iterator[Said]:
        return map(read, self._neighbours.ask() if self._neighbours is not None else ())

    def close(self) -> None:
        """Give the port to another process, and answer nobody any more."""
        if self._port is not None:
            self._port.close()
        if self._neighbours is not None:
            self._neighbours.close()
        self._installation.close()


def metrics_of(settings: Settings, store: Store, var: Path, kind: str) -> Metrics:
    """Return the metrics of a process that is a `web` or a `worker` of the installation whose folder `var` is."""
    return Metrics(settings, store, Neighbours(var / FOLDER, kind))
