"""Rate limits: requests to send by key, and wrong guesses by address."""

from __future__ import annotations

from contextlib import suppress

from flask import Response
from limits import RateLimitItemPerMinute, parse_many
from werkzeug.exceptions import HTTPException

from postroom.config import Settings
from postroom.errors import LimiterUnavailable, PostroomError, QuotaExceeded
from postroom.web.auth import Doorkeeper
from postroom.web.call import Call
from postroom.web.hub import Hub
from postroom.web.throttle import Throttle, Window

# Somebody who tries keys or ids is slowed down long before chance helps him; a client with a typo is not.
_GUESSES = RateLimitItemPerMinute(60)
SEND, STATUS = "api.send_email", "api.email_status"


class Limits:
    """What stands in front of the two calls, before anybody looks whether a key exists."""

    def __init__(self, settings: Settings, doorkeeper: Doorkeeper, hub: Hub) -> None:
        self._throttle = Throttle(settings.ratelimit_storage_uri, hub.together, settings.rate_limit_fallback)
        self._by_key = parse_many(settings.rate_limit) if settings.rate_limit else []
        self._doorkeeper = doorkeeper

    def admit(self, call: Call, endpoint: str | None) -> None:
        """Count the request. Raises QuotaExceeded, and LimiterUnavailable where it cannot be counted."""
        if endpoint not in (SEND, STATUS):
            return
        _admit(call, "guesses", self._throttle.look(_GUESSES, "guesses", call.address))
        if endpoint == SEND and self._by_key:
            window = self._throttle.hit(self._by_key, "key", _identity(call, self._doorkeeper))
            call.window = ("key", window) if window is not None else None
            _admit(call, "key", window)

    def settle(self, call: Call, endpoint: str | None, response: Response) -> Response:
        """Count a wrong guess, and say in the answer where the caller stands."""
        if response.status_code in (401, 404) and endpoint in (SEND, STATUS):
            with suppress(LimiterUnavailable):  # it is too late to refuse
                self._throttle.hit([_GUESSES], "guesses", call.address)
        if call.window is not None:
            _add_headers(response, *call.window)
        return response


def _identity(call: Call, doorkeeper: Doorkeeper) -> str:
    """Return what to count by: the key, known or not; the address where there is none or it cannot be read."""
    try:
        key = call.key
    except (PostroomError, HTTPException):
        key = None
    return call.address if key is None else doorkeeper.bucket(key)


def _admit(call: Call, name: str, window: Window | None) -> None:
    if window is not None and window.exceeded:
        call.window = (name, window)
        raise QuotaExceeded(
            f"the limit is {window.limit}; wait for the time in Retry-After (seconds), then go on",
            retry_after=window.wait,
        )


def _add_headers(response: Response, name: str, window: Window) -> None:
    """Say policy, rest and seconds to the next window (draft-ietf-httpapi-ratelimit-headers)."""
    limit = window.limit
    response.headers["RateLimit-Policy"] = f'"{name}";q={limit.amount};w={limit.get_expiry()}'
    response.headers["RateLimit"] = f'"{name}";r={window.remaining};t={window.wait}'
