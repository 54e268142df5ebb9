"""`RateLimiter`: counts requests in fixed windows, in memory, Redis or Memcached; falls back when it is away.

To ask a server costs more than all else before the commit, so requests that arrive meanwhile are counted together.
"""

from __future__ import annotations

import importlib
import logging
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from limits import RateLimitItem
from limits.storage import MemcachedStorage, Storage, storage_from_string

from postroom.core.errors import LimiterUnavailable
from postroom.settings import RateLimitFallback
from postroom.web.gather import Gather
from postroom.web.waits import Waits

log = logging.getLogger(__name__)

_PREFIX = "postroom"
_TIDY_S = 1.0
_PATIENCE_S = 0.5  # a storage that is down must not hold up a request for longer
_LONGEST_PAUSE_S = {
    RateLimitFallback.COUNT: 30.0,
    RateLimitFallback.ALLOW: 30.0,
    RateLimitFallback.REFUSE: 5.0,  # nothing goes on before the storage is asked again
}
_SAID = {
    RateLimitFallback.COUNT: "counting in memory",
    RateLimitFallback.ALLOW: "letting requests through uncounted",
    RateLimitFallback.REFUSE: "refusing requests",
}


@dataclass(frozen=True, slots=True)
class Window:
    """The window of a limit that has the least room left; times in seconds."""

    limit: RateLimitItem
    used: int
    reset_at: float

    @property
    def exceeded(self) -> bool:
        return self.used > self.limit.amount

    @property
    def remaining(self) -> int:
        return max(0, self.limit.amount - self.used)

    @property
    def wait(self) -> int:
        """Return the whole seconds until the window ends, at least one."""
        return max(1, math.ceil(self.reset_at - time.time()))


@dataclass(frozen=True, slots=True)
class _Question:
    limit: RateLimitItem
    key: str
    counts: bool  # or only looks


class _Memory:
    """Counts in memory. The library's own storage costs three times as much a request, and starts a thread up to a
    hundred times a second to forget windows that are over; here that is done once a second."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._windows: dict[str, tuple[int, float]] = {}  # requests, and when the window ends
        self._tidy_at = 0.0

    def read(self, limit: RateLimitItem, key: str, number: int) -> Window:
        """Count so many requests; with none, say what one more would find."""
        now = time.time()
        with self._mutex:
            if now >= self._tidy_at or now < self._tidy_at - _TIDY_S:
                self._tidy_at = now + _TIDY_S
                for each in [each for each, (_, ends) in self._windows.items() if ends <= now]:
                    del self._windows[each]
            used, ends = self._windows.get(key, (0, 0.0))
            if ends <= now:
                used, ends = 0, now + limit.get_expiry()
            if number:
                self._windows[key] = used + number, ends
        return Window(limit, used + (number or 1), ends)


class RateLimiter:
    """Counters that all processes share where the storage is a server, which is asked for many requests at once.

    While that server is away each process does as `fallback` says (without a window, a request was not
    counted), and asks for it again after a pause that grows from one second to thirty, or to five
    where requests are refused.
    """

    def __init__(self, uri: str, fallback: RateLimitFallback) -> None:
        self._gather: Gather[_Question, Window] = Gather(self._answer, _PATIENCE_S)
        self._fallback = fallback
        self._memory = _Memory()
        shared = uri != "memory://"
        self._uri = uri if shared else None
        if shared:
            _load_driver(uri)  # now, since the first request has no time for it
        self._shared: Storage | None = None  # opened at the first question: it may be away at the start
        self._away_until = 0.0
        self._pause = 1.0
        self._mutex = threading.Lock()

    def close(self) -> None:
        self._gather.close()

    async def hit(self, waits: Waits, limits: Sequence[RateLimitItem], *identity: str) -> Window | None:
        """Count one request against every limit; return the window that is the tightest.

        Raises LimiterUnavailable.
        """
        asked = [await self._ask(waits, limit, identity, counts=True) for limit in limits]
        windows = [window for window in asked if window is not None]
        return min(windows, key=lambda window: window.remaining - window.exceeded, default=None)

    async def look(self, waits: Waits, limit: RateLimitItem, *identity: str) -> Window | None:
        """Return the window as it would be after one more request, without counting it.

        Its `reset_at` is only asked for, and true, when it would be exceeded. Raises LimiterUnavailable.
        """
        return await self._ask(waits, limit, identity, counts=False)

    async def _ask(
        self, waits: Waits, limit: RateLimitItem, identity: Sequence[str], *, counts: bool
    ) -> Window | None:
        key = f"{_PREFIX}/{'/'.join(identity)}/{limit.amount}/{limit.multiples}/{limit.GRANULARITY.name}"
        shared = self._uri is not None
        if shared and time.monotonic() >= self._away_until:
            try:
                window = await waits.ask(self._gather, _Question(limit, key, counts))
            except Exception as error:  # whatever the driver raises, requests go on
                self._note_away(error)
            else:
                self._note_back()
                return window
        if shared and self._fallback is not RateLimitFallback.COUNT:
            self._refuse_if_set()
            return None
        return self._memory.read(limit, key, int(counts))

    def _answer(self, questions: Sequence[_Question]) -> list[Window]:
        """Ask the server once for each of the counters, however many requests count there."""
        assert self._uri is not None
        if time.monotonic() < self._away_until:
            raise ConnectionError("it was found to be away just now")
        self._shared = storage = self._shared or _open(self._uri)
        left = Counter(questions)
        last = {
            question: _read(storage, question.limit, question.key, number if question.counts else 0)
            for question, number in left.items()
        }
        windows = []
        for question in questions:
            left[question] -= 1
            window = last[question]
            windows.append(replace(window, used=window.used - left[question]) if question.counts else window)
        return windows

    def _refuse_if_set(self) -> None:
        if self._fallback is RateLimitFallback.REFUSE:
            wait = max(1, math.ceil(self._away_until - time.monotonic()))
            raise LimiterUnavailable("the rate limiter's storage is away", retry_after=wait)

    def _note_away(self, error: Exception) -> None:
        with self._mutex:
            if time.monotonic() >= self._away_until:
                self._away_until = time.monotonic() + self._pause
                log.warning(
                    "the rate limiter's storage is away, %s: %s", _SAID[self._fallback], _reason(error)
                )
                self._pause = min(self._pause * 2, _LONGEST_PAUSE_S[self._fallback])
                self._forget_connections()

    def _forget_connections(self) -> None:
        """Open the storage anew at the next question. Each connection of the pool to a server that was restarted
        would fail once, and each time the pause would grow. redis-py looks itself at a connection before it uses it."""
        if isinstance(self._shared, MemcachedStorage):
            self._shared = None

    def _note_back(self) -> None:
        if self._away_until:
            with self._mutex:
                self._away_until, self._pause = 0.0, 1.0
            log.info("the rate limiter's storage is back")


def _read(storage: Storage, limit: RateLimitItem, key: str, number: int) -> Window:
    """Count so many requests; with none, say what one more would find."""
    if number:
        return Window(limit, storage.incr(key, limit.get_expiry(), number), storage.get_expiry(key))
    used = storage.get(key) + 1
    return Window(limit, used, storage.get_expiry(key) if used > limit.amount else 0.0)


def _reason(error: Exception) -> str:
    """Return why a storage cannot be asked. What stands behind a colon in redis' own words is the form of an object."""
    if isinstance(error, TimeoutError) and not str(error):
        return f"it has not answered within {_PATIENCE_S:g} s"
    return str(error).split(" : <", 1)[0] or type(error).__name__


