"""Credentials in a server's words: struck before anybody stores or shows them. Pure."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Final

from postroom.model import Reply

STRUCK: Final = "[struck]"
_RUN: Final = 8  # characters in a row that are struck; of a shorter secret all of it
_STEP: Final = _RUN // 2  # a run holds one of the pieces of this size; a shorter secret is in every text
_KEPT: Final = frozenset({"dot", "BDAT"})  # commands whose positive replies are stored
_PROMPTS: Final = frozenset({334, 354})
_URL_SAFE: Final = str.maketrans("+/", "-_")


class Credentials:
    """What we log in with, in the forms in which a server may repeat it; white space and case do not matter."""

    __slots__ = ("_piece", "_runs")

    def __init__(self, username: str, password: str) -> None:
        self._runs: dict[str, int] = {}  # what is struck, in lower case, and its length
        pieces: dict[str, None] = {}  # one of these is in every text that holds a run
        for form in _forms(username, password):
            size, plain = min(_RUN, len(form)), _flat(form)
            runs = {_flat(form[at : at + size]) for at in range(len(form) - size + 1)}
            self._runs |= {each: len(each) for each in runs if len(each) >= _STEP}
            step = _STEP if len(plain) == len(form) else 1
            pieces |= dict.fromkeys(plain[at : at + _STEP] for at in range(0, len(plain) - _STEP + 1, step))
        self._piece = re.compile("|".join(map(re.escape, pieces)) or r"(?!)")

    def strike(self, text: str) -> str:
        """Return the text without any run of the credentials, also one that goes over line ends."""
        flat = _flat(text)
        if self._piece.search(flat) is None:
            return text
        places = [at for at, character in enumerate(text) if not character.isspace()]
        marked = bytearray(len(text))
        for run, size in self._runs.items():
            at = flat.find(run)
            while at >= 0:
                first, last = places[at], places[at + size - 1]
                marked[first : last + 1] = b"\1" * (last + 1 - first)
                at = flat.find(run, at + 1)
        return _without(text, marked)

    def strike_reply(self, reply: Reply, verb: str) -> Reply:
        """Return the reply to a command without the credentials; of one to AUTH that held any the text goes as a whole.

        An offer (EHLO) or a prompt is read and not stored, so it stays whole: a password may be a word of SMTP.
        """
        if reply.code in _PROMPTS or (reply.positive and verb not in _KEPT):
            return reply
        text = self.strike(reply.text)
        if text == reply.text:
            return reply
        return replace(reply, text="" if verb == "AUTH" else text)


def _flat(text: str) -> str:
    """Return the text without white space and in lower case, where that changes no length."""
    kept = "".join(text.split())
    lower = kept.lower()
    return lower if len(lower) == len(kept) else kept


def _forms(username: str, password: str) -> list[str]:
    """Return the password in clear and in base64, at each offset within its groups of three, and the PLAIN response."""
    octets = password.encode("utf-8", "surrogatepass")
    plain = base64.b64encode(f"\0{username}\0".encode("utf-8", "surrogatepass") + octets).decode()
    inside = [
        base64.b64encode(bytes(before) + octets).decode()[first : _whole(before + len(octets))]
        for before, first in ((0, 0), (1, 2), (2, 3))
    ]
    coded = [plain.rstrip("="), *inside]
    return [password, *coded, *(each.translate(_URL_SAFE) for each in coded if set(each) & set("+/"))]


def _whole(octets: int) -> int:
    """Return how many characters of base64 depend on these octets alone."""
    return octets * 8 // 6


def _without(text: str, marked: bytearray) -> str:
    parts: list[str] = []
    for at, character in enumerate(text):
        if not marked[at]:
            parts.append(character)
        elif not at or not marked[at - 1]:
            parts.append(STRUCK)
    return "".join(parts)
