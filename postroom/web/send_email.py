"""The seed's two calls."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from flask import Blueprint, Response, current_app

from postroom.accounts.keys import ApiKeys, Principal
from postroom.core import failpoint
from postroom.core.clock import Clock, rfc3339
from postroom.core.errors import InvalidSubmission, NotFound, PostroomError
from postroom.core.message import InDoubtPolicy, Submission
from postroom.core.text import printable
from postroom.intake.accept import accept
from postroom.intake.disk_share import DiskShares
from postroom.settings import Settings
from postroom.store.messages import Messages
from postroom.store.store import Store
from postroom.store.transaction import Transaction
from postroom.store.writer import Work
from postroom.web.api_request import ApiRequest, current
from postroom.web.auth import header_key
from postroom.web.hub import Hub
from postroom.web.schemas import read_send_request

T = TypeVar("T")
blueprint = Blueprint("api", __name__)

_LONGEST_IDEMPOTENCY_KEY = 255
_REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Services:
    """What the views work with."""

    settings: Settings
    store: Store
    keys: ApiKeys
    clock: Clock
    hub: Hub
    shares: DiskShares


def services() -> Services:
    return cast("Services", current_app.extensions["postroom"])


@blueprint.post("/send-email")
def send_email() -> Response:
    """Accept a mail. The route is for 405 and its `Allow`: a POST takes the short way (`web.Application`)."""
    return accept_mail(services(), current())


def accept_mail(shared: Services, call: ApiRequest) -> Response:
    """Accept the mail of a request: answer with its id once it is durable."""
    principal = shared.keys.authenticate(call.key)
    account = principal.account
    call.account = account.email
    asked = read_send_request(call.take_document())
    submission = Submission(
        account=account,
        recipients=(asked.recipient,),
        subject=asked.subject,
        body=asked.body,
        is_html=asked.is_html,
        idempotency_key=_idempotency_key(call),
        in_doubt=None if asked.in_doubt is None else InDoubtPolicy(asked.in_doubt),
    )
    accepted = accept(
        shared.store,
        submission,
        most_bytes=shared.settings.max_message_bytes,
        disk_reserve=shared.settings.disk_reserve,
        shares=shared.shares,
        clock=shared.clock,
        write=_write_and_note_use(shared, principal),
        compute=partial(shared.hub.compute, f"account {account.id}"),
    )
    answer = _json(202, {"message": "Email request is being processed", "request_id": accepted.request_id})
    answer.call_on_close(_answered)
    return answer


def _write_and_note_use(shared: Services, principal: Principal) -> Callable[[Work[T]], T]:
    """Return what commits an acceptance, along with the first use of its key."""
    if not principal.is_new:
        return shared.hub.write

    def write(work: Work[T]) -> T:
        def both(transaction: Transaction) -> T:
            transaction.keys.note_used(principal.digest, shared.clock())
            return work(transaction)

        found = shared.hub.write(both)
        shared.keys.note_used(principal.digest)
        return found

    return write


def _note_use(shared: Services, principal: Principal) -> None:
    """Store the first use of a key where nothing else is written; what fails is tried at the next use."""
    with suppress(PostroomError):
        _write_and_note_use(shared, principal)(lambda transaction: None)


def _answered() -> None:
    failpoint.hit("accept.answered")


@blueprint.get("/email-status/<request_id>")
def email_status(request_id: str) -> Response:
    """Say what became of a mail. Its id is enough to ask; a key narrows it to the key's own mail."""
    shared = services()
    key = header_key(current())
    principal = shared.keys.authenticate(key) if key is not None else None
    request_id = request_id.lower()
    status = None
    if _REQUEST_ID.fullmatch(request_id):  # what cannot be one the database need not be asked for
        status = shared.hub.read(lambda: shared.store.read(Messages.status, request_id))
    if status is None or (principal is not None and principal.account.id != status.account_id):
        raise NotFound("there is no mail with this request_id", field="request_id")
    if principal is not None and principal.is_new:
        _note_use(shared, principal)
    answer: dict[str, Any] = {"request_id": status.request_id, "status": printable(str(status))}
    if status.possible_duplicate:
        answer["possible_duplicate"] = True
    if status.will_send_at is not None and status.will_send_at > shared.clock():
        answer["will_send_at"] = rfc3339(status.will_send_at)
    return _json(200, answer)


def _idempotency_key(call: ApiRequest) -> str | None:
    key = call.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= _LONGEST_IDEMPOTENCY_KEY:
        raise InvalidSubmission(
            f"must have between 1 and {_LONGEST_IDEMPOTENCY_KEY} characters", field="Idempotency-Key"
        )
    return key


def _json(status: int, document: dict[str, Any]) -> Response:
    return Response(json.dumps(document) + "\n", status, content_type="application/json")
