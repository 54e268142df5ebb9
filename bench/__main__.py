"""`python -m bench`: Postroom and the thread-per-mail design in turn, on the same machine, through the same sink."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, report
from bench.load import LoadError
from bench.processes import StartError
from bench.scenarios import SCENARIOS
from bench.section import Options
from bench.systems import Run, System, measure, naive, postroom

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    options = _parser().parse_args()
    if unknown := set(options.scenario) - set(SCENARIOS):
        print(
            f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}",
            file=sys.stderr,
        )
        return 2
    base = options.folder.resolve()
    base.mkdir(parents=True, exist_ok=True)
    if machine.in_memory(base):
        print(f"{base} is in memory: nothing there is durable, and the numbers mean nothing", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    head = [*_head(options), *(f"- {line}" for line in machine.describe(folder)), ""]
    print("\n".join(head), flush=True)
    try:
        if options.scenario:
            _run_scenarios(options, folder, head)
            return 0
        runs = _runs(_systems(options), folder, options)
    except (LoadError, StartError) as error:
        print(f"{error}\nthe folder {folder} was kept", file=sys.stderr)
        return 1
    if not options.keep:
        shutil.rmtree(folder)
    text = "\n".join([*head, *report.compare(runs)])
    print("\n" + "\n".join(report.compare(runs)))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.md").write_text(text + "\n", encoding="utf-8")
    return 0


def _run_scenarios(options: argparse.Namespace, folder: Path, head: list[str]) -> None:
    """Run scenarios one after another; what was measured is kept even if a later one fails."""
    chosen = Options(folder, options.rounds, options.quick, options.count)
    lines = list(head)
    for name in options.scenario:
        section = SCENARIOS[name](chosen)
        lines += section.markdown()
        print("\n" + "\n".join(section.markdown()), flush=True)
        if options.markdown is not None:
            options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not options.keep:
        shutil.rmtree(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system (3)")
    parser.add_argument("--messages", type=int, default=5000, help="mails a run (5000)")
    parser.add_argument("--count", type=int, help="mails of a scenario, instead of its own number")
    parser.add_argument("--clients", type=int, default=32, help="HTTP clients at once (32)")
    parser.add_argument("--web", type=int, default=1, help="Postroom's web processes (1)")
    parser.add_argument("--only", choices=("postroom", "naive"), help="leave the other one out")
    parser.add_argument(
        "--peer", choices=("granian", "werkzeug"), default="granian", help="naive's server (granian)"
    )
    parser.add_argument(
        "--scenario",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME,…",
        help=f"compare something else: {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--quick", action="store_true", help="few mails and one round: to see that it works")
    parser.add_argument("--markdown", type=Path, help="where a scenario's tables go too")
    parser.add_argument("--no-idle", dest="idle", action="store_false", help="skip the 22 seconds of rest")
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="on a real disk (var/bench)")
    parser.add_argument("--keep", action="store_true", help="leave databases and logs in the folder")
    return parser


def _head(options: argparse.Namespace) -> list[str]:
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [
        f"# python -m bench, {when}",
        "",
        (
            f"{options.messages} mails of 1 KiB a run, {options.clients} clients, {options.web} web process(es), "
            f"the naive design under {options.peer}."
        ),
        "",
    ]


def _systems(options: argparse.Namespace) -> list[System]:
    systems = [naive(options.peer), postroom(options.web)]
    return [system for system in systems if options.only in (None, system.name)]


def _runs(systems: Sequence[System], folder: Path, options: argparse.Namespace) -> list[Run]:
    """Run the systems in turn, so that what else happens on the machine meets both alike."""
    runs = []
    for number in range(options.rounds):
        for system in systems:
            last = number == options.rounds - 1 and system.name == "postroom"
            run = measure(
                system,
                folder / f"{number}-{system.name}",
                messages=options.messages,
                clients=options.clients,
                idle=options.idle and last,
            )
            print(f"round {number + 1}: {system.name} {run.load.throughput:,.0f} mails/s", flush=True)
            runs.append(run)
    return runs


if __name__ == "__main__":
    sys.exit(main())
