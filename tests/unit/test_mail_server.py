"""`python mail_server.py` with any Python at hand."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import mail_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `python mail_server.py` needs to say what is missing."""
    shutil.copy(ROOT / "mail_server.py", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    return tmp_path


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python without any package."""
    venv.create(tmp_path / "bare", with_pip=False)
    return tmp_path / "bare/bin/python"


def run(python: Path, checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, checkout / "mail_server.py", "--help"], capture_output=True, text=True, check=False
    )


def test_a_python_without_the_packages_names_them_in_one_line(checkout: Path, bare_python: Path) -> None:
    ended = run(bare_python, checkout)
    assert ended.returncode == 1
    assert ended.stderr.startswith("postroom: not installed for this Python: aiohappyeyeballs, ")
    assert f"run `make install` in {checkout}" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_environment_beside_it_is_used_whatever_else_is_importable(
    checkout: Path, bare_python: Path
) -> None:
    environment = checkout / ".venv"
    venv.create(environment, with_pip=False)
    ended = run(bare_python, checkout)
    assert ended.stderr.startswith("postroom: not installed")  # said once, by the environment itself
    (environment / "bin/python").unlink()
    (environment / "bin/python").write_text('#!/bin/sh\necho "$@"\n')
    (environment / "bin/python").chmod(0o755)
    assert run(bare_python, checkout).stdout == f"{checkout}/mail_server.py --help\n"
    assert run(Path(sys.executable), checkout).stdout == f"{checkout}/mail_server.py --help\n"


def test_an_old_python_is_told_which_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    fault = mail_server.what_is_missing()
    assert fault is not None
    assert fault.startswith("this is Python 3.10; Postroom needs 3.11 or newer")


def test_old_pythons_can_read_it() -> None:
    ast.parse((ROOT / "mail_server.py").read_text(encoding="ascii"), feature_version=(3, 4))


def test_knows_what_the_program_needs() -> None:
    assert {"flask", "granian", "psycopg", "uvloop"} <= set(mail_server.required())
    assert mail_server.what_is_missing() is None
