"""Fuzz each parser for so many seconds: `python -m tests.fuzz [--seconds N] [TARGET …]`.

With hypothesis, and with atheris (coverage-guided) too where it is installed. What crashes is written to
tests/fuzz/crashes/TARGET-…, from where `make test` tries it each time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS

CRASHES = Path(__file__).parent / "crashes"
_IN_A_ROUND = 500


def texts(name: str) -> st.SearchStrategy[bytes]:
    """Return what a target is tried with: any bytes, any text, and pieces of its seeds, put together anew."""
    pieces = [
        seed_[at : at + size]
        for seed_ in SEEDS[name]
        for size in (1, 4, 16)
        for at in range(0, len(seed_), size)
    ]
    piece = (
        st.sampled_from([*SEEDS[name], *pieces])
        | st.binary(max_size=8)
        | st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
    return st.binary(max_size=200) | st.lists(piece, max_size=30).map(b"".join)


def _keep(name: str, data: bytes) -> Path:
    CRASHES.mkdir(exist_ok=True)
    path = CRASHES / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def _round(name: str, target: Callable[[bytes], None], number: int) -> bytes | None:
    """Try some hundred inputs; return the smallest that crashed, if any."""
    crashed: list[bytes] = []

    @seed(number)
    @settings(
        max_examples=_IN_A_ROUND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(texts(name))
    def attempt(data: bytes) -> None:
        try:
            target(data)
        except Exception:
            crashed.append(data)
            raise

    try:
        attempt()
    except Exception:
        traceback.print_exc()
        return crashed[-1]
    return None


def with_hypothesis(name: str, seconds: float) -> bool:
    """Return whether the target has stood it."""
    until, rounds = time.monotonic() + seconds, 0
    while rounds == 0 or time.monotonic() < until:
        crash = _round(name, TARGETS[name], time.time_ns())
        rounds += 1
        if crash is not None:
            print(f"{name}: crashed; see {_keep(name, crash)}")
            return False
    print(f"{name}: {rounds * _IN_A_ROUND} inputs by hypothesis, no crash", flush=True)
    return True


def with_atheris(name: str, seconds: float) -> bool:
    """Return whether the target has stood it, in a process of its own."""
    CRASHES.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.coverage", name, str(int(seconds)), f"{CRASHES}/{name}-"]
    return subprocess.run(command, check=False).returncode == 0


def main() -> int:
    """Return 1 when anything crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=30, help="for each target and each way")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    given_ = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what the parsers say of such inputs
    has_atheris = importlib.util.find_spec("atheris") is not None
    well = []
    for name in given_.targets or TARGETS:
        well.append(with_hypothesis(name, given_.seconds))
        if has_atheris:
            well.append(with_atheris(name, given_.seconds))
    if not has_atheris:
        print("atheris is not installed: hypothesis alone")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
