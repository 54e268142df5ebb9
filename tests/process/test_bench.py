"""The benchmarks run. Their figures are for people (`make bench`); no test looks at them."""

from __future__ import annotations

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
}  # quick, and not quick enough: `make soak`


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
