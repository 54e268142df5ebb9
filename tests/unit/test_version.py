"""An update that was installed under a process that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroom import __version__
from postroom.core.version import VersionWatch, installed_version


def test_it_is_said_once_that_another_version_is_installed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "__init__.py"
    watch = VersionWatch(lambda: installed_version(source))
    for text in f'"""Text."""\n\n__version__ = "{__version__}"\n', '__version__ = "99.1"\n':
        source.write_text(text, encoding="utf-8")
        watch.compare()
        watch.compare()
    source.unlink()
    watch.compare()
    said = f"version {__version__} runs, and 99.1 is installed: restart the service"
    assert [record.getMessage() for record in caplog.records] == [said]
