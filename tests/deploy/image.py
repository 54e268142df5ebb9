"""The image of this tree, built with Podman on a base that debootstrap makes, and services that run in it.

Needs root, Podman and runc, and debootstrap where no base is there yet: all from Debian. No registry of images is asked.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.servers.installation import ROOT, Installation, descendants
from tests.servers.programs import require, unavailable
from tests.servers.waiting import eventually

BASE, IMAGE = "docker.io/library/python:3.13-slim", "localhost/postroom:deploy-test"
USER = 10001  # of the Dockerfile
_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
# Where nothing may be mounted or limited, as inside another container.
_BUILD = ("--isolation", "chroot", "--network=host", "--format", "docker")
_RUN = ("--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--network=host")
_AS_DOCUMENTED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def podman(*words: str, check: bool = True) -> str:
    """Run podman; return what it prints."""
    ended = subprocess.run(
        ["podman", *words], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0 or not check, ended
    return ended.stdout.strip()


def build() -> str:
    """Build the image and return its name; what is lacking for that skips the test, by name."""
    if os.geteuid() != 0:
        unavailable("root, for debootstrap and Podman")
    require("podman", "runc")
    with tempfile.TemporaryDirectory(prefix="postroom-image-") as folder:
        if not podman("images", "--quiet", BASE):
            _make_base(Path(folder) / "root")
        fetch_wheels(Path(folder) / "wheels")
        pip = Path(folder) / "pip.conf"
        pip.write_text("[global]\nno-index = true\nfind-links = /wheels\n", encoding="utf-8")
        mounts = ("--volume", f"{folder}/wheels:/wheels:ro", "--volume", f"{pip}:/etc/pip.conf:ro")
        podman("build", *_BUILD, *mounts, "--tag", IMAGE, ".")
    return IMAGE


def _make_base(root: Path) -> None:
    """Make a base that has the name of the Dockerfile's: Debian with its Python, which is no older than we need."""
    require("debootstrap")
    knows_trixie = Path("/usr/share/debootstrap/scripts/trixie").exists()  # whose Python is the Dockerfile's
    release = "trixie" if knows_trixie and sys.version_info >= (3, 13) else "bookworm"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release, str(root)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if made.returncode:
        unavailable(f"a mirror of Debian for debootstrap: {made.stdout[-300:]}")
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as archive:
        subprocess.run(["podman", "import", "-", BASE], stdin=archive.stdout, check=True, timeout=600)


def fetch_wheels(folder: Path) -> None:
    """Fetch what the image installs, also what only other releases of this Python need, so that the build asks nobody."""
    text = (ROOT / "requirements/run.txt").read_text(encoding="utf-8")
    entries = re.findall(r"^[^\s#].*(?:\n    .*)*", text, re.MULTILINE)
    marked = [re.sub(r" ;[^\\]*", " ", entry) for entry in entries if "python_full_version < '3.11" in entry]
    extra = folder.with_name("extra.txt")
    extra.write_text("\n".join(marked) + "\n", encoding="utf-8")
    for words in (["-r", "requirements/run.txt"], ["--no-deps", "-r", str(extra)]):
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes"]
        subprocess.run(
            [*download, "--only-binary", ":all:", "--dest", str(folder), *words],
            cwd=ROOT,
            check=True,
            capture_output=True,
            timeout=600,
        )


class Container(Installation):
    """`postroom serve` in a container, as docs/deployment.md starts it; `folder` is its /data."""

    def __init__(
        self, image: str, folder: Path, rows: list[str], *options: str, user: int = USER, **settings: str
    ) -> None:
        super().__init__(folder, rows, **settings)
        self.name = f"postroom-deploy-test-{os.getpid()}-{self.port}"
        self._image = image
        self._options = ("--user", f"{user}:0", *options)
        for path in (folder, folder / "data.csv"):
            os.chown(path, user, 0)
            path.chmod(0o770 if path.is_dir() else 0o600)

    def start(self) -> None:
        settings = {**self._settings, "PORT": str(self.port), "HOST": "127.0.0.1"}
        variables = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
        run = ["podman", "run", "--rm", "--name", self.name, *_RUN, *_AS_DOCUMENTED, *self._options]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*run, *variables, "--volume", f"{self.folder}:/data", self._image], stdout=log, stderr=log
            )
        eventually(self._answers, 60, "the container to answer")

    def log(self) -> str:
        return (self.folder.parent / f"{self.folder.name}.log").read_text(encoding="utf-8", errors="replace")

    def halt(self, how: int = signal.SIGTERM) -> int:
        """Stop the container as its engine does, or kill it; return the status that it ended with."""
        assert self._process is not None
        process, self._process = self._process, None
        if how == signal.SIGKILL:
            podman("kill", self.name)
        else:
            podman("stop", "--time", "60", self.name)
        return process.wait(60)

    @property
    def pid(self) -> int:
        """The container's first process, as this machine numbers it."""
        return int(podman("inspect", "--format", "{{.State.Pid}}", self.name))

    def pids(self, *words: str) -> list[int]:
        return descendants(self.pid, *words)

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", "exec", self.name, *words], capture_output=True, text=True, timeout=60, check=False
        )


def described(image: str) -> dict[str, Any]:
    """Return what the image says of itself."""
    found: dict[str, Any] = json.loads(podman("image", "inspect", image))[0]
    return found
