"""Splits a large JSON document into its one long string and a bounded rest, before anything is parsed.

`json` holds Python's lock for as long as it parses, 170 ms for 29 MB, and makes of 52 MB of small values 1.4 GB of
objects. Here nothing takes longer than a piece, and a document of many values is refused when its bound is reached.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

LARGE: Final = (
    65_536  # octets of a document that is parsed at once, and of all but the large string of another
)
MAY_BE_LARGE: Final = "body"
_PIECE: Final = 262_144
_LONGEST_ESCAPE: Final = 6
_LONGEST_NAME: Final = 256
# As many whole characters and escapes as there are. It ends at a quotation mark, or at an escape that is cut off.
_CHARACTERS = re.compile(rb'(?:[^"\\]++|\\u.{4}|\\[^u])*+', re.DOTALL)
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"


class TooManyValues(ValueError):
    """The document is large, but for the one string that may be."""


class StringTooLarge(TooManyValues):
    """It is large by another string, or by spaces."""


class NotJSON(ValueError):
    """The document is not JSON, near the octet `at`."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


@dataclass(frozen=True, slots=True)
class Split:
    """A document without its large string, in whose place there is an empty one; and where that string is."""

    rest: bytes
    start: int
    end: int

    @property
    def has_large(self) -> bool:
        return self.end > self.start


def split(document: bytes, name: str) -> Split:
    """Take the string that the outermost object has under `name` out of a document. Raises TooManyValues, NotJSON.

    Nothing is parsed yet; where the large string is not well-formed is found out by `text`.
    """
    position = len(_BOM) if document.startswith(_BOM) else 0
    kept = bytearray()
    depth, large = 0, (0, 0)
    before = b""  # the string before this one
    while True:
        quote = document.find(b'"', position, position + LARGE + 1)
        between = document[position : quote if quote >= 0 else position + LARGE + 1]
        _keep(kept, between)
        if quote < 0:
            return Split(bytes(kept), *large)
        depth += between.count(b"{") + between.count(b"[") - between.count(b"}") - between.count(b"]")
        position = end_of_string(document, quote + 1)
        is_it = depth == 1 and _COLON.fullmatch(between) is not None and _is_name(before, name)
        if is_it and large == (0, 0):
            large = (quote + 1, position - 1)
            _keep(kept, b'""')
        elif len(kept) + position - quote > LARGE:
            raise StringTooLarge if position - quote > LARGE // 2 else TooManyValues
        else:
            _keep(kept, document[quote:position])
        before = document[quote:position] if position - quote <= _LONGEST_NAME else b""


def begins_too_large(beginning: bytes) -> bool:
    """Whether a document that begins so will be refused by `split` for what it has besides its large string."""
    if beginning.lstrip()[:1] not in (b"{", b"["):  # no document: its size decides
        return False
    try:
        split(beginning, MAY_BE_LARGE)
    except TooManyValues:
        return True
    except NotJSON:
        pass
    return False


def _keep(kept: bytearray, part: bytes) -> None:
    if len(kept) + len(part) > LARGE:
        raise TooManyValues if len(part.strip()) > len(part) // 2 else StringTooLarge
    kept += part


def _is_name(string: bytes, name: str) -> bool:
    if string == b'"%s"' % name.encode():
        return True
    try:
        return b"\\" in string and bool(json.loads(string) == name)
    except ValueError:
        return False


def end_of_string(document: bytes, start: int) -> int:
    """Return where the string that begins at `start` is over, its quotation mark included. Raises NotJSON."""
    position = start
    while True:
        position = _piece_end(document, position, len(document))
        if position >= len(document):
            raise NotJSON("a string has no end", start)
        if document[position] == ord('"'):
            return position + 1


def _piece_end(document: bytes, start: int, end: int) -> int:
    """Return the end of a piece of a string, between two characters; `start` only where a quotation mark is."""
    most = min(start + _PIECE, end)
    if document.find(b"\\", start, most) < 0:  # the usual case, in a twentieth of the time
        quote = document.find(b'"', start, most)
        return most if quote < 0 else quote
    for size in (_PIECE, _LONGEST_ESCAPE):
        found = _CHARACTERS.match(document, start, min(start + size, end))
        assert found is not None
        if found.end() > start or document[start : start + 1] != b"\\":
            return found.end()
    raise NotJSON("a string ends within an escape", start)


def text(document: bytes, start: int, end: int) -> str:
    """Decode the inside of a string in pieces. Raises NotJSON, UnicodeDecodeError."""
    pieces: list[str] = []
    while start < end:
        piece_end = _between_characters(document, start, _piece_end(document, start, end))
        pieces.append(_decoded(document[start:piece_end], start))
        _join_surrogates(pieces)
        start = piece_end
    return "".join(pieces)


def _between_characters(document: bytes, start: int, end: int) -> int:
    """Move the end of a piece back to the beginning of the UTF-8 character that it is in."""
    for _ in range(3):
        if end < len(document) and document[end] & 0xC0 == 0x80 and end - 1 > start:
            end -= 1
    return end


def _decoded(piece: bytes, at: int) -> str:
    try:
        decoded: str = json.loads(f'"{piece.decode()}"')
    except json.JSONDecodeError as error:
        raise NotJSON(error.msg, at + error.pos - 1) from None
    except UnicodeDecodeError as error:
        raise UnicodeDecodeError("utf-8", b"", at + error.start, at + error.end, error.reason) from None
    return decoded


def _join_surrogates(pieces: list[str]) -> None:
    """Put a pair together whose halves are in two pieces."""
    if len(pieces) < 2 or not pieces[-2].endswith(_HIGH) or not pieces[-1].startswith(_LOW):
        return
    high, low = pieces[-2][-1], pieces[-1][0]
    pieces[-2] = pieces[-2][:-1] + (high + low).encode("utf-16", "surrogatepass").decode("utf-16")
    pieces[-1] = pieces[-1][1:]


_HIGH = tuple(map(chr, range(0xD800, 0xDC00)))
_LOW = tuple(map(chr, range(0xDC00, 0xE000)))
