"""Logs each message that was sent or has failed as a line of text, once a commit; `service_log.py` has the JSON formats."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from postroom.core.events import EventKind, NewEvent
from postroom.core.job import ClaimedJob
from postroom.core.text import printable

# Apart from the worker's, whose repeated lines are written once a minute.
log = logging.getLogger("postroom.messages")

_LONGEST_REPLY: Final = 200


class FinishedMessages:
    """Gathers the last events of messages while the results of one commit come in."""

    def __init__(self) -> None:
        self._ended: list[tuple[ClaimedJob, Sequence[NewEvent]]] = []

    def note(self, job: ClaimedJob, events: Sequence[NewEvent]) -> None:
        """Log the end of a message soon; it is recorded in the database already."""
        if not log.isEnabledFor(logging.INFO):
            return
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._say)
        self._ended.append((job, events))

    def _say(self) -> None:
        ended, self._ended = self._ended, []
        log.info("%s", "\n".join(_line(job, events) for job, events in ended))


def log_captured(ended: Sequence[tuple[str, str, str]], words: str) -> None:
    """Log the end of messages of test keys: the id, the reverse-path and the recipients of each."""
    lines = (
        f"{request_id} sent (test): from {reverse_path} to {recipients}: {words}"
        for request_id, reverse_path, recipients in ended
    )
    log.info("%s", "\n".join(map(printable, lines)))


def _line(job: ClaimedJob, events: Sequence[NewEvent]) -> str:
    paths = ", ".join(delivery.forward_path for delivery in job.deliveries)
    state = "sent" if all(event.kind is EventKind.SENT for event in events) else "failed"
    words = "; ".join(dict.fromkeys(_words(event) for event in events))
    return printable(
        f"{job.request_id} {state}: from {job.reverse_path} to {paths}, try {job.attempt}: {words}"
    )


def _words(event: NewEvent) -> str:
    detail = event.detail or ""
    if event.kind is EventKind.SENT:
        return detail[:_LONGEST_REPLY]
    return f"it may have been sent: {detail}" if event.kind is EventKind.IN_DOUBT else detail
