"""Makes foreign text safe to print: control and invisible characters are escaped. Also plurals and shortening. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_CONTROLS: Final = (
    r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"  # C0, C1, separators of lines; lone surrogates
)
_BIDIRECTIONAL: Final = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
# Characters without a width of their own (Unicode's Default_Ignorable_Code_Point, and invisible blanks).
_INVISIBLE: Final = (
    r"\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u206a-\u206f\u2800\u3164\ufe00-\ufe0f"
    r"\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_UNSAFE: Final = re.compile(f"[{_CONTROLS}{_BIDIRECTIONAL}{_INVISIBLE}]")
_JOINERS: Final = "\u200c\u200d"
_SELECTOR: Final = re.compile(r"[\u180b-\u180d\u180f\ufe00-\ufe0f]")  # of a glyph: 2️ is not 2

_LONGEST_CLUSTER: Final = 32  # characters that are one to the eye
_CUT_ESCAPE: Final = re.compile(r"\\(?:x[0-9a-f]?|u[0-9a-f]{0,3}|U[0-9a-f]{0,7})?\Z")
_LONGEST_ESCAPE: Final = 10


def printable(text: str) -> str:
    """Make a server's words safe for one line of a log or a terminal: invisible characters are shown as \\xNN or \\uNNNN.

    Joiners between letters or emoji stay, for Persian, Indian scripts and families are not readable without, and so does
    one selector of a glyph behind it.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character, text, at = found[0], found.string, found.start()
    if character in _JOINERS and _joins(text, at):
        return character
    if _SELECTOR.match(character) and at and _is_seen(text[at - 1]):
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _joins(text: str, at: int) -> bool:
    before = at - 2 if at > 1 and _SELECTOR.match(text[at - 1]) else at - 1
    return before >= 0 and at + 1 < len(text) and _may_join(text[before]) and _may_join(text[at + 1])


def _may_join(character: str) -> bool:
    return _is_seen(character) and unicodedata.category(character)[0] in "LMS"


def _is_seen(character: str) -> bool:
    return _UNSAFE.match(character) is None and not character.isspace()


def printable_lines(text: str) -> str:
    """Make each line of our own text safe, whatever names of files or values are in it."""
    return "\n".join(map(printable, text.split("\n")))


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8: arguments, variables and names of files may hold other octets."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def shortened(text: str, most: int, left_out: int = 0) -> str:
    """Return at most so many characters of a text, and how many were left out, those `left_out` before among them.

    No escape is cut, and no character from its accents, joiners and selectors.
    """
    if len(text) <= most and not left_out:
        return text
    at = _whole(text, most) if len(text) > most else len(text)
    return f"{text[:at]} [{len(text) - at + left_out} more characters]"


def _whole(text: str, most: int) -> int:
    at = most
    while at > max(0, most - _LONGEST_CLUSTER) and (_goes_on(text[at]) or text[at - 1] in _JOINERS):
        at -= 1
    cut = _CUT_ESCAPE.search(text, max(0, at - _LONGEST_ESCAPE), at)
    return cut.start() if cut else at


def _goes_on(character: str) -> bool:
    """Whether a character belongs to the one before it."""
    return character in _JOINERS or unicodedata.category(character) in ("Mn", "Me", "Mc")


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun; without `several`, the plural of `one` has an s: "1 message", "2 messages"."""
    return f"{number} {one if number == 1 else several or one + 's'}"
