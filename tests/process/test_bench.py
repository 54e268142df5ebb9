"""The benchmarks run. Their figures are for people (`make bench`); no test looks at them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.scenarios import SCENARIOS
from tests.servers.installation import ROOT
from tests.soak import SOAK

LONG = {
    "accounts",
    "peers",
    "large",
    "far",
    "backlog",
    "connections",
    "fairness",
    "engines",
    "longtransaction",
    "slow",
    "tenant",
    "sizes",
    "values",
    "claim",
    "memory",
    "logs",
    "failures",
}  # quick, and not quick enough: `make soak`
OWN_CODE = """
import sys
from pathlib import Path
from bench.drain import worker
from bench.service import serving
from tests.servers.waiting import eventually
folder = Path(sys.argv[1])
with serving(folder) as service, worker(folder) as program:
    def is_ours():
        parts = [*service.pids().values(), [program.pid]]  # what is forked from one of them imports nothing anew
        return all(any((folder / f"ours-{pid}").exists() for pid in pids) for pids in parts)
    eventually(is_ours, 20, "a process of each part that runs the code of this folder")
"""
MARK = """
import os, pathlib
pathlib.Path(f"ours-{os.getpid()}").touch()
"""


@pytest.mark.slow
@pytest.mark.parametrize("scenario", sorted(SCENARIOS if SOAK else SCENARIOS.keys() - LONG))
def test_a_scenario_gives_its_table(scenario: str) -> None:
    folder = Path("var/bench")  # on a disk, which the folder of a test may not be
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--scenario", scenario, "--folder", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n### " in done.stdout


def test_a_checkout_measures_its_own_code_and_not_what_is_installed(tmp_path: Path) -> None:
    """What a copy of the tree starts leaves marks, which only the copy's code makes."""
    copy, folder = tmp_path / "copy", tmp_path / "service"
    for name in ("bench", "postroom", "tests/servers"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("results", "*.pyc.*"))
    for name in ("__init__.py", "soak.py"):
        shutil.copy(ROOT / "tests" / name, copy / "tests")
    with (copy / "postroom/__init__.py").open("a", encoding="utf-8") as file:
        file.write(MARK)
    done = subprocess.run(
        [sys.executable, "-c", OWN_CODE, str(folder)],
        cwd=copy,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
