"""`postroom serve` that ships its log: each line arrives, nothing waits for an intake, and no secret is in any place."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartScripted
from tests.servers import intakes
from tests.servers.installation import KEY, Installation, account_rows, kill
from tests.servers.intakes import Held, Intake
from tests.servers.waiting import eventually
from tests.soak import SOAK
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
        stopped = Counter(words for words in intake.messages() if " stopped: " in words)
        assert stopped == {f"{name} stopped: SIGTERM": 1 for name in ("serve", "web", "worker")}
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", [intakes.Elasticsearch, *[intakes.Datadog] * SOAK])
def test_what_no_process_counts_as_dropped_has_arrived_whichever_is_killed(
    kind: type[Intake], start: Start
) -> None:
    """Down, then busy, too large and with a line that is refused; a worker is killed meanwhile, and the web process ends.

    What each process has logged is on standard output, whatever becomes of it on the way.
    """
    with kind() as intake:
        service = start(intake, POSTROOM_LOG_FORMAT="ecs")
        intake.stop()
        with service:
            ids = _sent(service, 10)
            [killed] = service.pids("-m", "postroom", "worker")
            kill(killed)
            ids += _sent(service, 10)
            service.wait_for(service.send(recipient=f"{intakes.POISON}@postroom.example"))
            assert not intake.answers, "it was down all the time"
            intake.then.extend([429, 413, 503])
            intake.start()
            eventually(intake.documents, 60, "the first lines")
            [web] = service.pids("-m", "postroom", "web")[:1]
            os.kill(web, signal.SIGTERM)
            eventually(lambda: web not in service.pids(), 30, "it to end")
            eventually(lambda: _is_accepted(service), 30, "another one to accept")
            last = _sent(service, 10)
        logged, dropped = _logged(service)
        arrived = Counter(str(ecs.flat(document)["event.id"]) for document in intake.documents())
        for pid in logged.keys() - {killed}:
            missing = [each for each in logged[pid] if not arrived[each]]
            assert len(missing) == dropped[pid], (pid, missing)
        assert dropped.total() >= 2, "the lines of the message that it refuses"
        assert len(arrived) + dropped.total() >= sum(len(logged[pid]) for pid in logged.keys() - {killed})
        wanted = {(id_, action): 1 for id_ in last for action in ("accepted", "sent")}
        if isinstance(intake, intakes.Elasticsearch):
            assert events_of(intake, last) == wanted
        assert events_of(intake, ids + last).keys() >= wanted.keys() | {(id_, "accepted") for id_ in ids}


def _sent(service: Installation, count: int) -> list[str]:
    ids = [service.send() for _ in range(count)]
    for id_ in ids:
        service.wait_for(id_)
    return ids


def _is_accepted(service: Installation) -> bool:
    try:
        return service.post().status == 202
    except (OSError, http.client.HTTPException):
        return False


def _logged(service: Installation) -> tuple[dict[int, set[str]], Counter[int]]:
    """Return the ids of the lines that each process has logged, and how many it says that it has dropped."""
    logged: dict[int, set[str]] = {}
    dropped: Counter[int] = Counter()
    for line in service.log().splitlines():
        document = ecs.flat(json.loads(line))
        pid, message = int(str(document["process.pid"])), str(document["message"])
        if found := re.search(r"(\d+) lines? of it dropped", message):
            dropped[pid] += int(found[1])
        if "before the end" not in message:  # which is said when nothing is shipped any more
            logged.setdefault(pid, set()).add(str(document["event.id"]))
    return logged, dropped


def test_datadog_without_a_key_ends_the_start(start: Start) -> None:
    with intakes.Datadog() as intake:
        service = start(intake)
        del service._settings["DD_API_KEY"]
        ended = service.run("serve")
    assert ended.returncode == 78
    assert ended.stderr == "postroom: DD_API_KEY: must be set: POSTROOM_LOG_SHIP names Datadog's intake\n"
