"""Turns every refusal into an RFC 9457 problem document: one table of types and statuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from postroom.core.errors import (
    CommitUnknown,
    Conflict,
    DiskFull,
    InvalidSubmission,
    LimiterUnavailable,
    MalformedSubmission,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    QuotaExceeded,
    Rejected,
    ReplacedSinceCommit,
    StoreError,
    StoreUnavailable,
    TooLarge,
)
from postroom.core.text import printable
from postroom.telemetry.incident import report
from postroom.web.answers import Problem, problem_response
from postroom.web.upload import Overloaded

log = logging.getLogger(__name__)

_TABLE: tuple[tuple[type[Rejected], int, str], ...] = (
    (MalformedSubmission, 400, "The request cannot be read"),
    (NotAuthenticated, 401, "The key is missing or unknown"),
    (NotPermitted, 403, "This key may not do that"),
    (NotFound, 404, "Not found"),
    (Conflict, 409, "What is there stands against it"),
    (TooLarge, 413, "The message is too large"),
    (InvalidSubmission, 422, "The message cannot be sent as it is"),
    (QuotaExceeded, 429, "Too many requests"),
)
_HINTS = {
    404: "there is no such address here; POST /send-email sends a message, GET /docs shows all calls, "
    "GET /openapi.json describes them",
    413: "the request is larger than this service takes",
}
_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}
_MAY_BE_SENT = (
    "the database was lost while it stored the message, which may or may not be sent; with an Idempotency-Key the "
    "same request can be repeated safely after"
)
# What is said of a message, and instead where a call is about something else.
_OF_CALLS = (
    ("The message cannot be sent as it is", "A value cannot be used as it is"),
    ("The message is too large", "The request is too large"),
    ("The message could not be stored safely", "The database cannot be used just now"),
    ("It is not known whether the message was stored", "It is not known whether the change was stored"),
    (
        _MAY_BE_SENT,
        "the database was lost while it stored the change; read what there is, and repeat the call if needed, after",
    ),
    ("nothing was accepted; what was accepted before is still sent", "nothing was changed"),
    ("nothing was accepted", "nothing was changed"),
)
_KEPT_HEADERS = ("Accept-Encoding", "Allow", "Retry-After", "WWW-Authenticate")
_BUSY_FOR_S = 10
_CONTENT_TYPE = ("Content-Type", "application/problem+json")


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    errors: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Problem:
    """Build a problem document; `errors` are (field, message) pairs."""
    faults, code = tuple(errors), code.replace("_", "-")
    document: dict[str, object] = {
        "type": f"urn:problem:postroom:{code}",
        "title": title,
        "status": status,
        "detail": printable(detail),
        "errors": [{"field": printable(field), "message": printable(message)} for field, message in faults],
    }
    body = (json.dumps(document) + "\n").encode()
    return Problem(status, [_CONTENT_TYPE, *(headers or {}).items()], body, detail, faults, code)


def too_slow(seconds: float) -> Problem:
    """Answer a client whose request has a body that does not arrive."""
    detail = f"the body of the request did not arrive within {seconds:g} seconds"
    return problem(408, "request_timeout", "The request is too slow", detail)


def unreadable(detail: str) -> Problem:
    """Answer a request whose head is not HTTP, or whose body was cut off."""
    return _on_rejected(MalformedSubmission(detail))


def too_long(status: int, detail: str) -> Problem:
    """Answer a request with an address (414) or a header (431) that is longer than anybody needs."""
    return problem(status, "head_too_large", "The head of the request is too large", detail)


def overloaded() -> Problem:
    """Answer a request that waited for its turn until a proxy would give it up."""
    log.warning("refused: too many large requests are under way")
    return problem(
        503,
        "overloaded",
        "Too many large requests are under way",
        "nothing was accepted; try again after the time in Retry-After (seconds)",
        headers={"Retry-After": str(_BUSY_FOR_S)},
    )


def _on_rejected(error: Rejected) -> Problem:
    status, title = next((row[1], row[2]) for row in _TABLE if isinstance(error, row[0]))
    errors = error.errors if isinstance(error, MalformedSubmission) else ()
    if not errors and error.field:
        errors = ((error.field, str(error)),)
    headers = {}
    if isinstance(error, QuotaExceeded):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="postroom"'
    return problem(status, error.code, title, str(error), errors=errors, headers=headers)


def _on_http(error: HTTPException) -> Problem:
    status = error.code or 500
    headers = {name: value for name, value in error.get_headers() if name in _KEPT_HEADERS}
    detail = _HINTS.get(status) or error.description or error.name
    code = _CODES.get(status, "http_error")
    return problem(status, code, error.name, detail, headers=headers)


def _on_unavailable(error: StoreUnavailable) -> Problem:
    log.error("not durable: %s", error)
    return problem(
        503,
        "store_unavailable",
        "The message could not be stored safely",
        "nothing was accepted; try again after the time in Retry-After (seconds)",
        headers={"Retry-After": str(error.retry_after)},
    )


def _on_unknown(error: CommitUnknown | ReplacedSinceCommit) -> Problem:
    log.error("not known to be durable: %s", error)
    return problem(
        503,
        "store_unavailable",
        "It is not known whether the message was stored",
        f"{_MAY_BE_SENT} the time in Retry-After (seconds)",
        headers={"Retry-After": str(error.retry_after)},
    )


def _on_disk_full(error: DiskFull) -> Problem:
    log.error("not accepted: %s", error)
    return problem(
        503,
        "store_unavailable",
        "The disk of this service is nearly full",
        "nothing was accepted; what was accepted before is still sent. Try again after the time in Retry-After (seconds)",
        headers={"Retry-After": str(error.retry_after)},
    )


def _on_uncounted(error: LimiterUnavailable) -> Problem:
    log.warning("refused: %s", error)
    return problem(
        503,
        "limiter_unavailable",
        "Requests cannot be counted just now",
        "nothing was accepted; try again after the time in Retry-After (seconds)",
        headers={"Retry-After": str(error.retry_after)},
    )


def _on_store_error(error: StoreError) -> Problem:
    log.error("the store failed: %s", error, exc_info=error)
    return _on_unavailable(StoreUnavailable(retry_after=30))


def _on_surprise(error: Exception) -> Problem:
    incident = report(log, "a request failed", error)
    return problem(
        500,
        "internal_error",
        "Something is wrong with this service",
        f"nothing was accepted; the operator finds the details in the service's own log, under incident {incident}",
    )


_HANDLERS: tuple[tuple[type[Exception], Callable[..., Problem]], ...] = (
    (Rejected, _on_rejected),
    (LimiterUnavailable, _on_uncounted),
    (HTTPException, _on_http),
    (CommitUnknown, _on_unknown),
    (ReplacedSinceCommit, _on_unknown),
    (DiskFull, _on_disk_full),
    (StoreUnavailable, _on_unavailable),
    (StoreError, _on_store_error),
    (Overloaded, lambda error: overloaded()),
    (Exception, _on_surprise),
)


def answer_to(error: Exception) -> Problem:
    """Turn any error into its problem document. The error ends here, with all that its traceback holds."""
    answer = next(handle for kind, handle in _HANDLERS if isinstance(error, kind))(error)
    forget_frames(error)
    return answer


def answer_to_call(error: Exception) -> Problem:
    """Turn an error of a call that sends no message into its problem document."""
    answer = answer_to(error)
    document = json.loads(answer.body)
    for said, instead in _OF_CALLS:
        document["title"] = document["title"].replace(said, instead)
        document["detail"] = document["detail"].replace(said, instead)
    answer.body, answer.reason = (json.dumps(document) + "\n").encode(), document["detail"]
    return answer


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error and of those that it came from.

    Their frames hold the request, its body and often a future that holds the error: rings that only the collector finds.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            waiting += [each.__cause__, each.__context__]


def install(app: Flask) -> None:
    """Make every error of the application a problem document."""

    def answered(error: Exception) -> Response:
        return problem_response((answer_to_call if request.path.startswith("/v1/") else answer_to)(error))

    app.register_error_handler(Exception, answered)
