"""`POST /send-email`, the original API: parses the request, and makes the answer (202 with request_id)."""

from __future__ import annotations

from postroom.accounts.keys import ApiKeys, Principal
from postroom.core.errors import InvalidSubmission
from postroom.core.message import Accepted, InDoubtPolicy, Submission
from postroom.core.trace_context import parse_traceparent
from postroom.web.answers import JSON, Answer
from postroom.web.api_request import ApiRequest
from postroom.web.doorway import Doorway
from postroom.web.problems import answer_to
from postroom.web.schemas import read_send_request

_LONGEST_IDEMPOTENCY_KEY = 255


def _authenticate(request: ApiRequest, keys: ApiKeys) -> Principal:
    return keys.authenticate(request.key)


def _parse(request: ApiRequest, principal: Principal) -> Submission:
    asked = read_send_request(request.take_document())
    return Submission(
        account=principal.account,
        key=principal.key,
        recipients=(asked.recipient,),
        subject=asked.subject,
        body=asked.body,
        is_html=asked.is_html,
        idempotency_key=_idempotency_key(request),
        traceparent=parse_traceparent(request.headers.get("traceparent")),
        in_doubt=None if asked.in_doubt is None else InDoubtPolicy(asked.in_doubt),
    )


def _idempotency_key(request: ApiRequest) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= _LONGEST_IDEMPOTENCY_KEY:
        raise InvalidSubmission(
            f"must have between 1 and {_LONGEST_IDEMPOTENCY_KEY} characters", field="Idempotency-Key"
        )
    return key


def _answer(accepted: Accepted) -> Answer:
    body = f'{{"message": "Email request is being processed", "request_id": "{accepted.request_id}"}}\n'
    return Answer(202, [JSON], body.encode())


SEND_EMAIL = Doorway("/send-email", _authenticate, _parse, _answer, answer_to)
