"""SIGTERM, once and twice, under load; and a worker that slept past its lease.

`POSTROOM_SOAK=1` (`make soak`) runs the long forms: 100 restarts, and a lease that runs out by itself.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import StartScripted
from tests.servers.installation import Installation, StartedInstallation, account_rows, is_gone
from tests.servers.ledger import all_ended, check_ledger
from tests.servers.programs import Process, end
from tests.servers.scripted import Held, Late, ScriptedServer
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

SOAK = os.environ.get("POSTROOM_SOAK") == "1"
RESTARTS = 100 if SOAK else 6
# Ten for what is being sent, one for everything else; five times that on a busy machine.
DRAIN_S = 11.0 if SOAK else 55.0
CLIENTS = 4
PAUSE_S = 0.005 if SOAK else 0.02
LEASE_S = 60.0


class Load:
    """Clients that post one mail after another until told to end, and note each id that got its 202."""

    def __init__(self, service: Installation) -> None:
        self._service = service
        self._ended = threading.Event()
        self.accepted: list[str] = []
        self.refused: list[int] = []
        self._threads = [threading.Thread(target=self._post) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> None:
        """Wait until more mail has been accepted."""
        enough = len(self.accepted) + 20
        eventually(lambda: len(self.accepted) >= enough, 30, "mail to be accepted again")

    def _post(self) -> None:
        while not self._ended.wait(PAUSE_S):
            try:
                answer = self._service.post()
            except (OSError, http.client.HTTPException):
                continue
            if answer.status == 202:
                self.accepted.append(answer.document["request_id"])
            else:
                self.refused.append(answer.status)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def restart_one(service: Installation, name: str) -> float:
    """End the first process of this kind by SIGTERM; return the seconds that its drain took."""

    def running() -> int:
        return min(service.pids("-m", "postroom", name), default=0)

    pid = eventually(running, 30, f"a {name} to end")
    os.kill(pid, signal.SIGTERM)
    return seconds_of(lambda: eventually(lambda: is_gone(pid), 30, f"the {name} to end"))


def restart_all(service: Installation) -> float:
    drain = seconds_of(service.halt)
    service.start()
    return drain


@pytest.mark.slow
@pytest.mark.timeout(3600 if SOAK else 300)
def test_restarts_under_load_lose_nothing_and_send_nothing_twice(
    tmp_path: Path, long_database_settings: dict[str, str]
) -> None:
    start, drains = time.monotonic(), {"worker": [0.0], "web": [0.0], "service": [0.0]}
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        StartedInstallation(
            tmp_path / "service", account_rows(sink.port), **long_database_settings
        ) as service,
    ):
        with Load(service) as load:
            for number in range(RESTARTS):
                load.goes_on()
                name = list(drains)[number % 3]
                drain = restart_all(service) if name == "service" else restart_one(service, name)
                drains[name].append(drain)
        eventually(lambda: all_ended(service), 60, service.log()[-3000:])
        twice = check_ledger(service, sink, load.accepted)
        longest = ", ".join(f"{name} {max(drains[name]):.2f} s" for name in drains)
        print(
            f"{RESTARTS} restarts, {len(load.accepted)} mails, {time.monotonic() - start:.0f} s: 0 lost, "
            f"{len(twice)} twice; longest drain: {longest}"
        )
        assert twice == set(), "a drain sends nothing twice"
        assert service.query("SELECT count(*) FROM event WHERE kind IN ('in_doubt', 'crashed')") == [(0,)]
        assert set(load.refused) <= {503}
        assert max(map(max, drains.values())) <= DRAIN_S, longest
        assert "did not end in time" not in service.log()


def install(folder: Path, server: ScriptedServer, **settings: str) -> Installation:
    """One command at a time: a worker that slept while a group was out blames the server's PIPELINING for it."""
    header, row = account_rows(server.port)
    rows = [f"{header},pipelining", f"{row},no"]
    return Installation(folder, rows, POSTROOM_RETRY_SCHEDULE="300ms", **settings)


@pytest.mark.parametrize("whom", ["worker", "service"])
def test_a_second_sigterm_cuts_nothing_off(
    whom: str, tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    server = scripted()
    answered = threading.Event()
    server.on("DOT", do=Held(answered), times=1)
    with install(tmp_path, server, **database_settings) as service:
        request_id = service.send()
        eventually(lambda: len(server.transactions) == 1, message="the dot")
        [worker] = service.pids("-m", "postroom", "worker")
        target = worker if whom == "worker" else service.pid
        os.kill(target, signal.SIGTERM)
        eventually(lambda: is_draining(service, worker), message="the worker to take no more mail")
        os.kill(target, signal.SIGTERM)
        answer = threading.Timer(1, answered.set)
        answer.start()
        drain = seconds_of(lambda: eventually(lambda: is_gone(worker), 30))
        assert answered.is_set(), "it waits for the answer"
        assert drain < DRAIN_S, f"and for no more than that: it ended after {drain:.1f} s"
        answer.join()
        if whom == "service":
            service.halt()
            service.start()
        service.wait_for(request_id)
        assert len(server.transactions) == 1
        assert service.query("SELECT possible_duplicate FROM delivery") == [(0,)]


def is_draining(service: Installation, worker: int) -> bool:
    """Whether the signal has been taken: it is no longer pending."""
    status = Path(f"/proc/{worker}/status").read_text()
    pending = [
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))
    ]
    return not any(mask & (1 << (signal.SIGTERM - 1)) for mask in pending)


