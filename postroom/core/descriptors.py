"""The open file descriptors of this process, and the limit on them."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

_FOLDER: Final = "/proc/self/fd"


def are_shown() -> bool:
    """Whether the system lists them."""
    return Path(_FOLDER).is_dir()


def open_descriptors() -> list[int]:
    """Return the numbers of those that are open. Raises FileNotFoundError where the system does not show them."""
    with os.scandir(_FOLDER) as found:
        return [int(entry.name) for entry in found]


def raise_descriptor_limit() -> None:
    """Allow this process as many as the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # an infinite limit may be more than the kernel accepts
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
