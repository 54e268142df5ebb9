"""What a scenario is told and what it gives back, and the turns in which the systems run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Options:
    """How large and how long. `messages` replaces a scenario's own count."""

    folder: Path
    rounds: int = 3
    quick: bool = False
    messages: int | None = None
    peers: tuple[str, ...] = ()  # none given: all that can run here

    def count(self, usual: int, quick: int) -> int:
        return self.messages or (quick if self.quick else usual)

    def wants(self, peer: str) -> bool:
        return not self.peers or peer in self.peers


@dataclass(frozen=True, slots=True)
class Section:
    """A scenario's part of the report, in Markdown."""

    title: str
    lines: tuple[str, ...]

    def markdown(self) -> list[str]:
        return [f"### {self.title}", "", *self.lines, ""]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table; the first column is of names, the others of figures."""
    rule = "| --- |" + " ---: |" * (len(header) - 1)
    return ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]


def in_turn(
    systems: Mapping[str, Callable[[Path], float]], options: Options, label: str
) -> dict[str, list[float]]:
    """Run each system once a round (A B A B …), each time in a new folder; return the figures of each."""
    figures: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(1 if options.quick else options.rounds):
        for name, run in systems.items():
            folder = options.folder / f"{label}-{number}-{name}".replace(" ", "-").replace(",", "")
            folder.mkdir(parents=True)
            figure = run(folder)
            figures[name].append(figure)
            print(f"{label}, round {number + 1}: {name} {figure:,.4g}", flush=True)
    return figures


def rate_rows(figures: Mapping[str, Sequence[float]], base: str) -> list[list[str]]:
    """Return name, median and ratio to the system `base`, with the lowest and the highest run."""
    reference = median(figures[base])
    return [
        [
            name,
            f"{median(runs):,.0f}",
            f"{min(runs):,.0f} to {max(runs):,.0f}",
            f"{median(runs) / reference:.2f}",
        ]
        for name, runs in figures.items()
    ]
