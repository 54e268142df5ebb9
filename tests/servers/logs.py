"""The logs of the servers that tests start: a test that fails shows the last lines of each.

A log is opened when its server starts and is read through that descriptor, so that it can be shown
after the server's folder has been removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SHOWN_LINES = 30
_SHOWN_OCTETS = 8192


@dataclass(slots=True)
class _Watched:
    path: Path
    file: BinaryIO | None = None
    shown_from: int = 0  # what was written before the running test began is not shown

    def open(self) -> BinaryIO | None:
        """Return the open log, or None as long as its server has not made it."""
        if self.file is None and self.path.exists():
            self.file = self.path.open("rb")
        return self.file

    def is_removed(self) -> bool:
        return os.fstat(self.file.fileno()).st_nlink == 0 if self.file else not self.path.parent.exists()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


_watched: dict[Path, _Watched] = {}


def watch(path: Path) -> None:
    """Show this log when the running test fails, or a later one during which its server writes to it."""
    known = _watched.get(path)
    if known is None or known.is_removed():
        if known is not None:
            known.close()
        _watched[path] = watched = _Watched(path)
        watched.open()


def begin_test() -> None:
    """Forget the logs of servers whose folders are gone, and what the others wrote before this test."""
    for path, watched in list(_watched.items()):
        file = watched.open()
        if watched.is_removed():
            watched.close()
            del _watched[path]
        elif file is not None:
            watched.shown_from = os.fstat(file.fileno()).st_size


def last_lines() -> Iterator[tuple[str, str]]:
    """Yield the path of each log that was written to since `begin_test`, with its last lines."""
    for path, watched in _watched.items():
        file = watched.open()
        if file is None:
            continue
        size = os.fstat(file.fileno()).st_size
        start = max(watched.shown_from, size - _SHOWN_OCTETS)
        text = os.pread(file.fileno(), size - start, start).decode(errors="replace") if size > start else ""
        if text:
            yield str(path), "\n".join(text.splitlines()[-_SHOWN_LINES:])


def close_all() -> None:
    """Close every log: the run is over."""
    for watched in _watched.values():
        watched.close()
    _watched.clear()
