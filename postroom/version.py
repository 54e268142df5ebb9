"""Which version of Postroom is installed by now: an update replaces the program under one that runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from postroom import __version__

_SOURCE: Final = Path(__file__).with_name("__init__.py")
_VERSION: Final = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)


def installed_version(source: Path = _SOURCE) -> str:
    """Return the version that a process would have which started now; ours where that cannot be told."""
    try:
        found = _VERSION.search(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeError):  # it is being replaced just now
        return __version__
    return found[1] if found else __version__
