"""The record of an attempt: at which step it ended, and its SMTP dialogue. Pure.

A dialogue is kept as text, a line for each line that was said: milliseconds since its beginning, who spoke, the words.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from postroom.core.numbers import whole_number

MOST_OCTETS: Final = 8192  # of a dialogue that is kept
_MARK: Final = ": "
_LONGEST_CHARACTER: Final = 4  # octets in UTF-8
_MOST_DIGITS: Final = 12  # of milliseconds


class Speaker(StrEnum):
    """Who says a line of a dialogue."""

    CLIENT = "C"
    SERVER = "S"
    NOTE = "*"  # what happened besides words: a connection, TLS, a fault


class Spoken(NamedTuple):
    """A line of a dialogue."""

    ms: int
    speaker: Speaker
    text: str


class AttemptRecord(NamedTuple):
    """What is kept of an attempt besides its outcome. `phase` is the verb of the step at which it ended."""

    phase: str | None = None
    dialogue: str | None = None

    def after(self, earlier: AttemptRecord) -> AttemptRecord:
        """Return the record of an attempt that began over another connection."""
        dialogue = "\n".join(filter(None, (earlier.dialogue, self.dialogue)))
        return AttemptRecord(self.phase, bounded(dialogue))


NOTHING: Final = AttemptRecord()

_STEPS: Final = {"connect": "CONNECT", "greeting": "CONNECT", "HELO": "EHLO", "dot": "DATA end"}


def step_of(verb: str) -> str:
    """Return how a step is named to people: by its verb."""
    return _STEPS.get(verb) or ("AUTH" if verb.startswith("AUTH") else verb)


def line_of(ms: int, speaker: str, text: str) -> str:
    """Return a line as it is kept."""
    return f"{ms} {speaker}{_MARK}{text}"


def parse(dialogue: str) -> list[Spoken]:
    """Read a dialogue that was kept."""
    return [_parsed(line) for line in dialogue.split("\n")]


def _parsed(line: str) -> Spoken:
    head, _, text = line.partition(_MARK)
    ms, _, speaker = head.partition(" ")
    return Spoken(whole_number(ms, _MOST_DIGITS) or 0, Speaker(speaker), text)


def bounded(dialogue: str, most: int = MOST_OCTETS) -> str:
    """Return a dialogue of at most so many octets: of a longer one lines in the middle are left out."""
    if len(dialogue) * _LONGEST_CHARACTER <= most or len(dialogue.encode()) <= most:
        return dialogue
    lines = dialogue.split("\n")
    half = (most - 100) // 2  # a line says what is left out
    first = _fitting(lines, half)
    last = _fitting(lines[:first:-1], half)
    left_out = lines[first : len(lines) - last]
    at = _parsed(lines[first - 1]).ms if first else 0
    said = line_of(at, Speaker.NOTE, f"… {len(left_out):,} lines left out")
    return "\n".join([*lines[:first], said, *lines[len(lines) - last :]])


def _fitting(lines: list[str], most: int) -> int:
    """Count the lines from the beginning that have at most so many octets together."""
    octets = 0
    for count, line in enumerate(lines):
        octets += len(line.encode()) + 1
        if octets > most:
            return count
    return len(lines)
