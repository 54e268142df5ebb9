"""`/livez` and `/readyz`: is this process alive, and can messages be accepted and sent?"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

from flask import Blueprint, Response, current_app, request

from postroom.core.errors import DiskFull, InvalidSubmission, StoreError, StoreUnavailable
from postroom.intake.checks import check_disk_space
from postroom.store.connections import Connections
from postroom.store.workers import Workers
from postroom.telemetry.living_workers import Leases
from postroom.web.services import Services, services

blueprint = Blueprint("health", __name__)

_FRESH_FOR_S = 1.0  # asking often costs the database nothing
_TRUE_FOR_S = 5.0
_WAIT_S = 2.0
_WELL = {"database": "ok", "schema": "ok", "workers": "ok", "disk": "ok"}
_STOPPING = {"status": "stopping"}
_PARTS = ("all", "web")
_UNREADABLE = "cannot be read"
_UNWRITABLE = "cannot be written: nothing is accepted or sent"


class Readiness:
    """What was found at the last look."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._leases = Leases()
        self._looked = float("-inf")
        self._found: dict[str, object] = {}

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._looked < _FRESH_FOR_S

    @property
    def found(self) -> dict[str, object]:
        if time.monotonic() - self._looked < _TRUE_FOR_S:
            return self._found
        return {"status": "not ready", "checks": {**_WELL, "database": _UNREADABLE}}

    def look(self, shared: Services) -> None:
        """Look again, or wait a moment for a look that is under way: one thread at a time waits for a silent database."""
        if self._mutex.acquire(timeout=_WAIT_S):
            try:
                if not self.is_fresh:
                    self._found = _look(shared, self._leases)
                    self._looked = time.monotonic()
            finally:
                self._mutex.release()


def _look(shared: Services, leases: Leases) -> dict[str, object]:
    checks = dict(_WELL)
    figures: dict[str, object] = {}
    try:
        alive = leases.alive(shared.store.read(Workers.living), shared.clock())
        figures = {"workers": alive, "connections": shared.store.read(Connections.count)}
        if not alive:
            checks["workers"] = "no worker is running: messages are accepted, and not sent"
    except StoreError:  # the reason is in the log, which only the operator sees
        checks["database"] = _UNREADABLE
    else:
        try:
            shared.store.check_schema()
        except StoreError as error:
            checks["schema"] = str(error)
        try:
            shared.store.check_writable()
        except StoreError:
            checks["database"] = _UNWRITABLE
    try:
        check_disk_space(shared.store.free_bytes(), shared.settings.disk_reserve)
    except DiskFull:
        checks["disk"] = "nearly full: nothing is accepted"
    return {"status": _status(checks), "checks": checks, **figures}


def _status(checks: dict[str, str]) -> str:
    return "ready" if all(state == "ok" for state in checks.values()) else "not ready"


@blueprint.get("/livez")
def livez() -> Response:
    """Say that this process answers; it asks nobody else, so that a restart is not called for in vain."""
    return Response('{"status": "alive"}\n', content_type="application/json")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Say whether messages can be taken and sent now: 200, or 503 with what is missing.

    `?part=web` asks whether they can be taken: what is accepted is kept, also while no worker runs.
    """
    part = request.args.get("part", "all")
    if part not in _PARTS:
        raise InvalidSubmission(f"part must be one of {', '.join(_PARTS)}", field="part")
    readiness: Readiness = current_app.extensions["postroom.readiness"]
    shared = services()
    if shared.is_stopping():
        return _answer(_STOPPING)
    if not readiness.is_fresh:
        with suppress(StoreUnavailable):
            readiness.look(shared)
    return _answer(_of_the_web(readiness.found) if part == "web" else readiness.found)


def _of_the_web(found: dict[str, object]) -> dict[str, object]:
    """Return what was found without the workers: neither their check nor what is counted of them."""
    all_checks = cast("dict[str, str]", found.get("checks", {}))
    checks = {name: state for name, state in all_checks.items() if name != "workers"}
    return {"status": _status(checks), "checks": checks}


def _answer(found: Mapping[str, object]) -> Response:
    status = 200 if found["status"] == "ready" else 503
    return Response(json.dumps(found) + "\n", status, content_type="application/json")
