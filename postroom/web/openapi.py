"""Describes the API as an OpenAPI 3.1 document, from the models that validate and the table of rights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from postroom import __version__
from postroom.accounts.rights import Right, right_for
from postroom.web.admin.call import AdminCall, AnswerModel
from postroom.web.schemas import SendRequest

Document: TypeAlias = dict[str, object]

_REF: Final = "#/components/schemas/{model}"
_REFUSALS: Final = {
    400: "The request cannot be read",
    401: "The key is missing or unknown",
    403: "The key may not do that",
    404: "There is nothing here by that id",
    405: "There is no such method here",
    408: "The body did not arrive in time",
    409: "What is there stands against it",
    413: "The request or the message is too large",
    414: "The address is too long",
    415: "The body is no JSON",
    422: "A value cannot be used as it is",
    429: "Too many requests, or a limit is reached",
    431: "A header is too long",
    500: "A fault of the service",
    503: "Not now: nothing was done",
}
_OF_EVERY_CALL: Final = (400, 401, 403, 414, 429, 431, 500, 503)
_OF_BODIES: Final = (408, 413, 415, 422)


class FieldFault(AnswerModel):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemDocument(AnswerModel):
    """A refusal (RFC 9457). `type` is for programs, the rest for people."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldFault]


class AcceptedAnswer(AnswerModel):
    """The message is stored."""

    message: str
    request_id: str


class StatusAnswer(AnswerModel):
    """What became of a message."""

    request_id: str
    status: str = Field(description="queued, sending, deferred (reason), sent, failed (reason) or cancelled")
    test: bool = Field(default=False, description="It goes to the built-in inbox alone")
    possible_duplicate: bool = Field(default=False, description="It may have been sent twice")
    will_send_at: str | None = Field(default=None, description="Until when it waits")


def document(calls: Iterable[AdminCall]) -> Document:
    """Return the document: the original calls, and those of the admin API."""
    calls = tuple(calls)
    schemas = _schemas(calls)
    paths: dict[str, Document] = {
        "/send-email": {"post": _send_email()},
        "/email-status/{request_id}": {"get": _email_status()},
        "/metrics": {"get": _metrics()},
    }
    for call in calls:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, schemas)
    bodies = {call.takes.__name__ for call in calls if call.has_body}
    queries = {call.takes.__name__ for call in calls} - bodies
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Postroom",
            "version": __version__,
            "description": "Sends email through mailboxes that you own. Errors are problem documents (RFC 9457).",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "./"}],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in schemas.items() if name not in queries},
            "responses": {str(status): _problem(words) for status, words in _REFUSALS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _schemas(calls: Iterable[AdminCall]) -> dict[str, Document]:
    taken: set[type[BaseModel]] = {SendRequest, *(call.takes for call in calls)}
    answered: set[type[BaseModel]] = {ProblemDocument, AcceptedAnswer, StatusAnswer}
    answered.update(model for call in calls for model in call.answers.values() if model is not None)
    ordered = sorted(taken, key=lambda model: model.__name__)
    shown = sorted(answered, key=lambda model: model.__name__)
    _, found = models_json_schema(
        [*((model, "validation") for model in ordered), *((model, "serialization") for model in shown)],
        ref_template=_REF,
    )
    definitions: dict[str, Document] = found["$defs"]
    return definitions


def _operation(call: AdminCall, schemas: Mapping[str, Document]) -> Document:
    statuses = {*_OF_EVERY_CALL, *call.refusals}
    parameters: list[Document] = []
    made: Document = {"operationId": call.name, "summary": call.says}
    if "{id}" in call.path:
        statuses.add(404)
        parameters.append(
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        )
    if call.has_body:
        statuses.update(_OF_BODIES)
        needs_body = bool(call.takes.model_fields)
        made["requestBody"] = _body(call.takes.__name__, required=needs_body)
    else:
        statuses.add(422)
        parameters += _query(schemas[call.takes.__name__])
    if parameters:
        made["parameters"] = parameters
    made["responses"] = {
        **{str(status): _answer(model) for status, model in call.answers.items()},
        **_refusals(statuses),
    }
    made["security"] = _security(right_for(call.method, call.path))
    return made


def _query(schema: Document) -> list[Document]:
    properties = schema.get("properties", {})
    assert isinstance(properties, dict)
    return [_parameter(name, dict(each)) for name, each in properties.items()]


def _parameter(name: str, schema: Document) -> Document:
    """Return a parameter of the query. It is left out where a body would say null."""
    options = schema.pop("anyOf", None)
    if isinstance(options, list):
        schema.pop("default", None)
        schema = {**schema, **options[0]}
    said = schema.pop("description", None)
    made: Document = {"name": name, "in": "query", "required": False, "schema": schema}
    return made if said is None else {**made, "description": said}


def _body(model: str, *, required: bool) -> Document:
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}
    return {"required": required, "content": content}


def _answer(model: type[AnswerModel] | None) -> Document:
    if model is None:
        return {"description": "Done"}
    said = (model.__doc__ or "").split("\n")[0]
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
    return {"description": said, "content": content}


def _refusals(statuses: Iterable[int]) -> Document:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}


def _problem(words: str) -> Document:
    content = {"application/problem+json": {"schema": {"$ref": _REF.format(model="ProblemDocument")}}}
    return {"description": words, "content": content}


def _security(right: Right) -> list[Document]:
    """Return what a call needs by the table of rights; the roles are scopes."""
    scopes = [right.scope.value]
    return [{"bearer": scopes}, {"header": scopes}, *([] if right.needs_key else [{}])]


def _send_email() -> Document:
    return {
        "operationId": "sendEmail",
        "summary": "Send a message",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                "description": "The same request with the same key is stored once",
            }
        ],
        "requestBody": _body(SendRequest.__name__, required=True),
        "responses": {
            "202": _answer(AcceptedAnswer),
            **_refusals({*_OF_EVERY_CALL, *_OF_BODIES}),
        },
        # The key may be in the body.
        "security": [*_security(right_for("POST", "/send-email")), {}],
    }


def _email_status() -> Document:
    path = "/email-status/{request_id}"
    schema = {"type": "string", "format": "uuid"}
    return {
        "operationId": "emailStatus",
        "summary": "Say what became of a message",
        "parameters": [{"name": "request_id", "in": "path", "required": True, "schema": schema}],
        "responses": {"200": _answer(StatusAnswer), **_refusals({*_OF_EVERY_CALL, 404})},
        "security": _security(right_for("GET", path)),
    }


def _metrics() -> Document:
    said = "Metrics for Prometheus, as text or, where `Accept` asks for it, as OpenMetrics"
    return {
        "operationId": "metrics",
        "summary": "Tell how the service is doing",
        "responses": {
            "200": {"description": said, "content": {"text/plain": {"schema": {"type": "string"}}}},
            **_refusals(_OF_EVERY_CALL),
        },
        "security": _security(right_for("GET", "/metrics")),
    }
