"""One line of the log for each message that has reached its end; those of one commit are written together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from postroom.core.job import ClaimedJob
from postroom.core.outcome import InDoubt, Outcome, Sent
from postroom.core.text import printable

log = logging.getLogger("postroom.messages")  # apart from the worker's, whose lines are said once a minute

_LONGEST_REPLY: Final = 200


class FinishedMessages:
    """Gathers what became of messages while the results of one commit come in."""

    def __init__(self) -> None:
        self._ended: list[tuple[ClaimedJob, Mapping[int, Outcome]]] = []

    def note(self, job: ClaimedJob, outcomes: Mapping[int, Outcome]) -> None:
        """Have the log say soon what became of a message; it is recorded."""
        if not log.isEnabledFor(logging.INFO):
            return
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._say)
        self._ended.append((job, outcomes))

    def _say(self) -> None:
        ended, self._ended = self._ended, []
        log.info("%s", "\n".join(_line(job, outcomes) for job, outcomes in ended))


def _line(job: ClaimedJob, outcomes: Mapping[int, Outcome]) -> str:
    paths = ", ".join(delivery.forward_path for delivery in job.deliveries)
    results = [outcomes[delivery.id] for delivery in job.deliveries]
    state = "sent" if all(isinstance(result, Sent) for result in results) else "failed"
    words = "; ".join(dict.fromkeys(_words(result) for result in results))
    return printable(
        f"{job.request_id} {state}: from {job.reverse_path} to {paths}, try {job.attempt}: {words}"
    )


def _words(outcome: Outcome) -> str:
    if isinstance(outcome, Sent):
        return str(outcome.reply)[:_LONGEST_REPLY]
    return f"it may have been sent: {outcome.reason}" if isinstance(outcome, InDoubt) else outcome.reason
