"""The schema of the request body: fields, types and their errors (pydantic)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, Never

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import UnsupportedMediaType
from werkzeug.http import parse_options_header

from postroom.core.errors import MalformedSubmission, TooLarge
from postroom.web import strict_json
from postroom.web.strict_json import LARGE, MAY_BE_LARGE, NotJSON, Split, StringTooLarge, TooManyValues, split

_CHARSETS = ("utf-8", "utf8", "us-ascii")
_WORDS = {
    "missing": "this field is required",
    "extra_forbidden": "there is no such field; the fields are subject, recipient, body, is_html, in_doubt and key",
    "string_type": "must be a string",
    "string_unicode": "must be a string of whole Unicode characters (it holds half a surrogate pair)",
    "bool_type": "must be true or false",
    "literal_error": "must be one of retry, hold, fail",
    "string_too_short": "must not be empty",
}


class SendRequest(BaseModel):
    """The body of `POST /send-email`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    subject: str = Field(description="One line of text")
    recipient: str = Field(description="One mailbox: local-part@domain")
    body: str = Field(description="The text, or the HTML when is_html is true")
    is_html: bool = Field(default=False, description="Whether body is HTML; a text part is made from it then")
    in_doubt: Literal["retry", "hold", "fail"] | None = Field(
        default=None, description="What to do when the server may or may not have taken the mail"
    )
    key: str | None = Field(default=None, description="The API key, unless it is given in a header")


class _UnsupportedEncoding(UnsupportedMediaType):
    """The body is compressed (RFC 9110 §12.5.3: the answer says what is taken instead)."""

    def get_headers(self, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        return [*super().get_headers(*args, **kwargs), ("Accept-Encoding", "identity")]


def read_json(headers: Mapping[str, str], read: Callable[[], bytes]) -> Document:
    """Return the JSON object that `read` gives. Raises UnsupportedMediaType or MalformedSubmission, and what it raises."""
    content_type = headers.get("content-type", "")
    if content_type != "application/json":
        _check_content_type(content_type)
    encoding = headers.get("content-encoding")
    if encoding and encoding.strip().lower() not in ("", "identity"):
        raise _UnsupportedEncoding("send the body as it is, without a Content-Encoding")
    return Document(read())


def _check_content_type(content_type: str) -> None:
    mimetype, parameters = parse_options_header(content_type)
    mimetype = mimetype.lower()
    if mimetype != "application/json" and not mimetype.endswith("+json"):
        raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")
    charset = parameters.get("charset", "utf-8")
    if charset.strip('"').lower() not in _CHARSETS:
        raise UnsupportedMediaType("JSON is UTF-8 (RFC 8259 §8.1): send it so, and name no other charset")


class Document:
    """The JSON object of a request. Of a large one only the string `body` may be large, and it is read when asked for."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._split = Split(octets, 0, 0)
        if len(octets) > LARGE:
            try:
                self._split = split(octets, MAY_BE_LARGE)
            except NotJSON as error:
                raise _not_json(error) from error
            except TooManyValues as error:
                message = f"besides the string `{MAY_BE_LARGE}` a request has at most {LARGE} octets"
                kind = TooLarge if isinstance(error, StringTooLarge) else MalformedSubmission
                raise kind(message) from error
        # Of a large one the mark of its encoding is gone.
        self._small = _parsed(self._split.rest, "utf-8" if self._split.rest is not octets else "utf-8-sig")

    @property
    def small(self) -> dict[str, object]:
        """The fields; one that is large is empty here."""
        return self._small

    def whole(self) -> dict[str, object]:
        """Return the fields. Raises MalformedSubmission where the large one is no string."""
        if not self._split.has_large:
            return self._small
        try:
            text = strict_json.text(self._octets, self._split.start, self._split.end)
        except NotJSON as error:
            raise _not_json(error) from error
        except UnicodeDecodeError as error:
            raise MalformedSubmission(f"the body is not UTF-8 (byte {error.start})") from error
        return {**self._small, MAY_BE_LARGE: text}


def _not_json(error: NotJSON) -> MalformedSubmission:
    return MalformedSubmission(f"the body is not JSON: {error} near byte {error.at}")


def _parsed(octets: bytes, encoding: str) -> dict[str, object]:
    try:
        value = _decoder.decode(octets.decode(encoding))
    except UnicodeDecodeError as error:
        raise MalformedSubmission(f"the body is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise MalformedSubmission(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except (RecursionError, ValueError) as error:
        detail = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        raise MalformedSubmission(
            f"the JSON is {detail}" if "nested" in detail else f"the JSON: {detail}"
        ) from error
    if not isinstance(value, dict):
        raise MalformedSubmission("the body must be a JSON object: {…}")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise MalformedSubmission(
                    "a field is given twice", errors=((_shown(name), "is given more than once"),)
                )
            seen.add(name)
    return found


def _refuse_constant(name: str) -> Never:
    raise MalformedSubmission(f"{name} is not JSON (RFC 8259 §6)")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def read_send_request(document: dict[str, object]) -> SendRequest:
    """Check fields and types. Raises MalformedSubmission naming every faulty field."""
    try:
        return SendRequest.model_validate(document)
    except ValidationError as error:
        faults = tuple(
            (
                _shown(str(fault["loc"][0])) if fault["loc"] else _unreadable_name(document),
                _WORDS.get(fault["type"], fault["msg"]),
            )
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise MalformedSubmission(
            "some fields are missing, unknown or of the wrong type", errors=faults
        ) from error


def _unreadable_name(document: dict[str, object]) -> str:
    """The first name that holds half a surrogate pair: pydantic does not say which it was."""
    return next((_shown(name) for name in document if _shown(name) != name[:100]), "")


def _shown(name: str) -> str:
    """A field name as the client wrote it, made safe to repeat."""
    return name[:100].encode("utf-8", "backslashreplace").decode()
