"""The web process: granian, and the application that its workers build."""

from __future__ import annotations

import os
from typing import Any

from postroom.config import Settings
from postroom.supervise import watch_lifeline

_MOST_REQUESTS = 4096  # at once; each waits without a thread
_tie: tuple[int, int] | None = None


def run_web(settings: Settings, lifeline: int | None) -> None:
    """Serve HTTP until SIGTERM or SIGINT. The application is built in granian's own worker processes."""
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    if lifeline is not None:
        watch_lifeline(lifeline)
    _tie_workers()
    server = Server(
        "postroom.serve:web_application",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.RSGI,
        workers=settings.web_concurrency,
        backpressure=_MOST_REQUESTS,
        respawn_failed_workers=True,
        workers_kill_timeout=10,
        factory=True,
        log_level=LogLevels.error,
    )
    server.serve()


def _tie_workers() -> None:
    """Open the pipe through which granian's workers notice that its main process has died."""
    global _tie
    _tie = os.pipe()


def web_application() -> Any:
    """Build the application; called by granian in each worker process, after the fork."""
    from postroom import setup
    from postroom.web import create_gateway

    if _tie is not None:
        os.close(_tie[1])
        watch_lifeline(_tie[0])
    service = setup.open_service(on_broken=setup.stop_this_process)
    return create_gateway(service.settings, service.store, service.vault)
