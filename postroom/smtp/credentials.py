"""Strikes passwords, access tokens and user names from server replies, before they are stored, logged or shown. Pure."""

from __future__ import annotations

import base64
import html
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Final
from urllib.parse import quote, quote_plus

from postroom.core.account import Secret
from postroom.core.outcome import Reply

STRUCK: Final = "[struck]"
_NONE: Final = Secret("")
_RUN: Final = 8  # characters in a row that are struck; of a shorter secret all of it
_SHORTEST: Final = 4  # of what is left of a run without white space; a shorter secret is in every text
_SHORT: Final = 100  # characters of a reply that may come again
_MOST_REMEMBERED: Final = 16  # of them
_PROMPT: Final = 334  # RFC 4954 §4
_URL_SAFE: Final = str.maketrans("+/", "-_")
# In which a server may repeat a password that is not ASCII, beside UTF-8.
_CODINGS: Final = (
    "cp1252",
    "latin-1",
    "iso8859-15",
    "cp1250",
    "iso8859-2",
    "cp1251",
    "koi8-r",
    "iso8859-7",
    "iso8859-9",
    "cp437",
    "gb18030",
    "big5",
    "shift_jis",
    "euc-kr",
)
# How octets and characters are shown that are not seen (`wire`, `shown`), and those of a name in DNS (RFC 4343 §2.1).
# And an enhanced status code before a further line, which stands between the parts of what is repeated over lines.
_ESCAPE: Final = re.compile(
    r"\\{1,2}(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))|\\([0-9]{3})|\\([^0-9A-Za-z])"
    r"|(?<=\n)[245]\.[0-9]{1,3}\.[0-9]{1,3} ",
    re.ASCII,
)
_PRINTABLE: Final = re.compile("[!-~]*")  # ASCII of which folding drops nothing
_BROKEN: Final = re.compile("[\udc80-\udcff]")  # by surrogateescape
_DROPPED_ASCII: Final = dict.fromkeys([*range(33), 127])
_DROPPED: Final = frozenset({"Cc", "Cf", "Mn", "Me", "Zs", "Zl", "Zp"})
_MARKED: Final = re.compile(b"\1+")
_BLANK: Final = "\u115f\u1160\u2800\u3164\uffa0"  # letters and symbols by their category


def credentials_of(
    username: str | None, password: Secret, access_token: Secret = _NONE
) -> Credentials | None:
    """Return what is struck from the words of the server that this is shown to; None without a secret."""
    if not password and not access_token:
        return None
    return Credentials(username or "", password.reveal(), access_token.reveal())


class Credentials:
    """What we log in with, in the forms in which a server may repeat it.

    White space, case, accents and what is not seen do not matter. The runs are looked up by their characters, in one
    walk over the text for each of the few lengths that they have: a server chooses the text, and all accounts wait.
    """

    __slots__ = ("_harmless", "_runs")

    def __init__(self, username: str, password: str, access_token: str = "") -> None:
        self._harmless: set[str] = (
            set()
        )  # short replies that hold nothing: a server says the same again and again
        self._runs: dict[int, set[str]] = {}  # folded, by their length
        password_forms = _forms(username, password) if password else []
        for form in (*password_forms, *_token_forms(access_token)):
            for run in _runs_of(form):
                self._runs.setdefault(len(run), set()).add(run)

    def strike(self, text: str) -> str:
        """Return the text without any run of the credentials, also one that goes over line ends."""
        marked = self._marked(text)
        return text if marked is None else _without(text, marked)

    def strike_reply(self, reply: Reply, verb: str) -> Reply:
        """Return the reply to a command without the credentials; a refusal of AUTH that held any, without its text.

        Its codes count among its words, for they are shown in one line with them.
        """
        codes = f"{reply.code} {reply.enhanced or ''}"
        said = codes + reply.text
        if said in self._harmless:
            return reply
        marked = self._marked(said)
        if marked is None:
            self._remember(said)
            return reply
        enhanced = None if any(marked[4 : len(codes)]) else reply.enhanced
        is_refused_login = verb == "AUTH" and reply.code != _PROMPT
        text = "" if is_refused_login else _without(reply.text, marked[len(codes) :])
        return replace(reply, text=text, enhanced=enhanced)

    def _remember(self, said: str) -> None:
        if len(said) <= _SHORT and len(self._harmless) < _MOST_REMEMBERED:
            self._harmless.add(said)

    def _marked(self, text: str) -> bytearray | None:
        """Return a byte for each character: whether it is struck; None where nothing is."""
        marked = None
        for reading in _readings(text):
            for found in _MARKED.finditer(self._found(reading.flat)):
                marked = marked or bytearray(len(text))
                first, last = reading.places[found.start()][0], reading.places[found.end() - 1][1]
                marked[first:last] = b"\1" * (last - first)
        return marked

    def _found(self, flat: str) -> bytearray:
        found = bytearray(len(flat))
        for size, runs in self._runs.items():
            ones = b"\1" * size
            for at in range(len(flat) - size + 1):
                if flat[at : at + size] in runs:
                    found[at : at + size] = ones
        return found


