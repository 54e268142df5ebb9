"""Reads what a call takes, from the body or the query, into its model; every fault names its field."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Request
from pydantic import ValidationError

from postroom.core.errors import InvalidSubmission, MalformedSubmission
from postroom.web.admin.call import AdminCall, RequestModel
from postroom.web.api_request import ApiRequest
from postroom.web.head import length_of

_LONGEST_NAME = 100
_WORDS = {
    "missing": "this field is required",
    "string_type": "must be a string",
    "string_unicode": "must be a string of whole Unicode characters (it holds half a surrogate pair)",
    "string_pattern_mismatch": "has characters that it may not have, or lacks some that it needs",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "list_type": "must be a list",
}


def read_body(call: AdminCall, asked: ApiRequest) -> RequestModel:
    """Return the body. A call without fields needs none. Raises MalformedSubmission, and what reading raises."""
    if not call.takes.model_fields and length_of(asked.head) == 0:
        return call.takes()
    return _checked(call.takes, asked.take_document(), from_text=False)


def read_query(call: AdminCall, request: Request) -> RequestModel:
    """Return the query. Raises MalformedSubmission."""
    args = request.args
    twice = [name for name in args if len(args.getlist(name)) > 1]
    if twice:
        raise MalformedSubmission(
            "a parameter is given twice", errors=((_shown(twice[0]), "is given more than once"),)
        )
    return _checked(call.takes, args.to_dict(), from_text=True)


def _checked(model: type[RequestModel], document: Mapping[str, object], *, from_text: bool) -> RequestModel:
    try:
        if from_text:
            return model.model_validate_strings(document, strict=False)
        return model.model_validate(document)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        known = ", ".join(model.model_fields) or "none"
        first = faults[0]
        if all(str(fault["loc"][0]) in model.unacceptable for fault in faults):
            field = str(first["loc"][0])
            raise InvalidSubmission(_words(first["type"], first["msg"], known), field=field) from None
        raise MalformedSubmission(
            "some fields are missing, unknown or of the wrong type",
            errors=tuple(
                (_place(fault["loc"]), _words(fault["type"], fault["msg"], known)) for fault in faults
            ),
        ) from None


def _words(kind: str, message: str, known: str) -> str:
    if kind == "extra_forbidden":
        return f"there is no such field; the fields are {known}"
    return _WORDS.get(kind, message[:1].lower() + message[1:])


def _place(location: tuple[int | str, ...]) -> str:
    return _shown(".".join(map(str, location)))


def _shown(name: str) -> str:
    """Return a name as the client wrote it, made safe to repeat."""
    return name[:_LONGEST_NAME].encode("utf-8", "backslashreplace").decode()
