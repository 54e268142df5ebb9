"""Which version of Postroom is installed by now: an update replaces the program under one that runs."""

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
    """Return the version that a process would have which started now; ours where that cannot be told."""
    try:
        found = _VERSION.search(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeError):  # it is being replaced just now
        return __version__
    return found[1] if found else __version__


class VersionWatch:
    """Says once that another version is installed than the one that runs: somebody has forgotten to restart it."""

    def __init__(self, installed: Callable[[], str] = installed_version) -> None:
        self._look = installed
        self._installed = __version__

    def compare(self) -> None:
        """Look, and say what is new."""
        installed = self._look()
        if installed != self._installed:
            self._installed = installed
            if installed != __version__:
                log.warning(
                    "version %s runs, and %s is installed: restart the service", __version__, installed
                )
