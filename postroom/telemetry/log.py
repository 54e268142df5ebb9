"""Formats the service's log as text (POSTROOM_LOG_FORMAT=text), for standard error or for systemd's journal."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from postroom.core.text import printable_lines

PLAIN: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
JOURNAL: Final = "%(levelname)s %(name)s: %(message)s"  # the journal notes the time itself
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG: Final = 7
_SMALL_INITS: Final = frozenset({"tini", "docker-init", "podman-init", "catatonit", "dumb-init"})


class LineFormatter(logging.Formatter):
    """Formats a record; a message of several lines becomes as many lines of the log, each complete and printable.

    For the journal each line has its priority in front (sd-daemon(3)).
    """

    def __init__(self, *, for_journal: bool = False) -> None:
        super().__init__(JOURNAL if for_journal else PLAIN)
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        message = record.message
        if "\n" in message and text.endswith(message):
            head = text.removesuffix(message)
            text = head + message.replace("\n", f"\n{head}")
        text = printable_lines(text)
        if self._for_journal:
            priority = f"<{_priority(record.levelno)}>"
            text = priority + text.replace("\n", f"\n{priority}")
        return text


def _priority(level: int) -> int:
    """Return the priority of syslog for a level of logging."""
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG)


def is_journal(fd: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the descriptor is the stream to systemd's journal that JOURNAL_STREAM names, and was not redirected."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def is_kept_log(fd: int) -> bool:
    """Whether the stream is kept for others to read: the journal, or the log of this container."""
    return not os.isatty(fd) and (is_journal(fd) or _is_container_of_ours())


def _is_container_of_ours() -> bool:
    """Whether this is the main process of a container, perhaps under the engine's own small init."""
    if os.getpid() == 1:
        return True
    try:
        init = Path("/proc/1/comm").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return False
    return os.getppid() == 1 and init in _SMALL_INITS
