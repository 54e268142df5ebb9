"""Cuts the text of a message into pieces to send, and doubles leading dots for DATA (RFC 5321 §4.5.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeGuard

from postroom.core.stored_text import StoredText
from postroom.smtp.transcript import Text

LAST_WRITE = 65_536  # how much of the text may leave together with its end: one write costs less than two
SMALL = 2  # parts of a text whose first is the chunk by which a server shows that it takes chunks
_CHUNK = 262_144  # octets of a text that leave together before its end


def is_short(mime: Text) -> TypeGuard[bytes]:
    """Whether a text leaves as a whole together with its end."""
    return not isinstance(mime, StoredText) and len(mime) <= LAST_WRITE


async def cut(mime: Text) -> AsyncIterator[tuple[bytes, bool]]:
    """Yield a text in pieces, each with whether it is the last, which leaves with the end. No CRLF is cut in two."""
    held = b""
    async for octets in _pieces(mime):
        held += octets
        start = 0
        while (rest := len(held) - start) > LAST_WRITE:
            end = start + min(_CHUNK, rest - LAST_WRITE)
            end += held[end - 1 : end + 1] == b"\r\n"
            yield held[start:end], False
            start = end
        held = held[start:]
    yield held, True


async def _pieces(mime: Text) -> AsyncIterator[bytes]:
    if isinstance(mime, StoredText):
        async for octets in mime.pieces():
            yield octets
    else:
        yield mime


async def halved(mime: bytes) -> AsyncIterator[tuple[bytes, bool]]:
    """Yield a short text in two pieces: the answer to the first one shows whether a server takes chunks."""
    at = len(mime) // SMALL
    yield mime[:at], False
    yield mime[at:], True


def dot_stuff(mime: bytes, *, begins_line: bool = True) -> bytes:
    """Double the dot that starts a line (RFC 5321 §4.5.2). `mime` must have passed the gate (`mime.gate`)."""
    stuffed = mime.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if begins_line and stuffed.startswith(b".") else stuffed
