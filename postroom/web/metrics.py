"""`GET /metrics` for Prometheus, with a key of the scope `admin`; and the time and answer of every request, measured."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, has_request_context, request

from postroom.accounts.rights import right_for
from postroom.core.measures import Measures
from postroom.web.admin.call import AdminRequest
from postroom.web.admin.views import MOST_BYTES, answered, route
from postroom.web.answers import Answer, response_of
from postroom.web.api_request import request_of
from postroom.web.services import services
from postroom.web.waits import at_once

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATH: Final = "/metrics"
BEGAN: Final = "postroom.began"  # in the environment of a request: when it came, by the performance counter
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CONTINUE: Final = "100"  # the answer to a look at the key alone
OTHER: Final = "other"  # a route or method that is none of ours: what strangers ask for makes no new series

blueprint = Blueprint("metrics", __name__)


@blueprint.get(PATH)
def metrics() -> Response:
    """Answer a scrape in the format that it accepts."""
    asked = request_of(request)
    asked.has_key_in_header_only = True
    request.max_content_length = MOST_BYTES
    right = right_for(request.method, PATH)
    return response_of(at_once(answered(right, asked, services(), _page)))


def _page(call: AdminRequest) -> Answer:
    page = call.shared.metrics.page(request.headers.get("Accept", ""))
    return Answer(200, [("Content-Type", page.content_type)], page.body)


def note_request(measures: Measures, route: str, method: str, status: int | str, began: float) -> None:
    """Note that a request was answered."""
    known = method if method in _METHODS else OTHER
    measures.count("http_requests_total", route, known, str(status))
    measures.observe("http_request_duration_seconds", time.perf_counter() - began, route)


def measured(environ: WSGIEnvironment, start_response: StartResponse, measures: Measures) -> StartResponse:
    """Have a request to Flask noted when its answer begins, by the route that it has taken."""
    began: float = environ.get(BEGAN) or time.perf_counter()

    def start(status: str, headers: list[tuple[str, str]], *error: object) -> object:
        code = status[:3]
        if code != _CONTINUE:
            known = has_request_context() and request.url_rule is not None
            note_request(measures, route() if known else OTHER, environ["REQUEST_METHOD"], code, began)
        return start_response(status, headers, *error)  # type: ignore[arg-type]

    return start  # type: ignore[return-value]
