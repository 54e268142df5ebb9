"""A line of the log as it leaves: its text, and the id that it has wherever it arrives."""

from __future__ import annotations

from typing import NamedTuple


class LogLine(NamedTuple):
    """One line of JSON, without its line feed."""

    id: str
    text: bytes
