"""Stands in for systemd: hears what a service tells it."""

from __future__ import annotations

import socket
from uuid import uuid4


class Systemd:
    """What systemd hears from a service (sd_notify)."""

    def __init__(self) -> None:
        name = f"postroom-tests-{uuid4()}"  # in the abstract namespace: a path would be too long
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}")
        self._socket.settimeout(60)
        self.settings = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "200000"}

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hears(self, state: str) -> bool:
        """Wait until it hears so; what else it hears must be of the watchdog."""
        while (heard := self._socket.recv(100).decode()) == "WATCHDOG=1" != state:
            pass
        return heard == state
