"""The seed's two calls."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from flask import Blueprint, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from postroom.accept import accept
from postroom.config import Settings
from postroom.errors import InvalidSubmission, NotFound, PostroomError
from postroom.failpoint import passing
from postroom.model import Clock, Submission
from postroom.store import Store
from postroom.web.auth import Doorkeeper, header_key, presented_key
from postroom.web.body import read_json, read_send_request

blueprint = Blueprint("api", __name__)

_LONGEST_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True, slots=True)
class Services:
    """What the views work with."""

    settings: Settings
    store: Store
    doorkeeper: Doorkeeper
    clock: Clock


def services() -> Services:
    return cast("Services", current_app.extensions["postroom"])


@blueprint.post("/send-email")
def send_email() -> Response:
    """Accept a mail: answer with its id once it is durable."""
    shared = services()
    document = _document()
    account = shared.doorkeeper.account(presented_key(request, document))
    asked = read_send_request(document)
    submission = Submission(
        account=account,
        recipients=(asked.recipient,),
        subject=asked.subject,
        body=asked.body,
        is_html=asked.is_html,
        idempotency_key=_idempotency_key(),
    )
    accepted = accept(
        shared.store, submission, most_bytes=shared.settings.max_message_bytes, clock=shared.clock
    )
    answer = _json(202, {"message": "Email request is being processed", "request_id": accepted.request_id})
    answer.call_on_close(_answered)
    return answer


def _answered() -> None:
    passing("accept.answered")


@blueprint.get("/email-status/<request_id>")
def email_status(request_id: str) -> Response:
    """Say what became of a mail. Its id is enough to ask; a key narrows it to the key's own mail."""
    shared = services()
    key = header_key(request)
    account = shared.doorkeeper.account(key) if key is not None else None
    status = shared.store.status(request_id.lower())
    if status is None or (account is not None and account.id != status.account_id):
        raise NotFound("there is no mail with this request_id", field="request_id")
    answer: dict[str, Any] = {"request_id": status.request_id, "status": str(status)}
    if status.possible_duplicate:
        answer["possible_duplicate"] = True
    return _json(200, answer)


def current_key() -> str | None:
    """Return the key of the request under way, or None where there is none or the body cannot be read."""
    try:
        return presented_key(request, _document())
    except (PostroomError, HTTPException):
        return None


def _document() -> dict[str, Any]:
    """Return the JSON body, read once for each request."""
    if "document" not in g:
        g.document = read_json(request)
    return cast("dict[str, Any]", g.document)


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= _LONGEST_IDEMPOTENCY_KEY:
        raise InvalidSubmission(
            f"must have between 1 and {_LONGEST_IDEMPOTENCY_KEY} characters", field="Idempotency-Key"
        )
    return key


def _json(status: int, document: dict[str, Any]) -> Response:
    return Response(json.dumps(document) + "\n", status, content_type="application/json")
