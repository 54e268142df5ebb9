"""An HTTP answer as a value (status, headers, body), for Flask and for granian."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from flask import Response

JSON = ("Content-Type", "application/json")


class Answer:
    """Status, headers and body of an answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Problem(Answer):
    """A refusal as a problem document, with what the log says of it."""

    __slots__ = ("code", "faults", "reason")

    def __init__(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        reason: str = "",
        faults: tuple[tuple[str, str], ...] = (),
        code: str = "",
    ) -> None:
        super().__init__(status, headers, body)
        self.code = code  # the end of its type
        self.reason = reason
        self.faults = faults


def json_answer(
    status: int, document: Mapping[str, object], headers: Iterable[tuple[str, str]] = ()
) -> Answer:
    return Answer(status, [JSON, *headers], (json.dumps(document) + "\n").encode())


class ProblemResponse(Response):
    """Flask's response for a problem that has not been logged yet."""

    problem: Problem


def response_of(answer: Answer) -> Response:
    """Return an answer in Flask's form."""
    return Response(answer.body, answer.status, headers=answer.headers)


def problem_response(problem: Problem) -> ProblemResponse:
    response = ProblemResponse(problem.body, problem.status, headers=problem.headers)
    response.problem = problem
    return response
