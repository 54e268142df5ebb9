"""Rate limits: requests to send by key, and wrong guesses by address (Flask-Limiter)."""

from __future__ import annotations

import logging
import time
from typing import Any

from flask import Flask, Response
from flask_limiter import Limiter, RequestLimit
from flask_limiter.util import get_remote_address

from postroom.config import Settings
from postroom.web import api

log = logging.getLogger(__name__)

# Somebody who tries keys or ids is slowed down long before chance helps him; a client with a typo is not.
_GUESSES = "60/minute"
_STORAGE_PATIENCE_S = 1.0


def install_limits(app: Flask, settings: Settings) -> None:
    """Put the limits in front of the views. With the storage away, each process counts by itself."""
    limiter = Limiter(
        get_remote_address,
        app=app,
        storage_uri=settings.ratelimit_storage_uri,
        storage_options=_storage_options(settings.ratelimit_storage_uri),
        strategy="fixed-window",
        in_memory_fallback_enabled=True,
        swallow_errors=True,  # of the requests under way when the storage goes, only one falls back; the others pass
        fail_on_first_breach=True,
        key_prefix="postroom",
    )
    for endpoint in ("api.send_email", "api.email_status"):
        view: Any = app.view_functions[endpoint]
        view = limiter.shared_limit(_GUESSES, scope="guesses", deduct_when=_was_a_guess)(view)
        if settings.rate_limit and endpoint == "api.send_email":
            view = limiter.limit(settings.rate_limit, key_func=_by_key)(view)
        app.view_functions[endpoint] = view

    @app.after_request
    def say_limits(response: Response) -> Response:
        limit = limiter.current_limit
        if limit is not None and (limit.breached or not limit.shared):
            _add_headers(response, limit)
        return response


def _storage_options(uri: str) -> dict[str, Any]:
    """A limiter's server that is down must not hold up a request for longer than this."""
    if uri.startswith("redis"):
        return {"socket_connect_timeout": _STORAGE_PATIENCE_S, "socket_timeout": _STORAGE_PATIENCE_S}
    if uri.startswith("memcached"):
        return {"connect_timeout": _STORAGE_PATIENCE_S, "timeout": _STORAGE_PATIENCE_S}
    return {}


def _was_a_guess(response: Response) -> bool:
    return response.status_code in (401, 404)


def _by_key() -> str:
    """Count by key, before anybody looks whether it exists; without one, by address."""
    key = api.current_key()
    return get_remote_address() if key is None else api.services().doorkeeper.bucket(key)


def _add_headers(response: Response, limit: RequestLimit) -> None:
    """Say policy, rest and time to the next window (draft-ietf-httpapi-ratelimit-headers); all times in seconds."""
    try:
        remaining, reset_at = limit.remaining, limit.reset_at
    except Exception as error:  # whatever the storage raises, the answer must go out
        log.warning("the rate limiter's storage did not answer: %s", error)
        return
    wait = max(1, round(reset_at - time.time()))
    name = "guesses" if limit.shared else "key"
    response.headers["RateLimit-Policy"] = f'"{name}";q={limit.limit.amount};w={limit.limit.get_expiry()}'
    response.headers["RateLimit"] = f'"{name}";r={max(0, remaining)};t={wait}'
    if response.status_code == 429:
        response.headers["Retry-After"] = str(wait)
