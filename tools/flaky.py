"""Tell flaky tests from broken ones: run each test that failed once more, alone.

    python tools/flaky.py REPORT

REPORT is what `make test REPORT=FILE` wrote (pytest-reportlog). Exits with 0 when each failed test passes
alone and there are at most two of them; the last lines list them with the outputs of both runs.
`.ci/run` calls this. `make test` itself never repeats a test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_FLAKY = 2
MOST_REPEATED = 10  # with more failures the code is broken, and repeating all of them only takes time
FAILURE = "failure"  # the property under which tests/conftest.py keeps what a failure printed
_TESTS_FAILED = 1  # pytest's exit status; another one says that the run itself broke


@dataclass(slots=True)
class Run:
    """What a run of the tests reported."""

    outcomes: dict[str, str] = field(default_factory=dict)  # node id -> passed, failed or skipped
    outputs: dict[str, str] = field(default_factory=dict)  # node id -> what its failure printed
    status: int | None = None  # None: the run did not come to its end

    def note(self, record: dict[str, Any]) -> None:
        """Take in one phase of a test: the worst phase is the test's outcome."""
        node, outcome = record["nodeid"], record["outcome"]
        if outcome == "failed":
            printed = [text for name, text in record["user_properties"] if name == FAILURE]
            self.outputs[node] = "\n".join([self.outputs.get(node, ""), *printed]).strip()
        if outcome != "passed" or node not in self.outcomes:
            self.outcomes[node] = outcome if self.outcomes.get(node) != "failed" else "failed"

    @property
    def failed(self) -> list[str]:
        return [node for node, outcome in self.outcomes.items() if outcome == "failed"]

    def count(self, outcome: str) -> int:
        return list(self.outcomes.values()).count(outcome)


def read(path: Path) -> Run:
    """Read a report; one that is missing or was cut off gives a run without a status."""
    run = Run()
    for record in _records(path):
        if record.get("$report_type") == "SessionFinish":
            run.status = record["exitstatus"]
        elif record.get("$report_type") == "TestReport":
            run.note(record)
    return run


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the run was cut off in this line
            return


def repeat(node: str) -> tuple[bool, str]:
    """Run one test alone; return whether it passed, and what pytest printed."""
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pytest", "-n", "0", "-ra", node],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return ended.returncode == 0, ended.stdout + ended.stderr


def say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def judge(run: Run) -> int:
    """Repeat what failed, print the verdict, and return the exit status."""
    if run.status != _TESTS_FAILED or not run.failed:
        say("The run broke before its end, or failed outside of its tests: nothing is repeated.")
        return 1
    repeated = {}
    for node in run.failed[:MOST_REPEATED]:
        say(f"once more, alone: {node}")
        repeated[node] = repeat(node)
    flaky = [node for node, (passed, _) in repeated.items() if passed]
    broken = [node for node in run.failed if node not in flaky]
    for node in flaky:
        _show(node, run.outputs.get(node, ""), repeated[node][1])
    for node in broken:
        say(f"broken: {node}" + (f"\n{repeated[node][1][-3000:]}" if node in repeated else ""))
    say(f"\nflaky: {len(flaky)} (they failed in the run and passed alone; {MOST_FLAKY} are let pass)")
    for node in flaky:
        say(f"  {node}")
    red = len(broken) + (len(flaky) if len(flaky) > MOST_FLAKY else 0)
    say(f"{run.count('passed') + len(run.failed) - red} passed, {red} failed, {run.count('skipped')} skipped")
    return 1 if red else 0


def _show(node: str, first: str, second: str) -> None:
    say(f"\n=== flaky: {node}\n--- the run in which it failed\n{first}\n--- alone\n{second}")


def main() -> int:
    """Judge the report that the command line names."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    return judge(read(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
