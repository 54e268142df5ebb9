"""The port of metrics: one process has it and tells of all; another takes it over; workers without HTTP have it too."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.servers.installation import Installation, account_rows, kill
from tests.servers.programs import end, free_port
from tests.servers.scrape import check_totals, reachable, scrape
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

ALL = {"web-0", "web-1", "worker-0"}


@pytest.fixture
def port() -> int:
    return free_port()


def test_one_scrape_tells_of_all_processes_whichever_dies(
    tmp_path: Path, port: int, database_settings: dict[str, str]
) -> None:
    settings = {"POSTROOM_METRICS_PORT": str(port), "WEB_CONCURRENCY": "2", **database_settings}
    with Sink() as sink, Installation(tmp_path, account_rows(sink.port), **settings) as service:
        eventually(lambda: (found := reachable(port)) is not None and found.processes() == ALL, 30)
        ids = [service.send() for _ in range(5)]
        for request_id in ids:
            service.wait_for(request_id)
        token = (tmp_path / "var/admin.token").read_text(encoding="utf-8").strip()
        instances = [partial(scrape, port), *[partial(scrape, service.port, token)] * 4]
        for answer in check_totals(service, *instances):
            assert answer.processes() == ALL
            assert answer.value("messages_accepted_total") == 5
            requests = answer.by("http_requests_total", "route", "status", own=True)
            assert requests["/send-email", "202"] == 5, "whichever process took them"
            assert answer.by("message_time_to_end_seconds_count", "status", own=True) == {("sent",): 5}
            steps = {step for (step,) in answer.by("smtp_phase_duration_seconds_count", "phase", own=True)}
            assert {"CONNECT", "EHLO", "MAIL"} <= steps
        for name in ("worker", "web", "worker"):  # one of them has the port
            for pid in service.pids("-m", "postroom", name):
                kill(pid)
            eventually(lambda: (found := reachable(port)) is not None and found.processes() == ALL, 30)
        check_totals(service, partial(scrape, port))


def test_a_worker_alone_has_the_port_too(tmp_path: Path, port: int) -> None:
    settings = {"POSTROOM_METRICS_PORT": str(port)}
    with Sink() as sink:
        service = Installation(tmp_path, account_rows(sink.port), **settings)
        with service:
            service.wait_for(service.send())
        worker = service.spawn("worker")
        try:
            eventually(lambda: _is_alone(port), 30, "the worker to be alive, and to tell of itself alone")
        finally:
            end(worker)


def _is_alone(port: int) -> bool:
    found = reachable(port)
    if found is None:
        return False
    assert found.processes() == {"worker-0"}
    return found.value("messages_accepted_total") == found.value("workers_alive") == 1


def test_a_port_that_another_program_has_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    with Sink() as sink:
        taken = {"POSTROOM_METRICS_PORT": str(sink.port)}
        with Installation(tmp_path, account_rows(sink.port), **taken) as service:
            service.wait_for(service.send())
            eventually(lambda: "cannot be served" in service.log(), 30)
        [said] = [line for line in service.log().splitlines() if "cannot be served" in line]
    assert f"POSTROOM_METRICS_PORT: metrics cannot be served on 127.0.0.1:{sink.port}" in said
    assert said.endswith("end the program that has it, or choose another port")


def test_a_process_that_is_stopped_is_left_out(tmp_path: Path, port: int) -> None:
    settings = {"POSTROOM_METRICS_PORT": str(port)}
    with Sink() as sink, Installation(tmp_path, account_rows(sink.port), **settings) as service:
        eventually(lambda: (found := reachable(port)) is not None and len(found.processes()) == 2, 30)
        token = (tmp_path / "var/admin.token").read_text(encoding="utf-8").strip()
        [worker] = service.pids("-m", "postroom", "worker")
        with service.stopped(worker):
            assert scrape(service.port, token).processes() == {"web-0"}
