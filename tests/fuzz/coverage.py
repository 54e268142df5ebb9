"""One target under atheris, for so many seconds: `python -m tests.fuzz.coverage TARGET SECONDS PREFIX-OF-CRASHES`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["postroom"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    """Fuzz; libFuzzer ends the process, with another status than 0 after a crash."""
    name, seconds, prefix = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[name]):
            (Path(folder) / str(number)).write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            f"-artifact_prefix={prefix}",
            "-timeout=10",
            "-rss_limit_mb=1024",
        ]
        atheris.Setup([sys.argv[0], *options, folder], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
