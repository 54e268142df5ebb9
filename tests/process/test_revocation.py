"""A key that is revoked while many clients post with it: no request that begins after the revocation has returned succeeds.

Two hosts on one PostgreSQL; the web process of one of them is stopped (SIGSTOP) while the key is revoked, so that
nothing can have told it.
"""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.key_management import KeyManagement, KeyWish
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.audit import Actor
from postroom.store.accounts import Accounts
from postroom.store.store import open_store
from tests.servers.installation import KEY, Client, Installation, account_rows
from tests.servers.postgres import Postgres
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

SECRET = "one secret key for both hosts"
CLIENTS = 16
ADMIN = Actor("the test", "here")


@dataclass(frozen=True, slots=True)
class Post:
    """One request: when it began, by the monotonic clock, and its answer's status."""

    began: float
    status: int


class Posting:
    """Clients that post with one key to several hosts until they are told to stop."""

    def __init__(self, ports: list[int], key: str) -> None:
        self._ports = ports
        self._key = key
        self._over = threading.Event()
        self.posts: list[Post] = []
        self._threads = [threading.Thread(target=self._go_on, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Posting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _go_on(self, number: int) -> None:
        client = Client(self._ports[number % len(self._ports)])
        try:
            while not self._over.is_set():
                began = time.monotonic()
                with suppress(OSError, http.client.HTTPException):
                    answer = client.call(
                        "POST",
                        "/send-email",
                        {"subject": "s", "recipient": "you@example.com", "body": "b"},
                        {"Authorization": f"Bearer {self._key}"},
                    )
                    self.posts.append(Post(began, answer.status))
        finally:
            client.close()

    def accepted(self) -> int:
        return sum(post.status == 202 for post in self.posts)

    def begun(self, since: float) -> int:
        return sum(post.began > since for post in self.posts)


@pytest.fixture
def url(postgres_server: Postgres) -> Iterator[str]:
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


def test_no_request_that_begins_after_a_revocation_succeeds(tmp_path: Path, url: str, sink: Sink) -> None:
    settings = {"DATABASE_URL": url, "POSTROOM_SECRET_KEY": SECRET}
    hosts = [
        Installation(tmp_path / f"host{number}", account_rows(sink.port), **settings) for number in range(2)
    ]
    with ExitStack() as stack:
        for host in hosts:
            stack.enter_context(host)
        store = stack.enter_context(closing(open_store(url)))
        vault = Vault((Secret(SECRET),))
        adopt_digest_key(store, vault, create=False)
        keys = KeyManagement(store, vault)
        for host in hosts:
            assert host.post(key=KEY).status == 202
        account = store.read(Accounts.all)[0].account
        leaked = keys.issue_for_account(account.uid, KeyWish("leaked"), ADMIN)
        with Posting([host.port for host in hosts], leaked.text) as posting:
            eventually(lambda: posting.accepted() > 50, 60, "messages to be accepted")
            [stopped] = hosts[1].pids("granian") or hosts[1].pids("web")[-1:]
            os.kill(stopped, signal.SIGSTOP)
            try:
                keys.revoke(leaked.issued.key.uid or "", ADMIN)
                revoked = time.monotonic()
            finally:
                os.kill(stopped, signal.SIGCONT)
            eventually(lambda: posting.begun(since=revoked) > 3 * CLIENTS, 60, "requests to be refused")
        answers = {post.status for post in posting.posts if post.began > revoked}
        assert answers <= {401, 429}, "429: too many wrong keys"
        assert 401 in answers
        assert hosts[0].post(key=KEY).status == 202, "another key goes on"
