"""What Datadog's intake reads of a line (its reserved and standard attributes), and what is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from tests.unit import ecs

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_STATUSES: Final = {"debug", "info", "warning", "error", "critical"}
_REQUIRED: Final[dict[str, Callable[[str], object]]] = {
    "timestamp": _TIME.fullmatch,
    "status": _STATUSES.__contains__,
    "message": bool,
    "service": bool,
    "ddsource": "postroom".__eq__,
    "event.id": bool,
    "dd.service": bool,
}


def faults(document: dict[str, object]) -> list[str]:
    """Return what is wrong with a line."""
    fields = ecs.flat(document)
    return [
        f"{name}: {fields.get(name)!r}"
        for name, is_right in _REQUIRED.items()
        if not isinstance(fields.get(name), str) or not is_right(str(fields[name]))
    ]
