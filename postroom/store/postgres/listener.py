"""Counts the notifications of new jobs (LISTEN) in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import psycopg

from postroom.core.errors import ConfigError
from postroom.store.postgres.connection import Connection
from postroom.store.postgres.errors import said

log = logging.getLogger(__name__)
CHANNEL = "postroom"
_LISTEN_AGAIN_S = 1.0
_NOTIFY_WAIT_S = 5.0


class Listener:
    """A thread that counts notifications. While it is not connected, the workers' own looks must do."""

    def __init__(self, connect: Callable[[], Connection], where: str) -> None:
        self._connect = connect
        self.where = where
        self._closed = threading.Event()
        self.count = 0
        self._thread = threading.Thread(target=self._run, name="listen", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self.count += 1  # what came before we listened
                    while not self._closed.is_set():
                        for _ in connection.notifies(timeout=_NOTIFY_WAIT_S, stop_after=1):
                            self.count += 1
            except (psycopg.Error, ConfigError) as error:
                log.info("not listening at %s just now: %s", self.where, said(error))
                self._closed.wait(_LISTEN_AGAIN_S)

    def close(self) -> None:
        self._closed.set()