def _load_driver(uri: str) -> None:
    for name in ("redis", "redis.cluster", "redis.sentinel") if uri.startswith("redis") else ("pymemcache",):
        importlib.import_module(name)


def answers(uri: str) -> bool:
    """Whether the storage can be asked now; that takes half a second at most for each of its servers."""
    try:
        return _open(uri).check()
    except Exception as error:  # whatever the driver raises
        log.debug("the rate limiter's storage does not answer: %s", error)
        return False


def _open(uri: str) -> Storage:
    options: dict[str, Any] = {}
    if uri.startswith("redis"):
        options = _redis_options()
        if uri.startswith("redis+sentinel"):
            options |= {
                "use_replicas": False,
                "sentinel_kwargs": _redis_options(),
            }  # a replica is a little behind
    elif uri.startswith("memcached"):
        return _open_memcached(uri)
    storage = storage_from_string(uri, **options)
    assert isinstance(storage, Storage)
    return storage


def _open_memcached(uri: str) -> Storage:
    """Share one pool of connections between all threads, and close it with the storage.

    The library makes a client for each thread, and closes none: sockets stay open until the collector finds them.
    """
    from pymemcache.client.base import PooledClient
    from pymemcache.client.hash import HashClient

    hosts = MemcachedStorage(uri).hosts
    options = {"connect_timeout": _PATIENCE_S, "timeout": _PATIENCE_S}
    client: Any = (
        HashClient(hosts, use_pooling=True, **options) if len(hosts) > 1 else PooledClient(*hosts, **options)
    )
    storage = MemcachedStorage(uri, client_getter=lambda *_: client)
    weakref.finalize(storage, client.close)
    return storage


def _redis_options() -> dict[str, Any]:
    """No tries of its own: we ask again after a pause."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        "socket_connect_timeout": _PATIENCE_S,
        "socket_timeout": _PATIENCE_S,
        "retry": Retry(NoBackoff(), 0),
    }
