"""Rate limits: requests to send by key, and wrong guesses by address."""

from __future__ import annotations

from flask import Flask, Response
from limits import RateLimitItemPerMinute, parse_many
from werkzeug.exceptions import HTTPException

from postroom.config import Settings
from postroom.errors import PostroomError, QuotaExceeded
from postroom.web.auth import Doorkeeper
from postroom.web.call import Call, current
from postroom.web.hub import Hub
from postroom.web.throttle import Throttle, Window

# Somebody who tries keys or ids is slowed down long before chance helps him; a client with a typo is not.
_GUESSES = RateLimitItemPerMinute(60)
_SEND = "api.send_email"
_LIMITED = (_SEND, "api.email_status")


def install_limits(app: Flask, settings: Settings, doorkeeper: Doorkeeper, hub: Hub) -> None:
    """Put the limits in front of the views, before anybody looks whether a key exists."""
    throttle = Throttle(settings.ratelimit_storage_uri, hub.aside)
    by_key = parse_many(settings.rate_limit) if settings.rate_limit else []

    @app.before_request
    def admit() -> None:
        call = current()
        if call.endpoint in _LIMITED:
            _admit(call, "guesses", throttle.look(_GUESSES, "guesses", call.address))
        if call.endpoint == _SEND and by_key:
            window = throttle.hit(by_key, "key", _identity(call, doorkeeper))
            call.window = ("key", window)
            _admit(call, "key", window)

    @app.after_request
    def settle(response: Response) -> Response:
        call = current()
        if response.status_code in (401, 404) and call.endpoint in _LIMITED:
            throttle.hit([_GUESSES], "guesses", call.address)
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


def _admit(call: Call, name: str, window: Window) -> None:
    if window.exceeded:
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
