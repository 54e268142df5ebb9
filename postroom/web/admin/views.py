"""The views of /v1: for each call the key, its right, what the call takes, and the answer; nothing of a body before that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from flask import Blueprint, Response, request

from postroom.accounts.admin_token import NAME as ADMIN_TOKEN
from postroom.accounts.admin_token import SOURCE
from postroom.accounts.keys import Principal
from postroom.accounts.rights import Right, right_for
from postroom.core.audit import Actor
from postroom.core.errors import NotAuthenticated, NotPermitted
from postroom.store.issued_keys import IssuedKeys
from postroom.web.admin.accounts import ACCOUNT_CALLS
from postroom.web.admin.audit import AUDIT_CALLS
from postroom.web.admin.call import AdminCall, AdminRequest, Reply
from postroom.web.admin.email_lists import EMAIL_LIST_CALLS
from postroom.web.admin.emails import EMAIL_CALLS
from postroom.web.admin.health import HEALTH_CALLS
from postroom.web.admin.keys import KEY_CALLS
from postroom.web.admin.parsing import read_body, read_query
from postroom.web.admin.personal_data import PERSONAL_DATA_CALLS
from postroom.web.admin.pools import POOL_CALLS
from postroom.web.admin.stats import STATS_CALLS
from postroom.web.answers import Answer, json_answer, response_of
from postroom.web.api_request import ApiRequest, request_of
from postroom.web.auth import header_key
from postroom.web.doorway import admit, complete, note_use
from postroom.web.problems import answer_to_call
from postroom.web.rate_limits import Kind
from postroom.web.services import Services, services
from postroom.web.waits import AtOnce, at_once

PREFIX: Final = "/v1/"
ONLY_KEY: Final = "postroom.only_key"  # in the environment of a request whose body is not read yet
CONTINUE: Final = 100  # the status of its answer when the body may be read
MOST_BYTES: Final = 65_536  # of a body
_NO_KEY: Final = (
    "there is no key in this request: give it as `Authorization: Bearer KEY`, or as `X-API-Key: KEY`; "
    "it is not read from the body"
)
CALLS: Final[tuple[AdminCall, ...]] = (
    *EMAIL_LIST_CALLS,
    *STATS_CALLS,
    *EMAIL_CALLS,
    *ACCOUNT_CALLS,
    *HEALTH_CALLS,
    *KEY_CALLS,
    *POOL_CALLS,
    *AUDIT_CALLS,
    *PERSONAL_DATA_CALLS,
)


def views() -> Blueprint:
    """Return the views of the admin API."""
    blueprint = Blueprint("admin", __name__)
    for call in CALLS:
        add_call(blueprint, call)
    blueprint.before_app_request(check_right)
    return blueprint


def add_call(blueprint: Blueprint, call: AdminCall) -> None:
    blueprint.add_url_rule(
        call.path.replace("{", "<").replace("}", ">"),
        call.name,
        view_of(call),
        methods=[call.method],
        provide_automatic_options=False,
    )


def check_right() -> None:
    """Refuse a route under /v1 that the table of rights lacks, before any view. Raises NotPermitted."""
    if request.url_rule is not None and request.path.startswith(PREFIX):
        right_for(request.method, route())


def route() -> str:
    """Return the path of the present request's route, as the table of rights has it."""
    assert request.url_rule is not None
    return request.url_rule.rule.replace("<", "{").replace(">", "}")


def view_of(call: AdminCall) -> Callable[..., Response]:
    def view(**named: str) -> Response:
        shared, asked = services(), request_of(request)
        asked.has_key_in_header_only = True
        request.max_content_length = MOST_BYTES
        right = right_for(call.method, call.path)

        def handle(made: AdminRequest) -> Answer:
            return _document(_handled(call, made, asked))

        return response_of(at_once(answered(right, asked, shared, handle, named.get("id", ""))))

    return view


async def answered(
    right: Right, asked: ApiRequest, shared: Services, handle: Callable[[AdminRequest], Answer], id_: str = ""
) -> Answer:
    """Answer a call by `handle`, once its key was found to have the right; a refusal is in the audit."""
    waits = AtOnce(shared.store)
    answer: Answer
    try:
        await admit(asked, Kind.STATUS, shared, waits)
        principal = authenticate(asked, right, shared)
        if ONLY_KEY in request.environ:
            return Answer(CONTINUE, [], b"")
        made = AdminRequest(shared, principal, actor_of(principal, asked, shared), id_)
        answer = handle(made)
        if principal.is_new:
            await note_use(principal, shared, waits)
    except Exception as error:
        if isinstance(error, (NotAuthenticated, NotPermitted)):
            _note_refusal(right, asked, shared)
        answer = answer_to_call(error)
    return await complete(asked, answer, shared, waits)


def _handled(call: AdminCall, made: AdminRequest, asked: ApiRequest) -> Reply:
    taken = read_body(call, asked) if call.has_body else read_query(call, request)
    return call.handle(made, taken)


def authenticate(asked: ApiRequest, right: Right, shared: Services) -> Principal:
    """Return whose key is in the headers. Raises NotAuthenticated, and NotPermitted where it lacks the right."""
    key = header_key(asked)
    if key is None:
        raise NotAuthenticated(_NO_KEY, field="key")
    shared.keys.refresh(time.monotonic())  # what was revoked elsewhere is known before anything is said
    principal = shared.keys.authenticate(key)
    asked.account = principal.owner.email if principal.owner else _name_of(principal, shared)
    principal.key.check_source(asked.address)
    right.check(principal.key)
    return principal


def actor_of(principal: Principal, asked: ApiRequest, shared: Services) -> Actor:
    return Actor(_name_of(principal, shared), asked.address, principal.key.scopes)


def _name_of(principal: Principal, shared: Services) -> str:
    """Return how the audit names a key. One that only has the admin token's name is a key like others."""
    key = principal.key
    if key.name == ADMIN_TOKEN and key.uid is not None:
        stored = shared.store.read(IssuedKeys.by_uid, key.uid)
        if stored is not None and stored.source == SOURCE:
            return ADMIN_TOKEN
    return f"key {key.name}" if key.name else "key of data.csv"


def _note_refusal(right: Right, asked: ApiRequest, shared: Services) -> None:
    actor = Actor(asked.account or "unknown key", asked.source, frozenset())
    shared.refused_calls.note(shared.store, actor, f"{right.method} {right.path}", shared.clock)


def _document(reply: Reply) -> Answer:
    if reply.document is None:
        return Answer(reply.status, [], b"")
    return json_answer(reply.status, reply.document.model_dump(mode="json", by_alias=True))
