"""Parses numbers from outside: a bounded number of ASCII digits, and nothing else."""

from __future__ import annotations

from typing import Final

_MOST_DIGITS: Final = 18  # fits into 64 bits, with a sign


def whole_number(text: str | bytes, most_digits: int = _MOST_DIGITS) -> int | None:
    """Return the number in a text of plain digits; None for any other text.

    `int` and `isdigit` also take other scripts' digits, superscripts, signs, underscores and spaces, and `int` raises
    ValueError for more than 4,300 digits.
    """
    if not text or len(text) > most_digits or not text.isascii() or not text.isdigit():
        return None
    return int(text)
