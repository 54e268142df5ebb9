"""An intake of log lines as an interface: how a batch is asked for, and what the answer means for each line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from postroom.http_client import HTTPAnswer
from postroom.telemetry.lines import LogLine


@dataclass(frozen=True, slots=True)
class Batch:
    """A request: where to, its header fields and its body, not compressed yet."""

    url: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a batch. Whatever is neither `again` nor `refused` has arrived."""

    again: Sequence[LogLine] = ()  # to be sent once more
    refused: int = 0  # lines that will never be taken
    is_split: bool = False  # send `again` in halves, at once
    fault: str | None = None  # why, in words that hold nothing secret
    wait_s: float | None = None  # before the next request, as the server asks


class Intake(Protocol):
    """A server that takes lines."""

    where: str  # its host, for messages
    most_lines: int
    most_octets: int  # of a body

    def batch(self, lines: Sequence[LogLine]) -> Batch:
        """Return the request that hands over these lines."""

    def read(self, answer: HTTPAnswer, lines: Sequence[LogLine]) -> Verdict:
        """Return what the answer to that request means."""


def read_refusal(answer: HTTPAnswer, lines: Sequence[LogLine], where: str) -> Verdict:
    """Return what an answer means that refuses a whole batch, as both intakes have it.

    400 and 413 may be the fault of one line, or of the size: the batch goes in halves. All others, a wrong key too,
    may pass.
    """
    fault = f"{where} answers {answer.status}"
    if answer.status in (400, 413):
        if len(lines) == 1:
            return Verdict(refused=1, fault=fault)
        return Verdict(again=lines, is_split=True, fault=fault)
    if answer.status in (401, 403):
        fault += ": it does not take the key"
    return Verdict(again=lines, fault=fault, wait_s=_retry_after(answer))


def _retry_after(answer: HTTPAnswer) -> float | None:
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < _DIGITS else None


_DIGITS = 5
