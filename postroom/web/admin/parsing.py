"""Reads what a call takes, from the body or the query, into its model; every fault names its field."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from postroom.core.errors import InvalidSubmission, MalformedSubmission
from postroom.web.admin.call import AdminCall, RequestModel
from postroom.web.admin.cursors import NO_CURSOR
from postroom.web.admin.values import PATTERN_FAULTS
from postroom.web.api_request import ApiRequest
from postroom.web.head import length_of

_LONGEST_NAME = 100
_VALUE = "value_error"  # of a check of ours, in words of ours
_WORDS = {
    "missing": "this field is required",
    "string_type": "must be a string",
    "string_unicode": "must be a string of whole Unicode characters (it holds half a surrogate pair)",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "list_type": "must be a list",
}


def read_body(call: AdminCall, asked: ApiRequest) -> RequestModel:
    """Return the body. A call without fields needs none. Raises Rejected, and what reading raises."""
    if not call.takes.model_fields and length_of(asked.head) == 0:
        return call.takes()
    return _checked(call.takes, asked.take_document(), from_text=False)


def read_query(call: AdminCall, request: Request) -> RequestModel:
    """Return the query. Raises MalformedSubmission, and InvalidSubmission where its form is right and a value of no use."""
    args = request.args
    faults = [
        *((name, "is given more than once: give it once") for name in args if len(args.getlist(name)) > 1),
        *((name, "is empty: give a value, or leave it out") for name, value in args.items() if not value),
    ]
    if faults:
        raise MalformedSubmission(
            "some parameters cannot be used", errors=tuple((_shown(name), words) for name, words in faults)
        )
    return _checked(call.takes, args.to_dict(), from_text=True)


def _checked(model: type[RequestModel], document: Mapping[str, object], *, from_text: bool) -> RequestModel:
    try:
        if from_text:
            return model.model_validate_strings(document, strict=False)
        return model.model_validate(document)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        known = ", ".join(model.model_fields) or "none"
        if all(fault["type"] == _VALUE for fault in faults):  # as it is described, and of no use
            first = faults[0]
            raise InvalidSubmission(_words(first, known), field=_place(first["loc"])) from None
        raise MalformedSubmission(
            "some parameters cannot be used"
            if from_text
            else "some fields are missing, unknown or of the wrong type",
            errors=tuple((_place(fault["loc"]), _words(fault, known)) for fault in faults),
        ) from None


def _words(fault: ErrorDetails, known: str) -> str:
    kind, message = fault["type"], fault["msg"]
    if kind == "extra_forbidden":
        return f"there is no such field; the fields are {known}"
    if kind.startswith("string_") and fault["loc"][-1] == "after":
        return NO_CURSOR
    if kind == "string_pattern_mismatch":
        return PATTERN_FAULTS[fault["ctx"]["pattern"]]
    if kind == _VALUE:
        return message.removeprefix("Value error, ")
    return _WORDS.get(kind, message[:1].lower() + message[1:])


def _place(location: tuple[int | str, ...]) -> str:
    return _shown(".".join(map(str, location)))


def _shown(name: str) -> str:
    """Return a name as the client wrote it, made safe to repeat."""
    return name[:_LONGEST_NAME].encode("utf-8", "backslashreplace").decode()