# --- A worker that sleeps


@contextlib.contextmanager
def second_worker(service: Installation, alive: int = 2) -> Iterator[Process]:
    """A worker that nobody restarts, on the same database."""
    process = service.spawn_worker()
    try:
        eventually(lambda: len(living(service)) == alive, 20, "a second worker")
        yield process
    finally:
        end(process)


def living(service: Installation) -> list[int]:
    return [pid for (pid,) in service.query("SELECT pid FROM worker WHERE gone_at IS NULL ORDER BY id")]


@contextlib.contextmanager
def asleep(service: Installation, worker: int) -> Iterator[None]:
    """The worker is of another host and does not run; it sleeps past its lease, and at the end goes on.

    The short form does not wait for the lease, but says in the database that it is over.
    """
    with service.stopped(worker):
        service.change(f"UPDATE worker SET host = 'another host' WHERE pid = {worker}")
        if not SOAK:
            service.change(f"UPDATE worker SET lease_until = 1 WHERE pid = {worker} AND gone_at IS NULL")
        yield


def has_come(server: ScriptedServer, verb: str) -> bool:
    if verb == "DOT":
        return bool(server.transactions)
    return any(verb in connection.verbs for connection in server.connections)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("verb", "database_settings"),
    [("DATA", "sqlite"), ("DOT", "postgres"), *((("DATA", "postgres"), ("DOT", "sqlite")) if SOAK else ())],
    indirect=["database_settings"],
)
def test_a_worker_that_slept_past_its_lease_sends_nothing_more(
    verb: str, tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    server = scripted()
    server.on(verb, do=Late(3), times=1)  # what the sleeping worker finds when it wakes
    with install(tmp_path, server, **database_settings) as service, contextlib.ExitStack() as stack:
        [sleeper] = eventually(lambda: living(service), message="the worker to sign on")
        request_id = service.send()
        eventually(lambda: has_come(server, verb), message=f"the {verb}")
        with asleep(service, sleeper):
            stack.enter_context(second_worker(service))
            service.wait_for(request_id, timeout=LEASE_S + 30)
        eventually(lambda: is_gone(sleeper), 30, "the worker to notice that it was declared dead")
        service.wait_for(service.send())
        copies = 1 if verb == "DATA" else 2
        assert len(server.transactions) == copies + 1, "the woken worker sent nothing"
        fenced = f"message {request_id} was taken over by another worker; nothing was sent"
        assert (fenced in service.log()) == (verb == "DATA")
        flags = service.query("SELECT possible_duplicate FROM delivery ORDER BY id")
        assert flags == [(copies - 1,), (0,)]


@pytest.mark.timeout(300)
def test_a_worker_that_was_buried_while_it_slept_claims_nothing_when_it_wakes(
    tmp_path: Path, scripted: StartScripted, long_database_settings: dict[str, str]
) -> None:
    server = scripted()
    with install(tmp_path, server, **long_database_settings) as service:
        [sleeper] = eventually(lambda: living(service), message="the worker to sign on")
        with asleep(service, sleeper):
            with second_worker(service, alive=1):
                buried = f"SELECT count(*) FROM worker WHERE pid = {sleeper} AND gone_at IS NOT NULL"
                eventually(lambda: service.query(buried) == [(1,)], LEASE_S + 30)
            request_id = service.send()
        service.wait_for(request_id)
        eventually(lambda: is_gone(sleeper), 30, "the worker to notice that it was declared dead")
        senders = service.query("SELECT pid FROM attempt JOIN worker ON worker.id = worker_id")
        assert senders != [(sleeper,)]


@pytest.mark.timeout(300)
def test_a_worker_that_slept_with_its_hands_full_sends_none_of_it(
    tmp_path: Path, long_database_settings: dict[str, str]
) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", account_rows(sink.port), **long_database_settings) as service,
        contextlib.ExitStack() as stack,
    ):
        [sleeper] = eventually(lambda: living(service), message="the worker to sign on")
        first = service.send()
        service.wait_for(first)  # an account that never worked would have one connection
        sink.freeze()
        with Load(service) as load:
            load.goes_on()
        eventually(
            lambda: (
                service.query("SELECT count(*) >= 20 FROM job WHERE kind = 'delivery' AND state = 'claimed'")
                == [(1,)]
            )
        )
        with asleep(service, sleeper):
            sink.thaw()
            stack.enter_context(second_worker(service))
            eventually(lambda: all_ended(service), LEASE_S + 60, "the second worker to send everything")
        eventually(lambda: is_gone(sleeper), 30, "the worker to notice that it was declared dead")
        in_doubt = service.query("SELECT count(*) FROM event WHERE kind = 'in_doubt'")
        assert len(check_ledger(service, sink, [first, *load.accepted])) <= in_doubt[0][0]
