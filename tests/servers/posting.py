"""Clients that post with one key to several hosts, for a revocation in the midst of it."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.servers.installation import Client

if TYPE_CHECKING:
    from tests.servers.installation import Installation


@dataclass(frozen=True, slots=True)
class Post:
    """One request: when it began, by the monotonic clock, its answer's status, and the id of what was accepted."""

    began: float
    status: int
    request_id: str | None


class Posting:
    """So many clients that post with one key, to the hosts in turn, until they are told to stop."""

    def __init__(self, ports: Sequence[int], key: str, clients: int) -> None:
        self._ports = ports
        self._key = key
        self._over = threading.Event()
        self.posts: list[Post] = []
        self._threads = [threading.Thread(target=self._go_on, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Self:
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
                with suppress(OSError, http.client.HTTPException):
                    self._post(client)
        finally:
            client.close()

    def _post(self, client: Client) -> None:
        began = time.monotonic()
        answer = client.call(
            "POST",
            "/send-email",
            {"subject": "s", "recipient": "you@example.com", "body": "b"},
            {"Authorization": f"Bearer {self._key}"},
        )
        accepted = answer.document["request_id"] if answer.status == 202 else None
        self.posts.append(Post(began, answer.status, accepted))

    def accepted(self) -> list[str]:
        return [post.request_id for post in self.posts if post.request_id is not None]

    def begun(self, since: float) -> int:
        return sum(post.began > since for post in self.posts)

    def answers(self, since: float) -> set[int]:
        """Return the statuses of what began after that time."""
        return {post.status for post in self.posts if post.began > since}


@contextmanager
def stopped_web(host: Installation) -> Iterator[None]:
    """Have a host's web process stand still (SIGSTOP), so that nothing can tell it anything."""
    [process] = host.pids("granian") or host.pids("web")[-1:]
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
