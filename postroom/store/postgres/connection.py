"""A connection to PostgreSQL that gives up on a server that does not answer."""

from __future__ import annotations

import fcntl
import math
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow
from psycopg.waiting import READY_R, WAIT_R, WAIT_RW

_ANSWER_WITHIN_S = 15.0  # more than a statement may take
_INT = struct.Struct("i")


class _NoAnswer(psycopg.OperationalError):
    """The server has taken and given nothing for too long."""


class Connection(psycopg.Connection[TupleRow]):
    """A connection that gives up on a server that does not answer.

    A server that is frozen still acknowledges what it is sent, so nothing but the time tells of it. The time runs from
    the last octet that went either way, out of the kernel's own queue too: a large message may need longer than that on a
    slow link.
    """

    answer_within_s: float | None = _ANSWER_WITHIN_S
    seen_at = 0.0  # when it was last known to be there

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        if timeout is not None:  # the listener waits for a notification
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(self._in_time(gen), interval, None)
        except _NoAnswer:
            self.close()  # what it is doing nobody knows
            raise

    def _in_time(self, gen: PQGen[RV]) -> PQGen[RV]:
        """Run a generator of the driver's until nothing was sent for so long, and no answer came."""
        latest, waiting = self._latest(), 0
        try:
            asked = next(gen)
            while True:
                is_left = asked == WAIT_R and self._is_left()
                ready = yield WAIT_RW if is_left else asked
                left = 0 if ready else self._unsent()
                if ready or left != waiting:
                    latest, waiting = self._latest(), left
                elif time.monotonic() > latest:
                    gen.close()
                    raise _NoAnswer(f"the server has not answered within {self.answer_within_s:g} s")
                if not is_left or ready & READY_R:
                    asked = gen.send(ready & READY_R if is_left else ready)
        except StopIteration as ended:
            result: RV = ended.value
            return result

    def _latest(self) -> float:
        return math.inf if self.answer_within_s is None else time.monotonic() + self.answer_within_s

    def _is_left(self) -> bool:
        """Send what libpq still holds; return whether something is left.

        A pipeline that has no more commands waits for answers alone (psycopg 3.3.9), and the server for the rest of a
        message that was larger than the kernel's buffer.
        """
        try:
            return self.pgconn.flush() != 0
        except psycopg.Error:  # the server may have said why: that is read first
            return False

    def _unsent(self) -> int:
        """Return how many octets the kernel holds that the other end has not acknowledged: megabytes on a slow link."""
        with suppress(OSError, psycopg.Error):
            found = fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
            return int(_INT.unpack(found)[0])
        return 0

    @contextmanager
    def answering_within(self, seconds: float | None) -> Iterator[None]:
        """Wait so long for each answer, for ever with None."""
        before, self.answer_within_s = self.answer_within_s, seconds
        try:
            yield
        finally:
            self.answer_within_s = before
