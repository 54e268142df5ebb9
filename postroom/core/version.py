"""Notices that another version of Postroom was installed while this process runs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from postroom import __version__

log = logging.getLogger(__name__)

_SOURCE: Final = Path(__file__).with_name("__init__.py")
_VERSION: Final = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)


def installed_version(source: Path = _SOURCE) -> str:
    """Return the version that a process started now would have; this process's where that cannot be read."""
    try:
        found = _VERSION.search(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeError):  # it is being replaced at the moment
        return __version__
    return found[1] if found else __version__


class VersionWatch:
    """Logs once that another version is installed than the one that runs: a restart was forgotten."""

    def __init__(self, installed: Callable[[], str] = installed_version) -> None:
        self._look = installed
        self._installed = __version__

    def compare(self) -> None:
        """Compare the versions, and log a new one."""
        installed = self._look()
        if installed != self._installed:
            self._installed = installed
            if installed != __version__:
                log.warning(
                    "version %s runs, and %s is installed: restart the service", __version__, installed
                )
