"""Kinds of values that commands take (durations, times, networks, members), and faults that name their option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from postroom.core.clock import parse_rfc3339
from postroom.core.errors import InvalidSubmission
from postroom.core.numbers import whole_number

if TYPE_CHECKING:
    from postroom.core.api_key import Network
    from postroom.core.clock import Instant

_NONE: Final = ("0", "0s")


class Duration(click.ParamType[int]):
    """A duration such as 24h, in microseconds; 0: none."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from postroom.core.setting_values import parse_duration

        if isinstance(value, int):
            return value
        try:
            return 0 if value in _NONE else parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _duration(text: str) -> int | None:
    """Return the microseconds of a duration such as 30d; None for a text that is none."""
    from postroom.core.setting_values import parse_duration

    try:
        return parse_duration(text)
    except ValueError:
        return None


class Expiry(click.ParamType[int]):
    """A duration from now on, or a time in RFC 3339: an Instant."""

    name = "time"

    def convert(
        self, value: str | Instant, param: click.Parameter | None, ctx: click.Context | None
    ) -> Instant:
        from postroom.core.clock import system_clock

        if isinstance(value, int):
            return value
        if (wait := _duration(value)) is not None:
            return system_clock() + wait
        try:
            return parse_rfc3339(value)
        except ValueError:
            self.fail(
                f"{value!r} is neither a duration such as 30d nor a time with its zone such as 2027-01-31T12:00:00Z",
                param,
                ctx,
            )


class GivenText(click.ParamType[str]):
    """A text with something in it: an empty one is more likely a variable that was not set than a wish."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail("it is empty: give a value, or leave it out", param, ctx)
        return value


class PastTime(click.ParamType[int]):
    """So long ago, a day, or a time in RFC 3339: an Instant."""

    name = "time"

    def convert(
        self, value: str | Instant, param: click.Parameter | None, ctx: click.Context | None
    ) -> Instant:
        from postroom.core.clock import system_clock
        from postroom.core.daily import parse_time_or_day

        if isinstance(value, int):
            return value
        if (ago := _duration(value)) is not None:
            return system_clock() - ago
        try:
            return parse_time_or_day(value)
        except ValueError as error:
            self.fail(f"{value!r} is no duration such as 7d, and {error}", param, ctx)


class Cidr(click.ParamType["Network"]):
    """A network such as 192.0.2.0/24."""

    name = "cidr"

    def convert(
        self, value: str | Network, param: click.Parameter | None, ctx: click.Context | None
    ) -> Network:
        from postroom.core.api_key import parse_networks

        if not isinstance(value, str):
            return value
        try:
            [network] = parse_networks([value])
        except InvalidSubmission as error:
            self.fail(str(error), param, ctx)
        return network


class Member(click.ParamType[tuple[str, int]]):
    """An account of a pool with its weight: MAILBOX, ID, MAILBOX=2."""

    name = "member"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if not isinstance(value, str):
            return value
        account, sign, weight = value.rpartition("=")
        if not sign or "@" in weight:  # a local part may hold the sign
            return value, 1
        number = whole_number(weight)
        if not account or number is None or not 1 <= number <= 1_000_000:
            self.fail(f"{value!r}: write MAILBOX=WEIGHT, with a whole number from 1 to 1000000", param, ctx)
        return account, number


@contextmanager
def faults_name(options: Mapping[str, str]) -> Iterator[None]:
    """Have a fault in what was given be wrong usage of the option that stands for its field."""
    try:
        yield
    except InvalidSubmission as error:
        if error.field is None or error.field not in options:
            raise
        raise click.BadParameter(
            str(error), ctx=click.get_current_context(), param_hint=f"'{options[error.field]}'"
        ) from error
