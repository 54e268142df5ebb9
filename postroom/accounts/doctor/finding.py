"""`Finding`: what the doctor has found about one subject, how bad it is, and its exact fix; to JSON and back. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from postroom.core.text import printable


class Severity(Enum):
    """How bad a finding is. NOT_KNOWN: it could not be found out, which is no fault by itself."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"
    NOT_KNOWN = "not_known"


class Finding(NamedTuple):
    """One finding. `summary` is one sentence, `detail` says more (a server's words), `fix` is what a person has to do."""

    subject: str  # such as tls, spf, disk
    severity: Severity
    summary: str
    detail: str | None = None
    fix: str | None = None


def ok(subject: str, summary: str, detail: str | None = None) -> Finding:
    return _made(subject, Severity.OK, summary, detail, None)


def note(subject: str, summary: str, detail: str | None = None, fix: str | None = None) -> Finding:
    return _made(subject, Severity.NOTE, summary, detail, fix)


def warning(subject: str, summary: str, detail: str | None = None, fix: str | None = None) -> Finding:
    return _made(subject, Severity.WARNING, summary, detail, fix)


def error(subject: str, summary: str, detail: str | None = None, fix: str | None = None) -> Finding:
    return _made(subject, Severity.ERROR, summary, detail, fix)


def not_known(subject: str, summary: str, detail: str | None = None, fix: str | None = None) -> Finding:
    return _made(subject, Severity.NOT_KNOWN, summary, detail, fix)


def _made(subject: str, severity: Severity, summary: str, detail: str | None, fix: str | None) -> Finding:
    """Make a finding of one line each: names of domains, records and servers' words are other people's."""
    return Finding(
        subject,
        severity,
        printable(summary),
        None if detail is None else printable(detail),
        None if fix is None else printable(fix),
    )


def has_errors(findings: Iterable[Finding]) -> bool:
    return any(finding.severity is Severity.ERROR for finding in findings)


def as_values(findings: Iterable[Finding]) -> list[dict[str, str | None]]:
    """Return findings as JSON has them."""
    return [{**finding._asdict(), "severity": finding.severity.value} for finding in findings]


def to_json(findings: Iterable[Finding]) -> str:
    return json.dumps(as_values(findings))


def from_json(text: str) -> tuple[Finding, ...]:
    """Return the findings that `to_json` has written."""
    return tuple(
        Finding(each["subject"], Severity(each["severity"]), each["summary"], each["detail"], each["fix"])
        for each in json.loads(text)
    )
