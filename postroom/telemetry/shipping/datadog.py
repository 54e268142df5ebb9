"""Datadog's intake of logs (API v2): an array of documents, at least once; each has an id of its own in `event.id`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from postroom.core.account import Secret
from postroom.http_client import HTTPAnswer, host_of
from postroom.telemetry.lines import LogLine
from postroom.telemetry.shipping.intake import Batch, Verdict, read_refusal

_URL: Final = "https://http-intake.logs.{site}/api/v2/logs"


class Datadog:
    """The intake of a site. A payload has at most 1,000 lines and 5 MB; a line of ours is far from its limit of 1 MB."""

    most_lines = 1000
    most_octets = 4_500_000

    def __init__(self, key: Secret, site: str, url: str | None = None) -> None:
        self._key = key
        self._url = url or _URL.format(site=site)
        self.where = host_of(self._url)

    def batch(self, lines: Sequence[LogLine]) -> Batch:
        body = b"[" + b",".join(line.text for line in lines) + b"]"
        return Batch(self._url, {"Content-Type": "application/json", "DD-API-KEY": self._key.reveal()}, body)

    def read(self, answer: HTTPAnswer, lines: Sequence[LogLine]) -> Verdict:
        if 200 <= answer.status < 300:
            return Verdict()
        return read_refusal(answer, lines, self.where)
