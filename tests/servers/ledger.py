"""The ledger: what the clients were told, what the sink got and what the database says, compared mail by mail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from tests.servers.waiting import eventually


class Inspected(Protocol):
    """An installation on one machine, or on many."""

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database itself."""

    def log_lines(self) -> list[str]:
        """Return the lines of every email_log.txt."""


class Receiving(Protocol):
    """A server that keeps account of what it took."""

    def ledger(self) -> list[tuple[str, str]]:
        """Return (Message-ID with its angle brackets, recipient) of every copy."""


def copies_at(sink: Receiving) -> Counter[str]:
    """Return how many copies of each mail the sink has, by the mail's id."""
    return Counter(message_id.strip("<>").partition("@")[0] for message_id, _ in sink.ledger())


def check_ledger(
    service: Inspected, sink: Receiving, accepted: Collection[str], held: Iterable[str] = ()
) -> set[str]:
    """Raise AssertionError unless nothing was lost and every duplicate is known; return the ids sent twice.

    Exactly the mails of `held` wait for a person; everything else has been sent.
    """
    copies, waiting = copies_at(sink), set(held)
    states = dict(
        service.query("SELECT request_id, job.state FROM message JOIN job ON job.message_id = message.id")
    )
    flagged = {
        row[0]
        for row in service.query(
            "SELECT request_id FROM message JOIN delivery ON delivery.message_id = message.id "
            "WHERE possible_duplicate = 1"
        )
    }
    missing = [id_ for id_ in accepted if copies[id_] == 0 and id_ not in waiting]
    assert missing == [], "accepted, but not at the sink"
    ended = {id_ for id_, state in states.items() if state == "done"}
    assert set(states) - ended == waiting, "neither sent nor waiting for a person"
    assert set(accepted) <= set(states), "accepted, but not in the database"
    assert set(copies) <= set(states), "at the sink, but not in the database"
    twice = {id_ for id_, count in copies.items() if count > 1}
    assert twice <= flagged, "sent twice without being known to be in doubt"
    eventually(lambda: len(service.log_lines()) == len(ended), 20, "a line in the log for each mail")
    logged = Counter(line.split(",")[0].removeprefix("Request ID: ") for line in service.log_lines())
    assert logged == Counter(list(ended)), "one line in the log for each mail"
    return twice


def all_ended(service: Inspected) -> bool:
    """Whether nothing is queued or under way; what is held for a person is neither."""
    return not service.query(
        "SELECT 1 FROM job WHERE kind = 'delivery' AND (state = 'claimed' OR (state = 'queued' AND held = 0)) LIMIT 1"
    )


def held_mails(service: Inspected) -> set[str]:
    """Return the ids of the mails that wait for a person."""
    rows = service.query(
        "SELECT request_id FROM message JOIN job ON job.message_id = message.id WHERE job.held = 1"
    )
    return {row[0] for row in rows}
