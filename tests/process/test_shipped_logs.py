"""`postroom serve` that ships its log: each line arrives, nothing waits for an intake, and no secret is in any place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartScripted
from tests.servers import intakes
from tests.servers.installation import KEY, Installation, account_rows
from tests.servers.intakes import Held, Intake
from tests.servers.waiting import eventually
from tests.unit import ecs

Start = Callable[..., Installation]


@pytest.fixture
def start(tmp_path: Path, scripted: StartScripted) -> Start:
    def make(intake: Intake, **settings: str) -> Installation:
        keys = {"POSTROOM_LOG_SHIP_KEY": intakes.KEY, "DD_API_KEY": intakes.KEY}
        rows = account_rows(scripted().port)
        return Installation(tmp_path, rows, POSTROOM_LOG_SHIP=intake.url, **keys, **settings)

    return make


def events_of(intake: Intake, ids: list[str]) -> Counter[tuple[str, str]]:
    """Return how often each event of these messages has arrived."""
    flat = [ecs.flat(document) for document in intake.documents()]
    found = [(str(each.get("postroom.request_id")), str(each.get("event.action"))) for each in flat]
    return Counter(each for each in found if each[0] in ids)


@pytest.mark.parametrize("kind", [intakes.Elasticsearch, intakes.Datadog])
def test_lines_of_all_processes_arrive_and_the_last_at_the_end(kind: type[Intake], start: Start) -> None:
    with kind() as intake:
        service = start(intake)
        with service:
            ids = [service.send() for _ in range(20)]
            for id_ in ids:
                service.wait_for(id_)
            wanted = {(id_, action): 1 for id_ in ids for action in ("accepted", "sent")}
            eventually(lambda: events_of(intake, ids) == wanted, 60, "a line of each event")
        assert events_of(intake, ids) == wanted
        assert Counter(intake.messages())["stopped"] == 2, "the worker's and the supervisor's"
        log = service.log()
        assert intakes.KEY not in log
        assert "dropped" not in log
        if isinstance(intake, intakes.Elasticsearch):
            assert not [fault for document in intake.documents() for fault in ecs.faults(document)]
        for document in intake.documents():
            assert ecs.flat(document)["event.id"]
        everything = repr(intake.documents())
        assert KEY not in everything
        assert "A subject" not in everything
        assert "A body" not in everything


def test_no_message_waits_for_an_intake_that_does_not_answer(start: Start) -> None:
    with intakes.Elasticsearch() as intake:
        held = [
            Held() for _ in range(60)
        ]  # more than there are requests, with those that are given up after 20 s
        intake.then.extend(held)
        service = start(intake, POSTROOM_LOG_SHIP_MEMORY="65536")
        with service:
            first = [service.send() for _ in range(5)]
            eventually(
                lambda: sum(each.has_come.is_set() for each in held) >= 2, 30, "web and worker to ship"
            )
            ids = [
                service.send() for _ in range(100)
            ]  # each is accepted while the intake holds both requests
            for id_ in [*first, *ids]:
                service.wait_for(id_)
            assert not intake.answers, "the intake has answered nothing meanwhile"
            for each in held:
                each.release()
            eventually(lambda: "dropped" in service.log(), 30, "what was dropped to be said")
        assert max(events_of(intake, ids).values(), default=1) == 1


def test_datadog_without_a_key_ends_the_start(start: Start) -> None:
    with intakes.Datadog() as intake:
        service = start(intake)
        del service._settings["DD_API_KEY"]
        ended = service.run("serve")
    assert ended.returncode == 78
    assert ended.stderr == "postroom: DD_API_KEY: must be set: POSTROOM_LOG_SHIP names Datadog's intake\n"
