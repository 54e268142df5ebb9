"""Python's and glibc's memory in a process that runs for long: fewer searches for garbage, large blocks given back."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_ALLOCATIONS_A_SEARCH = 20_000  # of objects that hold others; Python's own is 700
_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BLOCK = 262_144


def tune_memory() -> None:
    """Leave what is loaded by now out of every search for garbage, and search less often: little here is cyclic."""
    _return_large_blocks()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_A_SEARCH)


def _return_large_blocks() -> None:
    """Have glibc give large blocks back to the system as soon as they are free: it keeps more and more of them else."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
