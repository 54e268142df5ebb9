"""Finds the API key of a request: `Authorization`, `X-API-Key` or the body, exactly one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postroom.core.errors import MalformedSubmission

if TYPE_CHECKING:
    from postroom.web.api_request import ApiRequest


def header_key(request: ApiRequest) -> str | None:
    """Return the key given in a header, or None. Raises MalformedSubmission for two that differ."""
    bearer = None
    authorization = request.headers.get("authorization", "")
    if authorization[:6].lower() == "bearer":
        bearer = authorization[6:].strip(" ") or None
        if bearer is not None and (authorization[6] != " " or "\t" in bearer):
            message = "must be `Bearer KEY`, with one space"
            raise MalformedSubmission(
                f"the header Authorization {message}", errors=(("Authorization", message),)
            )
    given = request.headers.get("x-api-key") or None
    return _one(bearer, given)


def presented_key(request: ApiRequest, document: dict[str, object]) -> str | None:
    """Return the key of a request that has a JSON body. Raises MalformedSubmission for two that differ, or no string."""
    in_body = document.get("key")
    if in_body is not None and not isinstance(in_body, str):
        raise MalformedSubmission("the key must be a string", errors=(("key", "must be a string"),))
    return _one(header_key(request), in_body or None)


def _one(first: str | None, second: str | None) -> str | None:
    if first is not None and second is not None and first != second:
        message = "two different keys were given; send only one"
        raise MalformedSubmission(message, errors=(("key", message),))
    return first if first is not None else second
