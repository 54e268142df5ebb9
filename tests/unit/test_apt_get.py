"""tools/apt-get.sh with an apt-get that fails as the real one does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools/apt-get.sh"
LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 4711 (apt-get)"
UNREACHABLE = "E: Failed to fetch http://mirror.example/strace.deb  Connection failed"
UNKNOWN = "E: Unable to locate package strage"


def run(folder: Path, *failures: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run the script with an apt-get that fails so often, once with each text; return its end and the calls."""
    for number, failure in enumerate(failures):
        (folder / f"failure-{number}").write_text(failure)
    fake = folder / "apt-get"
    fake.write_text(
        f'#!/bin/sh\ncd {folder}\necho "$@" >>calls\ncount=$(($(wc -l <calls) - 1))\n'
        '[ ! -e "failure-$count" ] || { cat "failure-$count" >&2; exit 100; }\necho done\n'
    )
    fake.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "APT_PAUSE_S": "0"}
    ended = subprocess.run(
        ["sh", SCRIPT, "install", "-y", "strace"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended, len((folder / "calls").read_text().splitlines())


def test_waits_for_the_lock_as_long_as_it_takes(tmp_path: Path) -> None:
    ended, calls = run(tmp_path, *[LOCKED] * 9)
    assert (ended.returncode, ended.stdout, calls) == (0, "done\n", 10)
    assert ended.stderr.count("holds apt's locks") == 1


def test_tries_a_mirror_that_fails_again(tmp_path: Path) -> None:
    ended, calls = run(tmp_path, UNREACHABLE, UNREACHABLE)
    assert (ended.returncode, calls) == (0, 3)


@pytest.mark.parametrize(("failures", "calls"), [([UNREACHABLE] * 9, 5), ([UNKNOWN] * 9, 1)])
def test_ends_with_apts_own_words_and_status(tmp_path: Path, failures: list[str], calls: int) -> None:
    ended, made = run(tmp_path, *failures)
    assert (ended.returncode, made) == (100, calls)
    assert failures[0] in ended.stderr
