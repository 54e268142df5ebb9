"""The units under a systemd that was booted for them: what an operator does with `systemctl`, step by step."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.image import fetch_wheels
from tests.servers.installation import ROOT
from tests.servers.programs import free_port, require, unavailable
from tests.servers.waiting import eventually

pytestmark = [
    pytest.mark.skipif(os.environ.get("POSTROOM_DEPLOY") != "1", reason="make deploy-test"),
    pytest.mark.timeout(900),
]
HERE = Path(__file__).parent
_NAMESPACES = ("--mount", "--pid", "--fork", "--ipc", "--uts", "--cgroup", "--net", "--kill-child")
_DROP_IN = """\
[Unit]
DefaultDependencies=no
[Service]
WatchdogSec=8s
StandardOutput=append:/postroom-test/out/%N
StandardError=append:/postroom-test/out/%N
"""
_DRIVER = """\
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
TimeoutStartSec=infinity
StandardOutput=file:/postroom-test/out/said
ExecStart=/bin/sh /postroom-test/driver.sh PORT
"""
EXPECTED = {
    "first": "systemd",
    "wrong_start": "failed",
    "wrong_status": "78",
    "wrong_state": "failed",
    "start": "0",
    "livez_at_once": "200",
    "restarts_after_a_killed_worker": "0",
    "restarts_after_a_frozen_supervisor": "1",
    "livez_again": "200",
    "stopped": "success",
    "start_apart": "0",
    "livez_apart": "200",
    "restarts_of_a_frozen_worker": "1",
    "restarts_of_frozen_http": "1",
    "restarts_after_one_frozen_web_process": "1",
    "livez_after_it": "200",
    "taken_start": "failed",
    "taken_status": "75",
    "taken_state_afterwards": "active",
    "done": "yes",
}


def prepare(folder: Path) -> None:
    """Lay out units, a program that their user may run, and the driver."""
    venv = folder / "venv"
    made = subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(venv)], check=False)
    version = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    if made.returncode or version != f"{sys.version_info.major}.{sys.version_info.minor}":
        unavailable("/usr/bin/python3 of the version that runs the tests, with its venv module")
    fetch_wheels(folder / "wheels")
    install = [sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "install", "--quiet"]
    words = ["--no-index", "--find-links", str(folder / "wheels"), "--require-hashes"]
    subprocess.run([*install, *words, "-r", str(ROOT / "requirements/run.txt")], check=True, timeout=600)
    shutil.copytree(ROOT / "postroom", next(venv.glob("lib/python*/site-packages")) / "postroom")
    program = venv / "bin/postroom"
    program.write_text('#!/bin/sh\nexec /opt/postroom/.venv/bin/python -m postroom "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    units = folder / "units"
    units.mkdir()
    for unit in (ROOT / "deploy").glob("*.service"):
        shutil.copy(unit, units)
        (units / f"{unit.name}.d").mkdir()
        (units / f"{unit.name}.d/test.conf").write_text(_DROP_IN, encoding="utf-8")
    (units / "driver.service").write_text(_DRIVER.replace("PORT", str(free_port())), encoding="utf-8")
    wants = "[Unit]\nWants=driver.service\nDefaultDependencies=no\n"
    (units / "driver.target").write_text(wants, encoding="utf-8")
    shutil.copy(HERE / "driver.sh", folder)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


@contextlib.contextmanager
def control_group() -> Iterator[Path]:
    """A control group of systemd's own, which it sees as the whole hierarchy."""
    hierarchy = Path("/sys/fs/cgroup/systemd")
    group = (hierarchy if hierarchy.is_dir() else hierarchy.parent) / f"postroom-deploy-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        unavailable(f"a control group that may be made ({error.strerror})")
    try:
        yield group
    finally:
        eventually(lambda: _is_removed(group), 20, "the control group to be empty")


def _is_removed(group: Path) -> bool:
    try:
        for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        group.rmdir()
    except OSError:  # what was killed is still ending
        return False
    return True


def test_systemd_starts_watches_and_stops_the_units(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        unavailable("root, to boot systemd in namespaces")
    require("unshare", "curl", "pgrep")
    if not Path("/lib/systemd/systemd").exists():
        unavailable("Debian package missing: systemd")
    prepare(tmp_path)
    said = tmp_path / "out/said"
    with control_group() as group:
        unshare = [
            "unshare",
            *_NAMESPACES,
            "sh",
            "-c",
            f"ip link set lo up; exec sh {HERE}/boot.sh {tmp_path}",
        ]
        process = subprocess.Popen(
            ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *unshare],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            eventually(lambda: process.poll() is not None or said.exists(), 30, "systemd to boot")
            if process.poll() is not None:
                assert process.stderr is not None
                unavailable(f"a systemd that boots in namespaces here: {process.stderr.read()[-300:]!r}")
            eventually(lambda: "done=yes" in said.read_text(), 100, "the driver to end")
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            print(said.read_text() if said.exists() else "nothing was said")
    found = dict(line.split("=", 1) for line in said.read_text().splitlines())
    assert found == EXPECTED
