"""The ledger: what the clients were told, what the sink got and what the database says, compared mail by mail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.servers.installation import Installation
from tests.servers.sink import Sink
from tests.servers.waiting import eventually


def check_ledger(service: Installation, sink: Sink, accepted: Iterable[str]) -> set[str]:
    """Raise AssertionError unless nothing was lost and every duplicate is known; return the ids sent twice."""
    copies = Counter(message_id.strip("<>").partition("@")[0] for message_id, _ in sink.ledger())
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
    assert [id_ for id_ in accepted if copies[id_] == 0] == [], "accepted, but not at the sink"
    assert set(states.values()) <= {"done"}
    assert set(accepted) <= set(states), "accepted, but not in the database"
    assert set(copies) <= set(states), "at the sink, but not in the database"
    twice = {id_ for id_, count in copies.items() if count > 1}
    assert twice <= flagged, "sent twice without being known to be in doubt"
    eventually(lambda: len(service.log_lines()) == len(states), 20, "a line in the log for each mail")
    logged = Counter(line.split(",")[0].removeprefix("Request ID: ") for line in service.log_lines())
    assert logged == Counter(list(states)), "one line in the log for each mail"
    return twice


def all_ended(service: Installation) -> bool:
    """Whether nothing is queued or under way."""
    return not service.query("SELECT 1 FROM job WHERE state IN ('queued', 'claimed') LIMIT 1")
