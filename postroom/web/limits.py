"""Rate limits: requests to send by key, and wrong guesses by address."""

from __future__ import annotations

from flask import Flask, Response, g, request
from limits import RateLimitItem, RateLimitItemPerMinute, parse_many

from postroom.config import Settings
from postroom.errors import QuotaExceeded
from postroom.web import api
from postroom.web.throttle import Throttle, Window

# Somebody who tries keys or ids is slowed down long before chance helps him; a client with a typo is not.
_GUESSES = RateLimitItemPerMinute(60)
_SEND, _STATUS = "api.send_email", "api.email_status"


def install_limits(app: Flask, settings: Settings) -> None:
    """Put the limits in front of the views, before anybody looks whether a key exists."""
    throttle = Throttle(settings.ratelimit_storage_uri)
    by_key = parse_many(settings.rate_limit) if settings.rate_limit else []

    @app.before_request
    def admit() -> None:
        if request.endpoint in (_SEND, _STATUS):
            _admit("guesses", throttle.look(_GUESSES, "guesses", _address()))
        if request.endpoint == _SEND and by_key:
            _count(throttle, by_key)

    @app.after_request
    def settle(response: Response) -> Response:
        if response.status_code in (401, 404) and request.endpoint in (_SEND, _STATUS):
            throttle.hit([_GUESSES], "guesses", _address())
        found: tuple[str, Window] | None = g.get("window")
        if found is not None:
            _add_headers(response, *found)
        return response


def _count(throttle: Throttle, by_key: list[RateLimitItem]) -> None:
    """Count the request by its key, known or not; by address where it has none."""
    key = api.current_key()
    identity = _address() if key is None else api.services().doorkeeper.bucket(key)
    window = throttle.hit(by_key, "key", identity)
    g.window = ("key", window)
    _admit("key", window)


def _admit(name: str, window: Window) -> None:
    if window.exceeded:
        g.window = (name, window)
        raise QuotaExceeded(
            f"the limit is {window.limit}; wait for the time in Retry-After (seconds), then go on",
            retry_after=window.wait,
        )


def _address() -> str:
    return request.remote_addr or "unknown"


def _add_headers(response: Response, name: str, window: Window) -> None:
    """Say policy, rest and seconds to the next window (draft-ietf-httpapi-ratelimit-headers)."""
    limit = window.limit
    response.headers["RateLimit-Policy"] = f'"{name}";q={limit.amount};w={limit.get_expiry()}'
    response.headers["RateLimit"] = f'"{name}";r={window.remaining};t={window.wait}'
