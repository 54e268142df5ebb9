"""Web and worker hosts on one PostgreSQL, each a machine of its own: kills, a cable that is pulled, a database that goes.

`POSTROOM_SOAK=1` (`make soak`) runs the long form: 20,000 mails, a host away for 30 s, 100 backends ended, 5 stops.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
import time
from functools import partial
from itertools import count
from pathlib import Path

import psycopg
import pytest

from postroom.store.store import open_store
from tests.servers.fleet import KEYS, PORT, Fleet
from tests.servers.installation import Client
from tests.servers.ledger import all_ended, check_ledger
from tests.servers.netns import CENTRE, among_hosts
from tests.servers.postgres import Postgres
from tests.servers.scrape import check_totals, scrape
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

SOAK = os.environ.get("POSTROOM_SOAK") == "1"
MAILS, SECONDS, KILLS, BACKENDS, STOPS, CUT_S = (
    (20_000, 240, 40, 100, 5, 30) if SOAK else (600, 12, 3, 5, 1, 4)
)
WEBS, WORKERS = (3, 4) if SOAK else (2, 3)
CLIENTS = 12
RATE = MAILS / SECONDS
METRICS_PORT = PORT + 1
SHARES = (
    "SELECT host, count(*) FROM attempt JOIN worker ON worker.id = worker_id GROUP BY host ORDER BY 2 DESC"
)


class Clients:
    """Clients that post a steady stream of mails, each until some web host says 202, under one idempotency key."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self._numbers = count()
        self._mutex = threading.Lock()
        self._threads = [threading.Thread(target=self._post_all, args=(number,)) for number in range(CLIENTS)]
        self._began = time.monotonic()
        self.answers: dict[int, set[str]] = {}
        self.refused: dict[int, int] = {}
        self.troubles: list[BaseException] = []

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()

    def _post_all(self, seed: int) -> None:
        chance = random.Random(seed)
        try:
            while (number := next(self._numbers)) < MAILS:
                time.sleep(max(0.0, self._began + number / RATE - time.monotonic()))  # the load
                eventually(lambda: self._post(number, chance), 120, f"mail {number} to be accepted")
        except BaseException as trouble:
            self.troubles.append(trouble)

    def _post(self, number: int, chance: random.Random) -> bool:
        client = Client(PORT, chance.choice(self._addresses), timeout=10)
        mail = {
            "subject": f"Mail {number}",
            "recipient": "you@postroom.example",
            "body": "x" * 500,
            "key": KEYS[number % len(KEYS)],
        }
        try:
            answer = client.call("POST", "/send-email", mail, {"Idempotency-Key": f"mail-{number}"})
        except (OSError, http.client.HTTPException):
            return False
        finally:
            client.close()
        with self._mutex:
            if answer.status == 202:
                self.answers.setdefault(number, set()).add(answer.document["request_id"])
            else:
                self.refused[answer.status] = self.refused.get(answer.status, 0) + 1
        return answer.status == 202


class Trouble:
    """What happens to the fleet while mail is posted, in an order that chance chooses."""

    def __init__(self, fleet: Fleet, server: Postgres, database: str) -> None:
        self._fleet = fleet
        self._server = server
        self._database = database
        self._chance = random.Random(7)

    def run(self) -> None:
        events = ["kill"] * KILLS + ["backend"] * BACKENDS + ["stop"] * STOPS
        self._chance.shuffle(events)
        cable = threading.Thread(target=self._cut)
        cable.start()
        for event in events:
            began = time.monotonic()
            getattr(self, f"_{event}")()
            time.sleep(max(0.0, SECONDS / len(events) - (time.monotonic() - began)))
        cable.join()

    def _cut(self) -> None:
        """The machine that has sent most so far is away for a while."""
        time.sleep(SECONDS / 4)
        busiest = eventually(self._busiest, 30, "the database to say who has sent most")
        [machine] = [each for each in self._fleet.workers if each.host.name == busiest]
        machine.host.cut()
        time.sleep(CUT_S)
        machine.host.mend()

    def _busiest(self) -> str:
        try:
            return next((str(host) for host, _ in self._fleet.query(SHARES)), "")
        except psycopg.OperationalError:  # it may be away just now
            return ""

    def _kill(self) -> None:
        eventually(lambda: self._fleet.kill_one(self._chance), 30, "a process to kill")

    def _backend(self) -> None:
        with psycopg.connect(self._server.url("postgres"), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s ORDER BY random() LIMIT 1",
                [self._database],
            )

    def _stop(self) -> None:
        self._server.stop(signal.SIGQUIT)
        time.sleep(0.5)
        self._server.start()


@pytest.mark.slow
@pytest.mark.timeout(1800 if SOAK else 420)
@among_hosts
def test_a_fleet_loses_nothing_whatever_goes_away(tmp_path: Path) -> None:
    with Postgres(durable=True) as server, Sink(ledger=tmp_path / "ledger", listen="0.0.0.0") as sink:
        database = server.create_database()
        store = open_store(server.url(database))
        store.migrate()
        store.close()
        fleet = Fleet(
            tmp_path,
            server.url(database, CENTRE),
            sink.port,
            webs=WEBS,
            workers=WORKERS,
            POSTROOM_RETRY_SCHEDULE="1s",
            POSTROOM_METRICS_PORT=str(METRICS_PORT),
            POSTROOM_METRICS_HOST="0.0.0.0",
        )
        with fleet:
            with Clients([machine.host.address for machine in fleet.webs]) as clients:
                Trouble(fleet, server, database).run()
            assert clients.troubles == [], fleet.log()
            eventually(lambda: all_ended(fleet), 120, "everything to be sent")
            accepted = [request_id for ids in clients.answers.values() for request_id in ids]
            assert len(accepted) == len(clients.answers) == MAILS, (
                "one id for each mail, however often it was asked for"
            )
            assert fleet.query("SELECT count(*) FROM message") == [(MAILS,)], "nothing was accepted twice"
            twice = check_ledger(fleet, sink, accepted)
            _check_metrics(fleet, sink)
            assert len(fleet.query(SHARES)) >= WORKERS - 1, "the machines share the work"
            assert set(clients.refused) <= {503}, clients.refused
        print(f"{MAILS} mails: 0 lost, {len(twice)} sent twice, all flagged; refused: {clients.refused}")


def _check_metrics(fleet: Fleet, sink: Sink) -> None:
    """Every host says of the totals what the database does, and the sink has as many copies as were counted."""
    hosts = [partial(scrape, METRICS_PORT, host=machine.host.address) for machine in fleet.machines]
    for answer in check_totals(fleet, *hosts):
        attempts = answer.by("attempts_total", "outcome")
        sent, in_doubt = attempts["sent",], attempts.get(("in_doubt",), 0)
        assert sent <= len(sink.ledger()) <= sent + in_doubt
        assert answer.value("messages_accepted_total") == MAILS
