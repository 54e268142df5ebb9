"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    best, kind = -1, "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = Path(left.split()[4])
        if path.resolve().is_relative_to(mount) and len(mount.parts) > best:
            best, kind = len(mount.parts), right.split()[0]
    return kind


def in_memory(path: Path) -> bool:
    """Whether nothing that is written there reaches a disk."""
    return file_system(path) in ("tmpfs", "ramfs")


def flush_time(folder: Path) -> float:
    """Return the median time in seconds of appending 4 KiB to a file and flushing it to the disk."""
    path = folder / "flush"
    times = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for _ in range(100):
            started = time.perf_counter()
            os.write(descriptor, b"x" * 4096)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(times)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def describe(folder: Path) -> list[str]:
    """Return the facts about this machine that the numbers depend on, one a line."""
    return [
        f"{os.cpu_count()} cores, {processor()}; Linux {platform.release()}",
        f"Python {platform.python_version()}",
        (
            f"database on {file_system(folder)}; appending 4 KiB and flushing it takes "
            f"{flush_time(folder) * 1e6:.0f} µs (median)"
        ),
        f"load average before the first run: {os.getloadavg()[0]:.2f}",
    ]
