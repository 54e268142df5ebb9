"""Elasticsearch's bulk API: each line is created under its id, so that one that is sent twice is there once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from postroom.core.account import Secret
from postroom.http_client import HTTPAnswer, host_of
from postroom.telemetry.lines import LogLine
from postroom.telemetry.shipping.intake import Batch, Verdict, read_refusal

_CONFLICT: Final = 409  # it is there already
_MAY_PASS: Final = frozenset({401, 403, 404, 408, 429})  # and all from 500 on
_ANSWER_SHORT: Final = "filter_path=errors,items.*.status"


class Elasticsearch:
    """An index or data stream. A body of 5 MB is well within what servers take (`http.max_content_length`)."""

    most_lines = 1000
    most_octets = 4_500_000

    def __init__(self, url: str, basic: Secret | None = None, key: Secret | None = None) -> None:
        self._url = f"{url}{'&' if '?' in url else '?'}{_ANSWER_SHORT}"
        self.where = host_of(url)
        self._authorization: Secret | None = None
        if key is not None:
            self._authorization = Secret(f"ApiKey {key.reveal()}")
        elif basic is not None:
            self._authorization = Secret(f"Basic {basic.reveal()}")

    def batch(self, lines: Sequence[LogLine]) -> Batch:
        body = b"".join(b'{"create":{"_id":%s}}\n%s\n' % (_quoted(line.id), line.text) for line in lines)
        headers = {"Content-Type": "application/x-ndjson"}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization.reveal()
        return Batch(self._url, headers, body)

    def read(self, answer: HTTPAnswer, lines: Sequence[LogLine]) -> Verdict:
        if not 200 <= answer.status < 300:
            return read_refusal(answer, lines, self.where)
        statuses = _statuses(answer.body)
        if len(statuses) != len(lines):
            return Verdict(again=lines, fault=f"{self.where} does not answer as Elasticsearch does")
        again: list[LogLine] = []
        faults: list[int] = []
        refused = 0
        for line, status in zip(lines, statuses, strict=True):
            if 200 <= status < 300 or status == _CONFLICT:
                continue
            faults.append(status)
            if status in _MAY_PASS or status >= 500:
                again.append(line)
            else:
                refused += 1
        fault = (
            f"{self.where} answers {faults[0]} for {len(faults)} of {len(lines)} lines" if faults else None
        )
        return Verdict(again=again, refused=refused, fault=fault)


def _quoted(id_: str) -> bytes:
    return json.dumps(id_).encode("ascii")


def _statuses(body: bytes) -> list[int]:
    """Return the status of each item of a bulk answer; none where it is no such answer."""
    try:
        items = json.loads(body)["items"]
        return [status for item in items for status in [item["create"]["status"]] if isinstance(status, int)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
