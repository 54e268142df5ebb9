"""`Answer`: what one way has said to one notice."""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    """Whether a way has taken a notice, and its words, with no secret in them."""

    taken: bool
    words: str
    request_id: str | None = None  # of a notice that is a message
