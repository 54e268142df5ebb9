"""tools/flaky.py, on real runs of pytest: what passes alone is flaky, the rest is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import flaky

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
CONFTEST = "from tests.reporting import pytest_runtest_makereport, pytest_runtest_setup\n"
# Fails in the run, which tells it so by a file, and passes after that.
FLAKY = """
from pathlib import Path
def test_flaky_{number}():
    once = Path(__file__).with_name("once-{number}")
    first = not once.exists()
    once.touch()
    assert not first, "only the first time"
"""
PASSES = "def test_passes(): pass\n"
BROKEN = "def test_broken(): assert False, 'always'\n"


Ran = Callable[[str], tuple[int, str]]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ran:
    """Run a file of tests as `make test REPORT=` does; return the verdict's exit status and what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    monkeypatch.setattr(os, "environ", {**environment, "PYTHONPATH": str(ROOT)})
    monkeypatch.chdir(tmp_path)

    def run(tests: str) -> tuple[int, str]:
        Path("conftest.py").write_text(CONFTEST)
        Path("test_some.py").write_text(tests)
        command = [sys.executable, "-m", "pytest", "--report-log=report", "-p", "no:cacheprovider"]
        command += ["--basetemp=temporary", "."]
        subprocess.run(command, capture_output=True, check=False)
        return flaky.judge(flaky.read(Path("report"))), capsys.readouterr().out

    return run


def test_what_passes_alone_is_listed_with_both_outputs_and_lets_the_run_pass(ran: Ran) -> None:
    status, printed = ran(PASSES + FLAKY.format(number=1))
    assert status == 0
    assert "only the first time" in printed
    assert "1 passed in" in printed
    assert printed.endswith("  test_some.py::test_flaky_1\n2 passed, 0 failed, 0 skipped\n")


def test_three_flaky_ones_fail_the_run(ran: Ran) -> None:
    status, printed = ran("".join(FLAKY.format(number=number) for number in range(3)))
    assert status == 1
    assert printed.endswith("0 passed, 3 failed, 0 skipped\n")


def test_what_fails_twice_is_broken(ran: Ran) -> None:
    status, printed = ran(PASSES + BROKEN)
    assert status == 1
    assert "broken: test_some.py::test_broken" in printed
    assert printed.endswith("1 passed, 1 failed, 0 skipped\n")


@pytest.mark.parametrize("tests", ["syntax error", "import os\nos._exit(3)"])
def test_a_run_that_broke_is_not_repeated(ran: Ran, tests: str) -> None:
    status, printed = ran(tests)
    assert status == 1
    assert "nothing is repeated" in printed
