"""Nothing accepted is lost: the ledger of client, sink and database under SIGKILL.

`POSTROOM_SOAK=1` (`make soak`) runs the long form: 10,000 mails under 200 kills.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from tests.servers.installation import Installation, StartedInstallation, account_rows, kill
from tests.servers.ledger import all_ended, check_ledger, copies_at, held_mails
from tests.servers.programs import free_port
from tests.servers.scrape import check_totals, scrape
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

SOAK = os.environ.get("POSTROOM_SOAK") == "1"
POSTS, KILLS = (10_000, 200) if SOAK else (400, 10)
CLIENTS = 8
CONNECTIONS = 20  # of an account on a server that no preset knows
ROUND = POSTS // KILLS  # mails that are posted for each kill
ROUND_S = 4.0 if SOAK else 0.5


class Clients:
    """Eight clients that post as much as they are allowed to, and note each id that got its 202."""

    def __init__(self, service: Installation) -> None:
        self._service = service
        self._allowed = threading.Semaphore(0)
        self._ended = threading.Event()
        self._mutex = threading.Lock()
        self.accepted: list[str] = []
        self.troubles: list[BaseException] = []
        self._threads = [threading.Thread(target=self._post_all) for _ in range(CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._allowed.release(CLIENTS)
        for thread in self._threads:
            thread.join()

    def allow(self, posts: int) -> None:
        self._allowed.release(posts)

    def _post_all(self) -> None:
        while self._allowed.acquire() and not self._ended.is_set():
            try:
                eventually(self._post_one, 60)
            except BaseException as trouble:
                self.troubles.append(trouble)
                raise

    def _post_one(self) -> bool:
        """Post one mail: a client whose connection broke does not know what became of it, and asks again."""
        try:
            request_id = self._service.send(body="x" * 500)
        except (OSError, http.client.HTTPException):
            return False
        with self._mutex:
            self.accepted.append(request_id)
        return True


class Kills:
    """Rounds of mail, each with one kill at a moment that chance chooses."""

    def __init__(self, service: Installation, sink: Sink, clients: Clients) -> None:
        self._service = service
        self._sink = sink
        self._clients = clients
        self._chance = random.Random(20)
        self.done = 0

    def steady(self, name: str) -> None:
        """A steady stream of mail, and a kill at any time."""
        fatal = self._chance.randrange(ROUND)
        for number in range(ROUND):
            self._clients.allow(1)
            if number == fatal:
                eventually(lambda: self._kill_one(name), 30, f"a {name} to kill")
            time.sleep(ROUND_S / ROUND)  # the load, not a wait for anything

    def flood(self, name: str) -> None:
        """Mail as fast as it goes, and a kill in the midst of it: all connections are at work."""
        look = self._sink_copies if name == "worker" else lambda: len(self._clients.accepted)
        enough = look() + self._chance.randint(1, ROUND // 2)
        self._clients.allow(ROUND)
        eventually(lambda: look() >= enough, 60, f"some of a round's mails, before a {name} is killed")
        eventually(lambda: self._kill_one(name), 30, f"a {name} to kill")

    def _sink_copies(self) -> int:
        assert self._sink.ledger_file is not None
        return self._sink.ledger_file.read_bytes().count(b"\n")

    def _kill_one(self, name: str) -> bool:
        pids = self._service.pids("-m", "postroom", name)
        if not pids or not kill(self._chance.choice(pids)):
            return False
        self.done += 1
        return True


@pytest.mark.slow
@pytest.mark.timeout(3600 if SOAK else 900)
@pytest.mark.parametrize(("load", "policy"), [("steady", "retry"), ("flood", "retry"), ("flood", "hold")])
def test_random_kills_lose_nothing(
    load: str, policy: str, tmp_path: Path, long_database_settings: dict[str, str]
) -> None:
    # Every second kill is a worker's: what it had between a final dot and the record of its reply may go twice.
    most_duplicates = 0 if policy == "hold" else CONNECTIONS * KILLS // 2
    start = time.monotonic()
    port = free_port()
    settings = {"POSTROOM_IN_DOUBT": policy, "POSTROOM_METRICS_PORT": str(port), **long_database_settings}
    kind = StartedInstallation if load == "steady" else Installation
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        kind(tmp_path / "service", account_rows(sink.port), **settings) as service,
    ):
        with Clients(service) as clients:
            kills = Kills(service, sink, clients)
            one_round = kills.steady if load == "steady" else kills.flood
            for number in range(KILLS):
                one_round("worker" if number % 2 else "web")
            eventually(lambda: len(clients.accepted) == POSTS or clients.troubles, 90)
        assert clients.troubles == []
        eventually(lambda: all_ended(service), 90, service.log()[-3000:])
        held = held_mails(service)
        kept = _decide(service, sink, held, policy)
        twice = check_ledger(service, sink, clients.accepted, kept)
        print(
            f"{load}, {policy}: {POSTS} mails, {kills.done} kills, {time.monotonic() - start:.0f} s: 0 lost, "
            f"{len(twice)} twice, {len(held)} held ({len(kept)} of them at the sink)"
        )
        assert len(set(clients.accepted)) == POSTS
        assert kills.done == KILLS
        assert len(twice) <= most_duplicates
        _check_metrics(service, sink, port)


def _check_metrics(service: Installation, sink: Sink, port: int) -> None:
    """Every instance says of the totals what the database does, and the sink has as many copies as it can have."""
    token = (service.folder / "var/admin.token").read_text(encoding="utf-8").strip()
    for answer in check_totals(service, partial(scrape, port), partial(scrape, service.port, token)):
        attempts = answer.by("attempts_total", "outcome")
        sent, in_doubt = attempts["sent",], attempts.get(("in_doubt",), 0)
        assert sent <= len(sink.ledger()) <= sent + in_doubt


def _decide(service: Installation, sink: Sink, held: set[str], policy: str) -> set[str]:
    """Release, as a person would, the held mails that the server does not have; return those that it has.

    With `retry` only a mail that three workers died with is held, and it may go in any case.
    """
    copies = copies_at(sink)
    keep = {id_ for id_ in held if copies[id_]} if policy == "hold" else set()
    for request_id in held - keep:
        service.command("release", request_id)
    eventually(lambda: all_ended(service), 60, "what was released to be sent")
    return keep


def test_a_kill_of_everything_leaves_the_mail_for_the_next_start(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    with Sink(ledger=tmp_path / "ledger") as sink:
        rows = account_rows(sink.port)
        service = Installation(tmp_path / "service", rows, **database_settings)
        sink.stop()
        service.start()
        ids = [service.send(subject=f"number {number}") for number in range(30)]
        service.wait_for(ids[0], "deferred")
        service.stop(signal.SIGKILL)
        sink.start()
        settings = {"POSTROOM_RETRY_SCHEDULE": "200ms", **database_settings}
        with Installation(tmp_path / "service", rows, **settings) as moved:
            # No test waits for a retry that was planned under the default schedule.
            moved.change("UPDATE job SET due_at = 0 WHERE state = 'queued'")
            for request_id in ids:
                moved.wait_for(request_id, "sent", 30)
            check_ledger(moved, sink, ids)
