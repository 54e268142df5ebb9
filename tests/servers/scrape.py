"""What a scrape of an installation says: its samples by name and labels, and its totals compared with the database."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.servers.ledger import Inspected
from tests.servers.waiting import eventually

SCOPE = {"scope": "installation"}


@dataclass(frozen=True)
class Scrape:
    """The samples of one answer."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float:
        """Return a sample of the installation's."""
        return self.samples[f"postroom_{name}", frozenset({**SCOPE, **labels}.items())]

    def by(self, name: str, *labels: str, own: bool = False) -> dict[tuple[str, ...], float]:
        """Return the samples of a metric that are not 0, by the values of some of its labels, summed over the others."""
        found: dict[tuple[str, ...], float] = {}
        for (each, pairs), value in self.samples.items():
            known = dict(pairs)
            if each == f"postroom_{name}" and value and ("process" in known) == own:
                key = tuple(known[label] for label in labels)
                found[key] = found.get(key, 0) + value
        return found

    def processes(self) -> set[str]:
        return {process for (process,) in self.by("build_info", "process", own=True)}


def parsed(text: str) -> Scrape:
    return Scrape(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


def scrape(port: int, key: str | None = None, host: str = "127.0.0.1") -> Scrape:
    """Scrape a port: that of metrics, or with a key that of HTTP. Raises OSError."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"http://{host}:{port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return parsed(answer.read().decode())


def reachable(port: int) -> Scrape | None:
    """Return what a port says; None while nobody has it."""
    try:
        return scrape(port)
    except OSError:
        return None


def database_totals(service: Inspected) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what the rows of the database say of each total."""

    def rows(sql: str) -> dict[tuple[str, ...], float]:
        return {(str(name),): float(count) for name, count in service.query(sql)}

    return {
        "messages_accepted_total": {(): float(_one(service.query("SELECT count(*) FROM message")))},
        "messages_ended_total": rows(
            "SELECT CASE state WHEN 'done' THEN 'sent' ELSE state END, count(*) FROM job "
            "WHERE kind = 'delivery' AND finished_at IS NOT NULL GROUP BY state"
        ),
        "attempts_total": rows("SELECT outcome, count(*) FROM attempt GROUP BY outcome"),
        "message_events_total": rows(
            "SELECT kind, count(*) FROM event WHERE kind <> 'accepted' GROUP BY kind"
        ),
    }


LABELS = {"messages_ended_total": "status", "attempts_total": "outcome", "message_events_total": "event"}


def said_totals(answer: Scrape) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what an answer says of each total that `database_totals` counts."""
    names = ("messages_accepted_total", *LABELS)
    return {name: answer.by(name, *filter(None, [LABELS.get(name)])) for name in names}


def check_totals(service: Inspected, *instances: Callable[[], Scrape]) -> list[Scrape]:
    """Wait until every instance says of the totals what the database's rows do, and return what each has said.

    An instance looks at the database again only after ten times as long as looking has taken. One that was killed
    comes back first.
    """
    expected = database_totals(service)
    answers: list[Scrape] = []
    for ask in instances:
        found: list[Scrape] = []

        def agrees(ask: Callable[[], Scrape] = ask, found: list[Scrape] = found) -> bool:
            try:
                found[:] = [ask()]
            except OSError:
                return False
            return said_totals(found[0]) == expected

        try:
            eventually(agrees, 20, pause=0.1)
        except AssertionError as error:
            raise AssertionError(f"{[said_totals(each) for each in found]} instead of {expected}") from error
        answers += found
    return answers


def _one(rows: list[tuple[Any, ...]]) -> int:
    number: int = rows[0][0]
    return number
