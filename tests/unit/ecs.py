"""The fields of the Elastic Common Schema that a line may have, and what is wrong with one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from postroom.telemetry.formats import ECS_VERSION

FIELDS = Path(__file__).resolve().parents[1] / "data" / "ecs" / f"fields-{ECS_VERSION}.csv"
TEXTS = {"keyword", "match_only_text", "wildcard", "constant_keyword"}
REQUIRED = {
    "@timestamp": str,
    "log.level": str,
    "message": str,
    "ecs.version": str,
    "service.name": str,
    "service.version": str,
    "event.dataset": str,
    "event.id": str,
}
OUTCOMES = {"success", "failure", "unknown"}
OWN = {
    "postroom.request_id": str,
    "postroom.account": str,
    "postroom.attempt": int,
    "postroom.phase": str,
    "postroom.reply": str,
    "postroom.enhanced": str,
    "postroom.blame": str,
    "postroom.route": str,
}


@cache
def known() -> dict[str, tuple[str, bool]]:
    """Return each field's type, and whether it holds several values."""
    with FIELDS.open(encoding="utf-8") as file:
        return {row["field"]: (row["type"], row["array"] == "array") for row in csv.DictReader(file)}


def flat(document: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Return a document's leaves by their dotted names."""
    found: dict[str, object] = {}
    for name, value in document.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def faults(document: dict[str, object]) -> list[str]:
    """Return what is wrong with a line."""
    fields = flat(document)
    wrong = [f"no {name}" for name, kind in REQUIRED.items() if not isinstance(fields.get(name), kind)]
    if fields.get("event.outcome", "unknown") not in OUTCOMES:
        wrong.append(f"event.outcome: {fields['event.outcome']!r}")
    return [*wrong, *(fault for name, value in fields.items() for fault in _faults_of(name, value))]


def _faults_of(name: str, value: object) -> Iterator[str]:
    if name.startswith("postroom."):
        if not isinstance(value, OWN.get(name, type(None))):
            yield f"{name}: {value!r}"
        return
    if name not in known():
        yield f"{name} is no field"
        return
    kind, is_array = known()[name]
    if isinstance(value, list) != is_array:
        yield f"{name}: {value!r}"
    for each in value if isinstance(value, list) else [value]:
        if not _fits(each, kind):
            yield f"{name} is no {kind}: {each!r}"


def _fits(value: object, kind: str) -> bool:
    if kind in TEXTS:
        return isinstance(value, str)
    if kind == "long":
        return isinstance(value, int)
    if kind == "ip":
        return isinstance(value, str) and bool(ip_address(value))
    if kind == "date":
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    return False
