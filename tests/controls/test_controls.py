"""Negative controls: with a guard taken away, the test that watches over it fails.

`make test` runs the quick ones, whose tests it runs with their guards too; `make controls` (`POSTROOM_CONTROLS=all`)
runs all of them, with the guard and without.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controls.mutations import CONTROLS, Control

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("postroom", "tests", "tools", "mail_server.py", "pyproject.toml")
ALL = os.environ.get("POSTROOM_CONTROLS", "") == "all"
CHOSEN = [control for control in CONTROLS if control.quick or ALL]
_OPTIONS = ("-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist")
_TESTS_FAILED = 1  # pytest's exit status; another one says that they could not be run


def copy(folder: Path) -> None:
    """Put a copy of what the tests need into an empty folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            # With the bytecode of what is not changed, but for what somebody is about to write.
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            shutil.copy(source, folder / name)


def take_away(folder: Path, control: Control) -> None:
    """Change the one place where the guard is; where there is none, or more than one, the control itself is at fault."""
    path = folder / control.file
    text = path.read_text(encoding="utf-8")
    assert text.count(control.before) == 1, f"{control.file} must hold this once: {control.before}"
    path.write_text(text.replace(control.before, control.after), encoding="utf-8")


def test_each_guard_stands_where_its_control_takes_it_away() -> None:
    """Of those that `make test` leaves out too: the code goes on, and a control whose guard has moved shows nothing."""
    for control in CONTROLS:
        guarded = (ROOT / control.file).read_text(encoding="utf-8")
        assert guarded.count(control.before) == 1, f"{control.file} must hold this once: {control.before}"
        path, *_, name = control.test.partition("[")[0].split("::")
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), control.test


def run(folder: Path, test: str) -> tuple[int, str]:
    """Run one test in the copy; return pytest's exit status and what it says."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "POSTROOM_CONTROLS"))
    }
    ended = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", *_OPTIONS, f"--basetemp={folder}/temporary", test],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("control", CHOSEN, ids=lambda control: control.guard)
def test_without_its_guard_a_test_fails(control: Control, tmp_path: Path) -> None:
    copy(tmp_path)
    if ALL:
        status, said = run(tmp_path, control.test)
        if status == 0 and not re.search(r"\b\d+ passed", said):
            pytest.skip(f"what this needs is not there: {said[-500:]}")
        assert status == 0, f"it must pass as long as the guard is there:\n{said}"
    take_away(tmp_path, control)
    status, said = run(tmp_path, control.test)
    assert status == _TESTS_FAILED, f"without its guard it must fail:\n{said}"
    assert re.search(r"^FAILED ", said, re.MULTILINE), said
