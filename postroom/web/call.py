"""A request under way, with what several layers ask of it read once: its document, its key, its rate limit."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

from flask import Request, request

from postroom.web.auth import presented_key
from postroom.web.body import read_json
from postroom.web.throttle import Window


class Call(Request):
    """A request to this service. `window` is the named rate limit that its answer tells of."""

    window: tuple[str, Window] | None = None

    @cached_property
    def document(self) -> dict[str, Any]:
        """The JSON body. Raises MalformedSubmission, UnsupportedMediaType or RequestEntityTooLarge."""
        return read_json(self)

    @cached_property
    def key(self) -> str | None:
        """The API key in header or body, or None. Raises what `document` raises, and for two keys that differ."""
        return presented_key(self, self.document)

    @property
    def address(self) -> str:
        """Where the request comes from, for counting."""
        return self.remote_addr or "unknown"


def current() -> Call:
    """Return the request itself, not Flask's stand-in for it, which costs a look-up at every use."""
    return cast("Call", request._get_current_object())  # type: ignore[attr-defined]
