"""For whoever watches over the service: is this process alive, and can the installation take mail and send it?"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from flask import Blueprint, Response, current_app

from postroom.errors import DiskFull, StoreError
from postroom.policy import has_room
from postroom.web.api import Services, services

blueprint = Blueprint("health", __name__)

_FRESH_FOR_S = 1.0  # asking often costs the database nothing


class Readiness:
    """What was found at the last look."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._looked = float("-inf")
        self._found: dict[str, Any] = {}

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._looked < _FRESH_FOR_S

    @property
    def found(self) -> dict[str, Any]:
        return self._found

    def look(self, shared: Services) -> None:
        with self._mutex:
            if not self.is_fresh:
                self._found = _look(shared)
                self._looked = time.monotonic()


def _look(shared: Services) -> dict[str, Any]:
    checks = {"database": "ok", "schema": "ok", "workers": "ok", "disk": "ok"}
    figures: dict[str, Any] = {}
    try:
        alive = [each for each in shared.store.living_workers() if each.lease_until > shared.clock()]
        figures = {"workers": len(alive), "connections": shared.store.connections()}
        if not alive:
            checks["workers"] = "no worker is running: mail is accepted, and not sent"
    except StoreError:  # the reason is in the log, which only the operator sees
        checks["database"] = "cannot be read"
    else:
        try:
            shared.store.check_schema()
        except StoreError as error:
            checks["schema"] = str(error)
    try:
        has_room(shared.store.free_bytes(), shared.settings.disk_reserve)
    except DiskFull:
        checks["disk"] = "nearly full: nothing is accepted"
    ready = all(state == "ok" for state in checks.values())
    return {"status": "ready" if ready else "not ready", "checks": checks, **figures}


@blueprint.get("/livez")
def livez() -> Response:
    """Say that this process answers; it asks nobody else, so that a restart is not called for in vain."""
    return Response('{"status": "alive"}\n', content_type="application/json")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Say whether mail can be taken and sent now: 200, or 503 with what is missing."""
    readiness: Readiness = current_app.extensions["postroom.readiness"]
    shared = services()
    if not readiness.is_fresh:
        shared.hub.read(lambda: readiness.look(shared))
    status = 200 if readiness.found["status"] == "ready" else 503
    return Response(json.dumps(readiness.found) + "\n", status, content_type="application/json")
