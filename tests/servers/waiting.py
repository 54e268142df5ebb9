"""Waiting for a condition, so that no test sleeps for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

POLL = 0.01  # at first; each look may cost the service a request, so that a long wait looks less often
_MOST_POLL = 0.05
PATIENCE = 5  # times what is waited for on a quiet machine: a busy one must not fail a test


def eventually(
    condition: Callable[[], T], timeout: float = 12.0, message: str = "", pause: float = POLL
) -> T:
    """Return the first truthy value of `condition`; fail when none came in PATIENCE times `timeout` seconds."""
    began = time.monotonic()
    deadline = began + PATIENCE * timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            what = message or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"waited {PATIENCE * timeout:g} s in vain for {what}; last value: {value!r}")
        time.sleep(max(pause, min(_MOST_POLL, (time.monotonic() - began) / 20)))


@contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """Fail when what is inside takes longer: the bound of a deadline of ours, with room for a busy machine."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"{what} took {took:.1f} s, and must not take {seconds:g} s"
