"""`RateLimits`: the limits of requests by key (POSTROOM_RATE_LIMIT), and of wrong keys by address."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum

from limits import RateLimitItemPerMinute, parse_many
from werkzeug.exceptions import HTTPException

from postroom.accounts.keys import ApiKeys
from postroom.core.errors import LimiterUnavailable, PostroomError, QuotaExceeded, StoreUnavailable
from postroom.settings import Settings
from postroom.web.answers import Answer
from postroom.web.api_request import ApiRequest
from postroom.web.auth import header_key
from postroom.web.problems import answer_to
from postroom.web.rate_limiter import RateLimiter, Window
from postroom.web.waits import Waits

# Somebody who tries keys or ids is slowed down long before chance helps him; a client with a typo is not.
_GUESSES = RateLimitItemPerMinute(60)
_WHAT = {
    "guesses": "wrong keys and unknown ids from {}",
    "key": "requests with this key",
    "no key": "requests without a key that can be read from {}",
}


class Kind(Enum):
    """What a request is for, as far as limits differ."""

    SEND = "send"
    STATUS = "status"


class RateLimits:
    """What stands in front of every call, before anybody looks whether a key exists."""

    def __init__(self, settings: Settings, keys: ApiKeys) -> None:
        self._limiter = RateLimiter(settings.ratelimit_storage_uri, settings.rate_limit_fallback)
        self._by_key = parse_many(settings.rate_limit) if settings.rate_limit else []
        self._keys = keys

    def close(self) -> None:
        self._limiter.close()

    async def admit(self, request: ApiRequest, kind: Kind, waits: Waits) -> None:
        """Count the request. Raises QuotaExceeded, and LimiterUnavailable where it cannot be counted.

        A key that has been used with success is not refused for what others do from its address. Every other key is
        refused alike, known or not, so that nothing can be learnt. Without a key, a status is refused in `complete`
        alone, where the id is unknown.
        """
        if not self._keys.is_fresh:
            await waits.read(self._keys.refresh)
        key = _readable_key(request)
        if key is None or not self._keys.is_used(key):
            await self._check_guesses(request, key, waits, may_refuse=kind is Kind.SEND or key is not None)
        if kind is Kind.SEND and self._by_key:
            identity = request.source if key is None else self._keys.digest(key).hex()
            window = await self._limiter.hit(waits, self._by_key, "key", identity)
            if window is not None:
                request.window = "key", window
                if window.exceeded:
                    raise self._refusal(request, "key" if key is not None else "no key", window)

    async def _check_guesses(
        self, request: ApiRequest, key: str | None, waits: Waits, *, may_refuse: bool
    ) -> None:
        window = await self._limiter.look(waits, _GUESSES, "guesses", request.source)
        if not may_refuse or window is None or not window.exceeded:
            return
        if key is None or not await self._is_used_elsewhere(key, waits):
            raise self._refusal(request, "guesses", window)

    async def _is_used_elsewhere(self, key: str, waits: Waits) -> bool:
        """Ask the database, for another process may know more."""
        with suppress(StoreUnavailable, TimeoutError):
            return await waits.read(lambda: self._keys.is_used_elsewhere(key))
        return False

    async def complete(self, request: ApiRequest, answer: Answer, waits: Waits) -> Answer:
        """Count a wrong guess, which may be one too many, and say in the answer where the caller stands."""
        if answer.status in (401, 404):
            with suppress(LimiterUnavailable):  # it is too late to refuse
                window = await self._limiter.hit(waits, [_GUESSES], "guesses", request.source)
                if window is not None and window.exceeded and not self._is_used(request):
                    answer = answer_to(self._refusal(request, "guesses", window))
        if request.window is not None:
            _add_headers(answer, *request.window)
        return answer

    def _is_used(self, request: ApiRequest) -> bool:
        key = _readable_key(request)
        return key is not None and self._keys.is_used(key)

    def _refusal(self, request: ApiRequest, name: str, window: Window) -> QuotaExceeded:
        request.window = ("guesses" if name == "guesses" else "key", window)
        what = _WHAT[name].format(request.source)
        return QuotaExceeded(
            f"too many {what}: the limit is {window.limit}; wait for the time in Retry-After (seconds), then go on",
            retry_after=window.wait,
        )


def _readable_key(request: ApiRequest) -> str | None:
    """Return the request's key, known or not; None where there is none, or it cannot be read."""
    with suppress(PostroomError, HTTPException):
        if request.method == "POST" and not request.has_key_in_header_only:
            return request.key
    with suppress(PostroomError):
        return header_key(request)
    return None


def _add_headers(answer: Answer, name: str, window: Window) -> None:
    """Say policy, rest and seconds to the next window (draft-ietf-httpapi-ratelimit-headers)."""
    limit = window.limit
    answer.headers += (
        ("RateLimit-Policy", f'"{name}";q={limit.amount};w={limit.get_expiry()}'),
        ("RateLimit", f'"{name}";r={window.remaining};t={window.wait}'),
    )
