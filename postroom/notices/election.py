"""Elects the process that sends notices: one in an installation, by a row of the database that it renews.

The name of a process is that of its folder `var/`, which one process at a time can hold the lock of. So a process that is
started again goes on at once where the killed one was. Another host takes over when the row has not changed for a while, by
its own monotonic clock: no clock that is wrong makes two of them send.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

from postroom.core.files import open_plain
from postroom.store.notices import NoticeMemory, Notices
from postroom.store.store import Store

LOCK: Final = "notices.lock"  # in var/
RENEW_S: Final = 10.0
TAKE_OVER_S: Final = 30.0
_LONGEST_NAME: Final = 64


class Election:
    """Whether this process is the one that sends notices. `name` tells it from processes of other folders."""

    def __init__(
        self,
        store: Store,
        var: Path,
        *,
        take_over_s: float = TAKE_OVER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._take_over_s = take_over_s
        self._file = os.fdopen(open_plain(var / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b")
        self._has_lock = False
        self.name = ""
        self._seen: tuple[str, int] | None = None
        self._seen_at = 0.0
        self._renewed = float("-inf")
        self.is_elected = False

    def run(self) -> bool:
        """Renew the row, or take it where that is due; return whether this process is elected. Raises StoreError."""
        if not self._lock():
            self.is_elected = False
        elif self.is_elected:
            if self._clock() - self._renewed >= RENEW_S:
                self.is_elected = self._store.write(Notices.renew, self.name)
                self._renewed = self._clock()
        else:
            self.is_elected = self._try()
            self._renewed = self._clock()
        return self.is_elected

    def note_renewed(self) -> None:
        """Note that a write of this process has renewed the row."""
        self._renewed = self._clock()

    def lose(self) -> None:
        """Note that another process has taken over."""
        self.is_elected = False
        self._seen = None

    def close(self) -> None:
        self._file.close()

    def _lock(self) -> bool:
        """Hold this folder's lock: one process a folder."""
        if self._has_lock:
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._has_lock = True
        self._file.seek(0)
        self.name = self._file.read(_LONGEST_NAME).decode("ascii", "replace")
        if not self.name:
            self.name = uuid4().hex
            self._file.write(self.name.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        return True

    def _try(self) -> bool:
        row = self._store.read(Notices.memory)
        if row is None:
            self._store.write(Notices.begin, self.name)
            row = self._store.read(Notices.memory)
        if row is None:
            return False
        if row.holder == self.name:  # a process of this folder, which is gone: its lock is here
            return self._store.write(Notices.renew, self.name)
        return self._is_still(row) and self._store.write(Notices.take_over, self.name, row)

    def _is_still(self, row: NoticeMemory) -> bool:
        """Whether the process that has the row has not renewed it for as long as it may."""
        now = self._clock()
        if self._seen != (row.holder, row.beat):
            self._seen, self._seen_at = (row.holder, row.beat), now
        return now - self._seen_at >= self._take_over_s
