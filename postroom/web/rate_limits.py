"""Rate limits: requests to send by key, and wrong guesses by address."""

from __future__ import annotations

from contextlib import suppress

from flask import Response
from limits import RateLimitItemPerMinute, parse_many
from werkzeug.exceptions import HTTPException

from postroom.accounts.keys import ApiKeys
from postroom.core.errors import LimiterUnavailable, PostroomError, QuotaExceeded, StoreUnavailable
from postroom.settings import Settings
from postroom.web.api_request import ApiRequest
from postroom.web.auth import header_key
from postroom.web.hub import Hub
from postroom.web.problems import answer_to
from postroom.web.rate_limiter import RateLimiter, Window

# Somebody who tries keys or ids is slowed down long before chance helps him; a client with a typo is not.
_GUESSES = RateLimitItemPerMinute(60)
_WHAT = {
    "guesses": "wrong keys and unknown ids from {}",
    "key": "requests with this key",
    "no key": "requests without a key that can be read from {}",
}
SEND, STATUS = "api.send_email", "api.email_status"


class RateLimits:
    """What stands in front of the two calls, before anybody looks whether a key exists."""

    def __init__(self, settings: Settings, keys: ApiKeys, hub: Hub) -> None:
        self._throttle = RateLimiter(
            settings.ratelimit_storage_uri, hub.together, settings.rate_limit_fallback
        )
        self._by_key = parse_many(settings.rate_limit) if settings.rate_limit else []
        self._keys = keys
        self._hub = hub

    def admit(self, call: ApiRequest, endpoint: str | None) -> None:
        """Count the request. Raises QuotaExceeded, and LimiterUnavailable where it cannot be counted.

        A key that has been used with success is not refused for what others do from its address. Every other key is
        refused alike, known or not, so that nothing can be learnt. Without a key, a status is refused in `settle`
        alone, where the id is unknown.
        """
        if endpoint not in (SEND, STATUS):
            return
        if not self._keys.is_fresh:
            self._hub.aside(self._keys.refresh)  # not behind the queries of others
        key = _readable_key(call)
        if key is None or not self._keys.is_used(key):
            self._check_guesses(call, key, may_refuse=endpoint == SEND or key is not None)
        if endpoint == SEND and self._by_key:
            identity = call.source if key is None else self._keys.digest(key).hex()
            window = self._throttle.hit(self._by_key, "key", identity)
            call.window = ("key", window) if window is not None else None
            if window is not None and window.exceeded:
                raise self._refusal(call, "key" if key is not None else "no key", window)

    def _check_guesses(self, call: ApiRequest, key: str | None, *, may_refuse: bool) -> None:
        window = self._throttle.look(_GUESSES, "guesses", call.source)
        if not may_refuse or window is None or not window.exceeded:
            return
        if key is None or not self._is_used_elsewhere(key):
            raise self._refusal(call, "guesses", window)

    def _is_used_elsewhere(self, key: str) -> bool:
        """Ask the database, for another process may know more."""
        try:
            return self._hub.read(lambda: self._keys.is_used_elsewhere(key))
        except StoreUnavailable:
            return False

    def settle(self, call: ApiRequest, endpoint: str | None, response: Response) -> Response:
        """Count a wrong guess, which may be one too many, and say in the answer where the caller stands."""
        if response.status_code in (401, 404) and endpoint in (SEND, STATUS):
            with suppress(LimiterUnavailable):  # it is too late to refuse
                window = self._throttle.hit([_GUESSES], "guesses", call.source)
                if window is not None and window.exceeded and not self._is_used(call):
                    response = answer_to(self._refusal(call, "guesses", window))
        if call.window is not None:
            _add_headers(response, *call.window)
        return response

    def _is_used(self, call: ApiRequest) -> bool:
        key = _readable_key(call)
        return key is not None and self._keys.is_used(key)

    def _refusal(self, call: ApiRequest, name: str, window: Window) -> QuotaExceeded:
        call.window = ("guesses" if name == "guesses" else "key", window)
        what = _WHAT[name].format(call.source)
        return QuotaExceeded(
            f"too many {what}: the limit is {window.limit}; wait for the time in Retry-After (seconds), then go on",
            retry_after=window.wait,
        )


def _readable_key(call: ApiRequest) -> str | None:
    """Return the request's key, known or not; None where there is none, or it cannot be read."""
    with suppress(PostroomError, HTTPException):
        if call.method == "POST":
            return call.key
    with suppress(PostroomError):
        return header_key(call)
    return None


def _add_headers(response: Response, name: str, window: Window) -> None:
    """Say policy, rest and seconds to the next window (draft-ietf-httpapi-ratelimit-headers)."""
    limit = window.limit
    response.headers.add("RateLimit-Policy", f'"{name}";q={limit.amount};w={limit.get_expiry()}')
    response.headers.add("RateLimit", f'"{name}";r={window.remaining};t={window.wait}')
