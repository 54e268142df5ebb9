"""Waiting for a condition, so that no test sleeps for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

POLL = 0.01


def eventually(condition: Callable[[], T], timeout: float = 60.0, message: str = "") -> T:
    """Return the first truthy value of `condition`; raise AssertionError when none came in `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            what = message or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"waited {timeout:g} s in vain for {what}; last value: {value!r}")
        time.sleep(POLL)


@contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """Fail when what is inside takes longer: the bound of a deadline of ours, with room for a busy machine."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"{what} took {took:.1f} s, and must not take {seconds:g} s"
