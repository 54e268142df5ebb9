"""A worker that is killed is noticed by its neighbour on the same host within two seconds."""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path
from statistics import median

import pytest

from postroom.core.clock import SECOND
from tests.conftest import StartScripted
from tests.servers.installation import Installation, account_rows, kill
from tests.servers.programs import Process, end
from tests.servers.scripted import Hang, ScriptedServer
from tests.servers.waiting import eventually

KILLS = 3
NOTICED_S = 2.0
BUSY = 5  # a busy machine takes so many times as long; without the look at a neighbour's lock, the lease lasts a minute


def start_worker(service: Installation) -> Process:
    """Start one more worker, which nobody restarts."""
    before = living(service)
    process = service.spawn_worker()
    eventually(lambda: living(service) > before, 30, "a neighbour")
    return process


def living(service: Installation) -> int:
    [(count,)] = service.query("SELECT count(*) FROM worker WHERE gone_at IS NULL")
    return int(count)


def holder(service: Installation) -> int:
    """Return the pid of the worker that has mail in hand; 0 while none has."""
    found = service.query(
        "SELECT pid FROM job JOIN worker ON worker.id = claimed_by "
        "WHERE kind = 'delivery' AND state = 'claimed' AND gone_at IS NULL"
    )
    return int(found[0][0]) if found else 0


def crashed_at(service: Installation, request_id: str) -> int:
    """Return when the mail was taken from its dead worker, by that worker's neighbour; 0 if not yet."""
    found = service.query(
        "SELECT at FROM event JOIN message ON message.id = message_id "
        f"WHERE kind = 'crashed' AND request_id = '{request_id}'"
    )
    return int(found[0][0]) if found else 0


def has_hung(server: ScriptedServer, times: int) -> bool:
    return len(server.acted_at) >= times


@pytest.mark.timeout(180)
def test_a_killed_worker_is_noticed_by_its_neighbour_within_two_seconds(
    tmp_path: Path, scripted: StartScripted
) -> None:
    """By the times in the database, so that it does not count how long this test takes to look."""
    server, seconds = scripted(), []
    with Installation(tmp_path, account_rows(server.port)) as service, contextlib.ExitStack() as stack:
        for number in range(KILLS):
            while living(service) < 2:
                stack.callback(end, start_worker(service))
            server.on("MAIL", do=Hang(), times=1)
            request_id = service.send()
            eventually(functools.partial(has_hung, server, number + 1), message="the server to be asked")
            victim = eventually(lambda: holder(service), message="a worker to send the mail")
            killed_at = time.time_ns() // 1000
            kill(victim)
            taken_at = eventually(functools.partial(crashed_at, service, request_id), 30)
            seconds.append((taken_at - killed_at) / SECOND)
            service.wait_for(request_id)
    print("noticed after", ", ".join(f"{each:.2f} s" for each in sorted(seconds)))
    assert median(seconds) < BUSY * NOTICED_S, f"noticed {seconds} s after the kills"
