"""The kinds of values in the documents of the admin API: ids, lines of text, times, durations, and pages of a list."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from postroom.core.clock import Instant, parse_rfc3339, rfc3339
from postroom.core.errors import InvalidSubmission
from postroom.core.numbers import whole_number
from postroom.core.setting_values import parse_duration
from postroom.web.admin.call import RequestModel

MOST: Final = 100  # of a page
DEFAULT: Final = 50
_MOST_DIGITS: Final = 18
_UID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_ID: Final = "00000000-0000-0000-0000-000000000000"

_LINE: Final = "^[^\\x00-\\x1f\\x7f]*$"
Text = Annotated[str, Field(max_length=1000, pattern=_LINE)]
# Described by a pattern, and checked by the one parser of addresses, which says what is wrong.
Address = Annotated[
    str,
    Field(
        json_schema_extra={
            "minLength": 3,
            "maxLength": 320,
            # A local part in quotes may have spaces (RFC 5321 §4.1.2).
            "pattern": '^([^\\x00-\\x20\\x7f]+|"[^\\x00-\\x1f\\x7f]+")@[^\\x00-\\x20\\x7f]+$',
        }
    ),
]
_A_UID: Final = "01a20592-c517-410c-bfea-853adb5ce9ed"
_UUID: Final = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"
Uid = Annotated[str, Field(pattern=_UUID, examples=[_A_UID])]


def _whole(value: object) -> object:
    """Return a number without a fraction, such as 3.0, as the whole number that it is (JSON Schema, RFC 8259 §6)."""
    return round(value) if isinstance(value, float) and value.is_integer() else value


# Behind the bounds of a number, or the description would not have these.
WHOLE: Final = BeforeValidator(_whole)
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2027-01-31T12:00:00Z"])]
Cursor = Annotated[
    str,
    Field(
        pattern=f"^[0-9]{{1,{_MOST_DIGITS}}}$",
        description="`next` of the page before; without it, the first page",
    ),
]
PATTERN_FAULTS: Final = {
    _LINE: "has a line end or another control character: give one line of text",
    _UUID: f"is not an id: give one as the service shows it, such as {_A_UID}",
}
"""What is wrong with a text that does not match a pattern."""
PageSize = Annotated[int, Field(ge=1, le=MOST, description="The most entries of a page")]


class Page(RequestModel):
    """Which part of a list is wanted."""

    limit: PageSize = DEFAULT
    after: Cursor | None = None

    @property
    def position(self) -> int | None:
        return None if self.after is None else position_of(self.after)


def position_of(cursor: str) -> int:
    """Return the position that a cursor stands for."""
    position = whole_number(cursor, _MOST_DIGITS)
    assert position is not None  # by the pattern of a Cursor
    return position


def known_form(id_: str) -> str:
    """Return an id as it stands, or one that nothing has: what cannot be an id is looked for like any unknown one."""
    uid = id_.lower()
    return uid if _UID.fullmatch(uid) else _NO_ID


def time_of(text: str, field: str) -> Instant:
    """Return a time in RFC 3339. Raises InvalidSubmission."""
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise InvalidSubmission(str(error), field=field) from None


def duration_of(text: str, field: str) -> int:
    """Return the microseconds of a duration such as 24h. Raises InvalidSubmission."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InvalidSubmission(str(error), field=field) from None


def shown_time(at: Instant | None) -> str | None:
    return None if at is None else rfc3339(at)
