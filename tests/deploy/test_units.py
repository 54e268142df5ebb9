"""The units of deploy/, as systemd reads them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.servers.installation import ROOT
from tests.servers.programs import require

pytestmark = pytest.mark.skipif(os.environ.get("POSTROOM_DEPLOY") != "1", reason="make deploy-test")
UNITS = sorted((ROOT / "deploy").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    """Neither a key that it does not know nor a value that it does not take; the program is not installed here."""
    [analyze] = require("systemd-analyze")
    text = unit.read_text(encoding="utf-8")
    text = text.replace("/opt/postroom/.venv/bin/postroom", "/bin/true")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("Documentation="))
    copy = tmp_path / unit.name.replace("@.", "@1.")
    copy.write_text(text, encoding="utf-8")
    ended = subprocess.run(
        [analyze, "verify", str(copy)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
    copy.write_text(text.replace("WatchdogSec=", "WatchdogSeconds="), encoding="utf-8")
    wrong = subprocess.run(
        [analyze, "verify", str(copy)], capture_output=True, text=True, timeout=120, check=False
    )
    assert "WatchdogSeconds" in wrong.stderr, "it would say so"
