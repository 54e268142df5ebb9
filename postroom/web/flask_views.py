"""Doorways as Flask views, for any WSGI server; and `GET /email-status/<id>`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from flask import Blueprint, Response, request

from postroom.accounts.keys import Principal
from postroom.core import failpoint
from postroom.core.api_key import ALL_MESSAGES, Scope, sight_of
from postroom.core.clock import Instant, rfc3339
from postroom.core.errors import NotFound
from postroom.core.message import MessageStatus
from postroom.core.text import printable
from postroom.store.issued_keys import check_works
from postroom.store.transaction import Transaction
from postroom.web.answers import Answer, json_answer, response_of
from postroom.web.api_request import ApiRequest, request_of
from postroom.web.auth import header_key
from postroom.web.doorway import Doorway, admit, complete, note_use, run
from postroom.web.problems import answer_to
from postroom.web.rate_limits import Kind
from postroom.web.services import Services, services
from postroom.web.waits import AtOnce, at_once

_REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def views(doorways: Iterable[Doorway]) -> Blueprint:
    """Return the views of the original API."""
    blueprint = Blueprint("api", __name__)
    for doorway in doorways:
        blueprint.add_url_rule(doorway.path, doorway.path[1:], view_of(doorway), methods=["POST"])
    blueprint.add_url_rule("/email-status/<request_id>", "email_status", email_status, methods=["GET"])
    return blueprint


def view_of(doorway: Doorway) -> Callable[[], Response]:
    """Return the view of a doorway: the runner that waits for the commit in its own thread."""

    def view() -> Response:
        shared = services()
        answer = at_once(run(doorway, request_of(request), shared, AtOnce(shared.store)))
        response = response_of(answer)
        response.call_on_close(_answered)
        return response

    return view


def _answered() -> None:
    failpoint.hit("accept.answered")


def email_status(request_id: str) -> Response:
    """Say what became of a message. Its id is enough to ask; a key narrows it to the key's own messages."""
    shared, asked = services(), request_of(request)
    return response_of(at_once(_status(asked, request_id.lower(), shared, AtOnce(shared.store))))


async def _status(asked: ApiRequest, request_id: str, shared: Services, waits: AtOnce) -> Answer:
    answer: Answer
    try:
        await admit(asked, Kind.STATUS, shared, waits)
        answer = await _found(asked, request_id, shared, waits)
    except Exception as error:
        answer = answer_to(error)
    return await complete(asked, answer, shared, waits)


def _status_for(
    transaction: Transaction, request_id: str, principal: Principal | None, now: Instant
) -> MessageStatus | None:
    """Return the status of a message, if a key that is given may read it. Raises KeyStopped for one that works no more."""
    if principal is not None:
        check_works(transaction, principal.key, now)
    return transaction.messages.status(request_id, sight_of(principal.key) if principal else ALL_MESSAGES)


async def _found(asked: ApiRequest, request_id: str, shared: Services, waits: AtOnce) -> Answer:
    key = header_key(asked)
    principal = shared.keys.authenticate_now(key) if key is not None else None
    if principal is not None:
        principal.key.check_source(asked.address)
        principal.key.check_scope(Scope.READ)
    status = None
    if _REQUEST_ID.fullmatch(request_id):  # what cannot be one the database need not be asked for
        status = shared.store.read(_status_for, request_id, principal, shared.clock())
    if status is None:
        raise NotFound("there is no message with this request_id", field="request_id")
    if principal is not None and principal.is_new:
        await note_use(principal, shared, waits)
    answer: dict[str, object] = {"request_id": status.request_id, "status": printable(str(status))}
    if principal is not None and principal.key.pool_id is not None:
        answer["sender"] = status.sender
    if status.is_test:
        answer["test"] = True
    if status.possible_duplicate:
        answer["possible_duplicate"] = True
    if status.will_send_at is not None and status.will_send_at > shared.clock():
        answer["will_send_at"] = rfc3339(status.will_send_at)
    return json_answer(200, answer)
