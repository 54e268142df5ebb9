"""Lays out rows as columns of plain text, readable without colour."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], texts: frozenset[int]) -> list[str]:
    """Return a line for each row; columns are numbers, aligned at the right, but for those of `texts`."""
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if number in texts else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def bar(count: int, most: int, width: int) -> str:
    """Return a bar whose length shows a count, at least one character for any."""
    length = 0 if not count or not width else max(1, round(width * count / most))
    return _block() * length


def _block() -> str:
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"
