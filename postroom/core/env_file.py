"""Parses the text of `.env` into names and values; every line that assigns nothing is an error. Pure.

python-dotenv defines quoting, escapes and interpolation. No message repeats the text of a line, which may be a secret.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from postroom.core.errors import ConfigError

if TYPE_CHECKING:
    from dotenv.parser import Binding

NAME: Final = ".env"
_OF_A_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_BLANK: Final = re.compile(r"\s*")
_FIX: Final = "write NAME=value, a comment that begins with #, or nothing, and close each quote"


def read_assignments(text: str, ours: Collection[str]) -> Mapping[str, str | None]:
    """Return what `.env` assigns; `ours` are the names of settings.

    Raises ConfigError for a line that assigns nothing, and for a quote that closes behind an assignment of ours.
    """
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text, newline=None)):
        _check(binding, ours)
    return dotenv_values(stream=io.StringIO(text, newline=None))


def _check(binding: Binding, ours: Collection[str]) -> None:
    whole = binding.original.string
    blank = _BLANK.match(whole)
    text = whole[blank.end() :] if blank else whole
    line = binding.original.line + whole[: len(whole) - len(text)].count("\n")
    if not binding.error and binding.key is None:  # a comment, or the end
        return
    if binding.error or binding.value is None:
        raise ConfigError(NAME, f"line {line} assigns nothing; {_FIX}")
    if not _OF_A_VARIABLE.fullmatch(binding.key or ""):
        raise ConfigError(
            NAME, f"line {line} assigns to what is no name of letters, digits and underscores; {_FIX}"
        )
    for below, inside in enumerate(text.rstrip().split("\n")[1:], line + 1):
        if inside.strip().removeprefix("export ").partition("=")[0].strip() in ours and "=" in inside:
            raise ConfigError(NAME, f"the quote that opens in line {line} swallows line {below}; {_FIX}")