class _Reading:
    """A text as it is compared: without white space and what is not seen, and folded.

    With `escapes` what stands for one character that is not seen is read as that character.
    """

    def __init__(self, text: str, *, escapes: bool) -> None:
        self._text, self._escapes = text, escapes
        if text.isascii() and not escapes:
            self.flat = text.translate(_DROPPED_ASCII).lower()
        else:
            self.flat = "".join(folded for _, _, folded in self._units())

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Where each character of `flat` comes from: its beginning and end in the text."""
        return [(start, end) for start, end, folded in self._units() for _ in folded]

    def _units(self) -> Iterator[tuple[int, int, str]]:
        at = 0
        for escape in _ESCAPE.finditer(self._text) if self._escapes else ():
            yield from self._characters(at, escape.start())
            at = escape.end()
            meant = _meant(escape)
            yield escape.start(), at, _fold(meant) if meant else ""
        yield from self._characters(at, len(self._text))

    def _characters(self, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        return ((at, at + 1, _fold(self._text[at])) for at in range(start, end))


def _readings(text: str) -> Iterator[_Reading]:
    """Yield the text as it stands, and as it is meant where it has escapes: they may be the server's own words."""
    yield _Reading(text, escapes=False)
    if ("\\" in text or "\n" in text) and _ESCAPE.search(text):
        yield _Reading(text, escapes=True)


def _meant(escape: re.Match[str]) -> str:
    *hexadecimal, decimal, itself = escape.groups()
    code = next((int(digits, 16) for digits in hexadecimal if digits), None)
    if code is None:
        return itself or (chr(int(decimal)) if decimal else "")
    return chr(code) if code <= sys.maxunicode else ""


@lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    """Return what a character is compared by: its letters without case and accents, or nothing."""
    if _is_dropped(character):
        return ""
    letters = [each for each in unicodedata.normalize("NFKD", character) if not _is_dropped(each)]
    return "".join(letters).upper().casefold() or character


def _is_dropped(character: str) -> bool:
    return unicodedata.category(character) in _DROPPED or character in _BLANK


def _runs_of(form: str) -> Iterator[str]:
    """Yield each run of eight characters, folded; of a shorter form all of it.

    Where folding drops characters, runs are made twice: with the dropped ones counted, and without them.
    """
    if len(form) >= _RUN and _PRINTABLE.fullmatch(form):  # a token is long, and there are several forms of it
        flat = form.lower()
        yield from (flat[at : at + _RUN] for at in range(len(flat) - _RUN + 1))
        return
    units = [_fold(character) for character in form]
    seen = list(filter(None, units))
    for counted in (seen,) if len(seen) == len(units) else (units, seen):
        size = min(_RUN, len(counted))
        runs = ("".join(counted[at : at + size]) for at in range(len(counted) - size + 1))
        yield from (run for run in runs if len(run) >= _SHORTEST)


def _forms(username: str, password: str) -> list[str]:
    """Return the password in clear, in other codings, in base64 at each offset within its groups of three, and PLAIN's."""
    octets = password.encode("utf-8", "surrogatepass")
    plain = base64.b64encode(f"\0{username}\0".encode("utf-8", "surrogatepass") + octets).decode()
    coded = [plain.rstrip("="), *_inside(octets)]
    misread = () if password.isascii() else _misread(password, octets)
    return [password, *_escaped(password, octets), *coded, *_url_safe(coded), *misread]


def _token_forms(token: str) -> list[str]:
    """Return an access token in clear, and in base64 as it stands within the response of any mechanism."""
    coded = _inside(token.encode("utf-8", "surrogatepass")) if token else []
    return [token, *coded, *_url_safe(coded)] if token else []


def _inside(octets: bytes) -> list[str]:
    """Return the base64 of octets at each offset within its groups of three, without what depends on their neighbours."""
    return [
        base64.b64encode(bytes(before) + octets).decode()[first : _whole(before + len(octets))]
        for before, first in ((0, 0), (1, 2), (2, 3))
    ]


def _url_safe(coded: list[str]) -> list[str]:
    """Return those of the texts in base64 that look otherwise in an address: in its alphabet, or quoted."""
    special = [each for each in coded if set(each) & set("+/")]
    return [*(each.translate(_URL_SAFE) for each in special), *(quote(each, safe="") for each in special)]


def _escaped(password: str, octets: bytes) -> Iterator[str]:
    """Yield a password as programs write it into addresses, pages, messages and dumps."""
    yield from {quote(octets, safe=""), quote_plus(octets), html.escape(password)} - {password}
    yield from (octets.hex(separator) for separator in "%=")
    yield octets.hex()


def _misread(password: str, octets: bytes) -> set[str]:
    """Return how a password looks when its octets are decoded wrongly: one by one, or as UTF-8 where they can be.

    Without what is not seen of it: half of an octet's characters are not, and what is left of a run would be in any text.
    """
    found = {octets}
    for coding in _CODINGS:
        with suppress(UnicodeError):
            found.add(password.encode(coding))
    forms = {each.decode("latin-1") for each in found}
    forms |= {_BROKEN.sub(_octet, each.decode("utf-8", "surrogateescape")) for each in found}
    return {"".join(map(_fold, form)) for form in forms}


def _octet(broken: re.Match[str]) -> str:
    return chr(ord(broken[0]) - 0xDC00)


def _whole(octets: int) -> int:
    """Return how many characters of base64 depend on these octets alone."""
    return octets * 8 // 6


def _without(text: str, marked: bytes | bytearray) -> str:
    parts: list[str] = []
    for at, character in enumerate(text):
        if not marked[at]:
            parts.append(character)
        elif not at or not marked[at - 1]:
            parts.append(STRUCK)
    return "".join(parts)
