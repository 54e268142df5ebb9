"""Ships lines to an intake: gathered for a moment, compressed, tried again with growing waits, bounded in memory."""

from __future__ import annotations

import gzip
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from postroom.core.text import counted
from postroom.http_client import HTTPFault, request
from postroom.telemetry.lines import LogLine
from postroom.telemetry.shipping.intake import Intake, Verdict

log = logging.getLogger(__name__)

_GATHER_S: Final = 1.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_FLUSH_S: Final = 5.0  # at the end of the process
_REQUEST_S: Final = 20.0
_SAY_EVERY_S: Final = 60.0
_LONGEST_ANSWER: Final = 1024 * 1024
_LEVEL: Final = 1  # of compression: a sixth of the octets, at 200 MB/s


class Shipper:
    """The lines that wait for an intake, and the thread that ships them. `put` waits for nothing and nobody.

    The lines that wait or are under way have at most `most_octets`; further ones are dropped. `dropped` counts those and
    the lines that the intake refuses for good (metric `log_lines_dropped_total`), and a warning says so.
    """

    def __init__(
        self,
        intake: Intake,
        most_octets: int,
        *,
        gather_s: float = _GATHER_S,
        first_wait_s: float = _FIRST_WAIT_S,
        flush_s: float = _FLUSH_S,
    ) -> None:
        self._intake = intake
        self._most_octets = most_octets
        self._gather_s = gather_s
        self._first_wait_s = first_wait_s
        self._flush_s = flush_s
        self.octets = 0  # that wait, or are under way
        self.shipped = self.dropped = 0
        self._is_closed = False
        self._give_up_at = float("inf")
        self._said_at = float("-inf")
        self._is_down = False
        self._in_flight = 0  # lines that the thread has in hand
        self._untold = 0  # of the dropped lines
        self._waiting: deque[LogLine] = deque()
        self._mutex = threading.Lock()
        self._is_full_batch = threading.Event()
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A child of this process has no thread, and ships its own lines by another shipper."""
        self._mutex = threading.Lock()
        self._ends, self._is_full_batch = threading.Event(), threading.Event()
        self._waiting.clear()
        self._in_flight = self._untold = 0
        self._is_closed = True
        self._thread = None

    # -- the process's threads

    def put(self, lines: Sequence[LogLine]) -> None:
        """Take lines; those for which there is no room are dropped and counted."""
        with self._mutex:
            if self._is_closed:
                return
            for line in lines:
                if self.octets + len(line.text) > self._most_octets:
                    self._note_dropped(1)
                else:
                    self.octets += len(line.text)
                    self._waiting.append(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
                self._thread.start()
        if self.octets >= self._intake.most_octets or len(self._waiting) >= self._intake.most_lines:
            self._is_full_batch.set()

    def close(self) -> None:
        """Ship what waits, for a bounded time; say how many lines were not shipped."""
        with self._mutex:
            thread, self._is_closed = self._thread, True
            self._give_up_at = time.monotonic() + self._flush_s
            self._ends.set()
            self._is_full_batch.set()
        if thread is not None:
            thread.join(self._flush_s + 1.0)
        with self._mutex:
            self._thread = None
            self._note_dropped(len(self._waiting) + self._in_flight)
            self._waiting.clear()
        if self._untold:
            self._say(f"the log could not be shipped to {self._intake.where} before the end", at_the_end=True)

    # -- the thread that ships

    def _run(self) -> None:
        while True:
            self._is_full_batch.wait(self._gather_s)
            self._is_full_batch.clear()
            while batch := self._take():
                self._ship(batch)
            if self._ends.is_set():
                return

    def _take(self) -> list[LogLine]:
        """Return the next lines, as many as fit into a request."""
        batch: list[LogLine] = []
        size = 0
        with self._mutex:
            if time.monotonic() >= self._give_up_at:
                return []
            while self._waiting and len(batch) < self._intake.most_lines:
                size += len(self._waiting[0].text)
                if batch and size > self._intake.most_octets:
                    break
                batch.append(self._waiting.popleft())
            self._in_flight = len(batch)
        return batch

    def _ship(self, batch: Sequence[LogLine]) -> None:
        """Send a batch until nothing of it is left, in parts where the intake asks for that; give up at the end only."""
        parts: deque[Sequence[LogLine]] = deque([batch])
        wait_s = self._first_wait_s
        while parts:
            part = parts.popleft()
            verdict = self._send(part)
            self._note(part, verdict)
            if verdict.is_split:
                half = len(verdict.again) // 2
                parts.extendleft((verdict.again[half:], verdict.again[:half]))
            elif verdict.again:
                parts.appendleft(verdict.again)
                if not self._wait(verdict.wait_s or wait_s * random.uniform(0.8, 1.2)):  # noqa: S311
                    self._give_back(parts)
                    return
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
            else:
                wait_s = self._first_wait_s

    def _send(self, lines: Sequence[LogLine]) -> Verdict:
        """Send lines once. Whatever goes wrong, the thread goes on."""
        try:
            return self._try_to_send(lines)
        except HTTPFault as error:
            return Verdict(again=lines, fault=str(error))
        except Exception as error:
            return Verdict(again=lines, fault=f"a fault in Postroom itself, {type(error).__name__}")

    def _try_to_send(self, lines: Sequence[LogLine]) -> Verdict:
        batch = self._intake.batch(lines)
        body = gzip.compress(batch.body, _LEVEL, mtime=0)
        seconds = min(_REQUEST_S, max(0.1, self._give_up_at - time.monotonic()))
        headers = {**batch.headers, "Content-Encoding": "gzip"}
        answer = request("POST", batch.url, headers, body, seconds=seconds, longest=_LONGEST_ANSWER)
        return self._intake.read(answer, lines)

    def _note(self, lines: Sequence[LogLine], verdict: Verdict) -> None:
        left = sum(len(line.text) for line in verdict.again)
        arrived = len(lines) - len(verdict.again) - verdict.refused
        with self._mutex:
            self.octets -= sum(len(line.text) for line in lines) - left
            self.shipped += arrived
            self._in_flight -= arrived + verdict.refused
            self._note_dropped(verdict.refused)
        if verdict.again and not verdict.is_split:
            self._is_down = True
            self._say_at_times(f"cannot ship the log just now, and tries again: {verdict.fault}")
        elif verdict.refused:
            self._say_at_times(f"lines of the log were refused: {verdict.fault}")
        elif self._is_down and arrived:
            self._is_down = False
            self._say(f"the log is shipped to {self._intake.where} again")
        elif self._untold:
            self._say_at_times(f"the log is shipped to {self._intake.where} too slowly")

    def _wait(self, seconds: float) -> bool:
        """Wait before the next try; False when there is no more time."""
        if self._ends.is_set():
            left = self._give_up_at - time.monotonic()
            time.sleep(max(0.0, min(seconds, self._first_wait_s, left)))
        else:
            self._ends.wait(min(seconds, _LONGEST_WAIT_S))
        return time.monotonic() < self._give_up_at

    def _give_back(self, parts: deque[Sequence[LogLine]]) -> None:
        with self._mutex:
            self._waiting.extendleft(line for part in reversed(parts) for line in reversed(part))
            self._in_flight = 0

    # -- what is said

    def _note_dropped(self, lines: int) -> None:
        self.dropped += lines
        self._untold += lines

    def _say_at_times(self, what: str) -> None:
        if time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self._say(what)

    def _say(self, what: str, *, at_the_end: bool = False) -> None:
        """Log it, with the number of lines dropped since the last time. The thread that closes the log holds its lock."""
        if self._ends.is_set() and not at_the_end:
            return
        self._said_at = time.monotonic()
        with self._mutex:
            untold, self._untold = self._untold, 0
        lost = f"; {counted(untold, 'line')} of it dropped" if untold else ""
        with suppress(Exception):  # the process may be at its end
            log.warning("%s%s", what, lost)
