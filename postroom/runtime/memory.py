"""Tunes the memory of a long-running process: rarer garbage collections, large blocks returned to the system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_ALLOCATIONS_A_SEARCH = 20_000  # of objects that hold others; Python's own is 700
_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BLOCK = 262_144


def tune_memory() -> None:
    """Exclude all present objects from garbage collection, and collect less often: few objects here are cyclic."""
    _return_large_blocks()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_A_SEARCH)


def _return_large_blocks() -> None:
    """Have glibc return large blocks to the system as soon as they are free; otherwise it keeps more and more of them."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
