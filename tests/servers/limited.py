"""A scripted server that admits so many messages in any window of time, and refuses the others at MAIL."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from tests.servers.scripted import Action, Connection, Reply, ScriptedServer

REFUSAL = "451 4.7.1 Sender rate exceeded, please slow down"


class LimitedServer(ScriptedServer):
    """Admits `most` messages in any `window` seconds; counts those that it has refused."""

    def __init__(self, most: int, window: float, refusal: str = REFUSAL, **options: Any) -> None:
        super().__init__(**options)
        self.most, self.window, self.refusal = most, window, refusal
        self.admitted: list[float] = []  # time.monotonic() of each
        self.refused = 0
        self._recent: deque[float] = deque()

    def choose(self, verb: str, line: str, session: Connection, at: int = 0) -> Action:
        if verb != "MAIL":
            return super().choose(verb, line, session, at)
        with self._lock:
            now = time.monotonic()
            while self._recent and self._recent[0] <= now - self.window:
                self._recent.popleft()
            if len(self._recent) >= self.most:
                self.refused += 1
                return Reply(self.refusal)
            self._recent.append(now)
            self.admitted.append(now)
        return Reply()
