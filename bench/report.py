"""Runs to a table: medians, and each run beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from bench.systems import Run

_MIB = 1024 * 1024
_QUIET = 0.1  # cores


def compare(runs: Sequence[Run]) -> list[str]:
    """Return the report in Markdown, line by line."""
    names = list(dict.fromkeys(run.system for run in runs))
    groups = [[run for run in runs if run.system == name] for name in names]
    lines = [
        f"| median of {len(groups[0])} | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for title, value, form in _ROWS:
        cells = " | ".join(form.format(median(value(run) for run in group)) for group in groups)
        lines.append(f"| {title} | {cells} |")
    ratio = _ratio(groups)
    if ratio is not None:
        lines += ["", f"**{names[1]} moves {ratio:.1f} times as many mails a second as {names[0]}.**"]
    return [*lines, "", *_costs(groups), "", *_each(runs), *_disturbance(runs), *_idle(runs)]


_ROWS: tuple[tuple[str, Callable[[Run], float], str], ...] = (
    ("mails a second, from HTTP to the sink", lambda run: run.load.throughput, "{:,.0f}"),
    ("POST, p50 (ms)", lambda run: run.load.latency(50) * 1e3, "{:.1f}"),
    ("POST, p99 (ms)", lambda run: run.load.latency(99) * 1e3, "{:.1f}"),
    ("accepted a second", lambda run: len(run.load.latencies) / run.load.posting, "{:,.0f}"),
    ("mails that never arrived", lambda run: run.load.asked - run.load.arrived, "{:.0f}"),
    ("memory after the load, PSS (MiB)", lambda run: run.memory.pss / _MIB, "{:.0f}"),
)


def _ratio(groups: Sequence[Sequence[Run]]) -> float | None:
    if len(groups) != 2:
        return None
    first, second = (median(run.load.throughput for run in group) for group in groups)
    return second / first


def _costs(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Say where the CPU time of a mail went."""
    lines = ["| CPU time a mail (µs, median) | |", "| --- | ---: |"]
    for group in groups:
        for part in group[0].cpu:
            cost = median(run.cost(part) for run in group)
            lines.append(f"| {group[0].system}: {part} | {cost:.0f} |")
    return lines


def _each(runs: Sequence[Run]) -> list[str]:
    lines = [
        "| run | system | mails/s | p50 ms | p99 ms | arrived | logged | others' cores |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for number, run in enumerate(runs, 1):
        load = run.load
        lines.append(
            f"| {number} | {run.system} | {load.throughput:,.0f} | {load.latency(50) * 1e3:.1f} "
            f"| {load.latency(99) * 1e3:.1f} | {load.arrived} of {load.asked} | {run.logged} | {run.others:.2f} |"
        )
    return lines


def _disturbance(runs: Sequence[Run]) -> list[str]:
    others = median(run.others for run in runs)
    if others <= _QUIET:
        return []
    return [
        "",
        f"Other programs used {others:.2f} cores meanwhile: on a quiet machine the numbers are higher.",
    ]


def _idle(runs: Sequence[Run]) -> list[str]:
    return [
        f"\n{run.system} idle, {run.idle.processes} processes: {run.idle.cpu:.2%} of a core; memory "
        f"{run.idle.memory.pss / _MIB:.0f} MiB PSS, {run.idle.memory.rss / _MIB:.0f} MiB RSS."
        for run in runs
        if run.idle is not None
    ]
