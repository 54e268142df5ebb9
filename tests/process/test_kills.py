"""Nothing accepted is lost: the ledger of client, sink and database under SIGKILL."""

from __future__ import annotations

import http.client
import random
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.servers.installation import Installation, account_rows, kill
from tests.servers.ledger import all_ended, check_ledger
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

POSTS, CLIENTS, KILLS = 2000, 8, 20


class Clients:
    """Eight clients that post until together they have posted enough, and note each id that got its 202."""

    def __init__(self, service: Installation, posts: int) -> None:
        self._service = service
        self._left = iter(range(posts))
        self._mutex = threading.Lock()
        self.accepted: list[str] = []
        self.attempts = 0
        self._threads = [threading.Thread(target=self._post_all) for _ in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _post_all(self) -> None:
        while (number := self._take()) is not None:
            self._post_one(number)

    def _take(self) -> int | None:
        with self._mutex:
            self.attempts += 1
            return next(self._left, None)

    def _post_one(self, number: int) -> None:
        """Post until there is an answer: a client whose connection broke does not know, and asks again."""

        def answered() -> bool:
            try:
                request_id = self._service.send(subject=f"number {number}", body="x" * 500)
            except (OSError, http.client.HTTPException):
                return False
            with self._mutex:
                self.accepted.append(request_id)
            return True

        eventually(answered, 60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_kills_during_two_thousand_posts_lose_nothing(tmp_path: Path) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", account_rows(sink.port)) as service,
    ):
        clients = Clients(service, POSTS)
        clients.start()
        chance = random.Random(20)
        for number in range(KILLS):
            share = (number + 1) * POSTS // (KILLS + 1)
            eventually(lambda share=share: len(clients.accepted) >= share, 90)  # type: ignore[misc]
            _kill_one(service, "worker" if number % 2 else "web", chance)
        clients.join()
        assert len(set(clients.accepted)) == POSTS
        eventually(lambda: all_ended(service), 90, service.log()[-3000:])
        check_ledger(service, sink, clients.accepted)


def _kill_one(service: Installation, name: str, chance: random.Random) -> None:
    """Kill a process of this kind that has had the time to do something."""

    def killed() -> bool:
        pids = service.pids("-m", "postroom", name)
        return bool(pids) and kill(chance.choice(pids))

    eventually(killed, 30)


def test_a_kill_of_everything_leaves_the_mail_for_the_next_start(tmp_path: Path) -> None:
    with Sink(ledger=tmp_path / "ledger") as sink:
        service = Installation(tmp_path / "service", account_rows(sink.port))
        sink.stop()
        service.start()
        ids = [service.send(subject=f"number {number}") for number in range(30)]
        service.wait_for(ids[0], "deferred")
        service.stop(signal.SIGKILL)
        sink.start()
        moved = Installation(tmp_path / "service", account_rows(sink.port), POSTROOM_RETRY_SCHEDULE="200ms")
        with moved:
            _make_due(tmp_path / "service")
            for request_id in ids:
                moved.wait_for(request_id, "sent", 30)
            check_ledger(moved, sink, ids)


def _make_due(folder: Path) -> None:
    """Let no test wait for a retry that was planned under the default schedule."""
    import apsw

    connection = apsw.Connection(str(folder / "var/postroom.db"))
    connection.set_busy_timeout(5000)
    connection.execute("UPDATE job SET due_at = 0 WHERE state = 'queued'")
    connection.close()


def test_sigterm_drains_and_a_restart_goes_on(tmp_path: Path) -> None:
    with Sink(ledger=tmp_path / "ledger") as sink:
        service = Installation(tmp_path / "service", account_rows(sink.port))
        ids: list[str] = []
        for _ in range(3):
            with service:
                ids += [service.send(subject="before the end") for _ in range(200)]
        with service:
            for request_id in ids:
                service.wait_for(request_id)
            copies = Counter(message_id for message_id, _ in sink.ledger())
            assert len(copies) == len(ids)
            assert set(copies.values()) == {1}, "a drain sends nothing twice"
