"""The filters that lists share: an account, a recipient, a span of time. What they cannot use is a fault of the query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from postroom.core.clock import Instant
from postroom.core.daily import parse_time_or_day
from postroom.core.errors import InvalidSubmission
from postroom.core.listing import check_span, recipient_of
from postroom.web.admin.call import RequestModel
from postroom.web.admin.values import Text

_TIMES: Final = ["2027-01-31T12:00:00Z", "2027-01-31"]


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """Return a validator whose faults are those of `check`, in the same words as at the command line."""

    def checked(text: str) -> str:
        try:
            check(text)
        except InvalidSubmission as error:
            raise ValueError(str(error)) from None
        return text

    return AfterValidator(checked)


Words = Annotated[Text, Field(min_length=1)]
AccountFilter = Annotated[Words, Field(description="The id of an account, or its mailbox")]
Recipient = Annotated[
    Words,
    _checked(recipient_of),
    Field(description="An address, or @domain", examples=["ada@example.org", "@example.org"]),
]
TimeOrDay = Annotated[Words, _checked(parse_time_or_day), Field(examples=_TIMES)]


class Span(RequestModel):
    """A span of time: from `since` on, and before `until`."""

    since: TimeOrDay | None = Field(default=None, description="Then or later: a time, or a day in UTC")
    until: TimeOrDay | None = Field(default=None, description="Before that time, or that day in UTC")

    @field_validator("until")
    @classmethod
    def _is_after_since(cls, until: str | None, info: ValidationInfo) -> str | None:
        since = info.data.get("since")
        try:
            check_span(_instant(since), _instant(until))
        except InvalidSubmission as error:
            raise ValueError(str(error)) from None
        return until

    @property
    def times(self) -> tuple[Instant | None, Instant | None]:
        return _instant(self.since), _instant(self.until)


def _instant(text: str | None) -> Instant | None:
    return None if text is None else parse_time_or_day(text)
