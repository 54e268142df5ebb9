"""Builds the bytes of a message: headers, bodies, and the gate for safe bytes (RFC 5322, RFC 2045 to 2047).

The same content gives the same bytes, so a retry is byte-identical. Nothing
that a client wrote can end a header line: a text goes out as it is only where
a pattern of printable ASCII matches all of it, and as encoded-words otherwise.
"""

from __future__ import annotations

import hashlib
import re
import time
from binascii import b2a_base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from postroom.core.address import Mailbox
from postroom.core.clock import SECOND, Instant
from postroom.mime.html_to_text import html_to_text
from postroom.mime.text_part import MAX_LINE, has_long_line, text_part

_PIECE = 262_144  # octets that are searched at once
_FOLD_AT = 76  # RFC 2047 §2: for lines that hold encoded-words; we fold all others there too
_ENCODED_WORD = 75  # RFC 2047 §2
_ENCODED_WORD_FRAME = len("=?utf-8?q??=")

_UNSTRUCTURED = re.compile(
    r"[!-~]{1,66}(?: [!-~]{1,75})*"
)  # each word fits a line, the first one beside its name
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")  # atoms, RFC 5322 §3.2.3
_MAX_PHRASE = 60  # longer names become encoded-words, which fold anywhere

_Q_SAFE = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/ "  # RFC 2047 §5 (3); space is "_"
)
_Q_BYTES = [chr(octet) if octet in _Q_SAFE else f"={octet:02X}" for octet in range(256)]
_Q_BYTES[0x20] = "_"

_FROM = re.compile(rb"From: .*?\r\n(?![ \t])", re.DOTALL)  # with its folded lines

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class UnsafeBytes(ValueError):
    """Receivers could read the bytes in different ways; they must not be sent."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content that determines the bytes of a message.

    `message_id` is without angle brackets; it and `boundary` are ours, not the
    client's, and must be plain tokens.
    """

    sender_name: str
    sender: Mailbox
    recipients: tuple[Mailbox, ...]
    subject: str
    body: str = field(repr=False)
    is_html: bool
    message_id: str
    date: Instant
    boundary: str
    in_reply_to: str | None = None  # with its angle brackets, as all of `references`
    references: tuple[str, ...] = ()


def render(message: Content) -> bytes:
    """Return the message as it is sent, before dot-stuffing.

    7-bit throughout, unless a mailbox needs SMTPUTF8: its header lines are then
    UTF-8 (RFC 6532). Raises UnicodeEncodeError on lone surrogates.
    """
    head = (
        f"From: {_name_and_address(message.sender_name, message.sender)}\r\n"
        f"To: {_address_list(message.recipients)}\r\n"
        f"Subject: {_subject(message.subject)}\r\n"
        f"Date: {_date(message.date // SECOND)}\r\n"
        f"Message-ID: <{message.message_id}>\r\n"
        f"{_thread(message)}"
        "MIME-Version: 1.0\r\n"
    )
    body = message.body
    pieces = _alternative(body, message.boundary) if message.is_html else text_part(b"plain", body)
    return b"".join([head.encode(), *pieces])


def with_sender(mime: bytes, name: str, sender: Mailbox) -> bytes:
    """Return a rendered message, or its beginning, with another From, which is its first field. All else stays."""
    field_ = _FROM.match(mime)
    if field_ is None:
        raise ValueError("the message does not begin with From")
    return f"From: {_name_and_address(name, sender)}\r\n".encode() + mime[field_.end() :]


def is_answer(mime: bytes) -> bool:
    """Whether a rendered message, or its beginning, says in its header that it answers another one (RFC 5322 §3.6.4)."""
    head = mime.partition(b"\r\n\r\n")[0]
    return b"\r\nin-reply-to:" in head.lower()


def _thread(message: Content) -> str:
    """Return In-Reply-To and References, an id a line (RFC 5322 §3.6.4)."""
    fold = "\r\n "
    lines = "" if message.in_reply_to is None else f"In-Reply-To: {message.in_reply_to}\r\n"
    return lines + (f"References: {fold.join(message.references)}\r\n" if message.references else "")


def gate(mime: bytes, *, smtputf8: bool) -> None:
    """Raise UnsafeBytes unless `mime` is safe to transmit, whatever made it.

    Every line ends in CRLF and is at most 998 octets long, there is no bare CR,
    bare LF or NUL (RFC 5321 §2.3.8: the raw material of SMTP smuggling), and
    all is ASCII unless the message goes out with SMTPUTF8.
    """
    if not mime.endswith(b"\r\n"):
        raise UnsafeBytes("the message does not end with CRLF")
    line_ends = ends = (
        0  # three sums are enough: each CRLF uses up one CR and one LF, so any left over is bare
    )
    for piece in _pieces(mime):
        line_ends += piece.count(b"\r\n")
        ends += piece.count(b"\r") + piece.count(b"\n")
        if b"\0" in piece:
            raise UnsafeBytes("the message contains a NUL")
        if not smtputf8 and not piece.isascii():
            raise UnsafeBytes("the message is not ASCII, and is to go out without SMTPUTF8")
    if ends != 2 * line_ends:
        raise UnsafeBytes("the message contains a bare CR or a bare LF")
    if has_long_line(mime):
        raise UnsafeBytes(f"the message has a line of more than {MAX_LINE} octets")


def _pieces(mime: bytes) -> Iterator[bytes]:
    """Cut a message, but not within a CRLF: each search holds Python's lock for as long as it takes."""
    start = 0
    while start < len(mime):
        end = start + _PIECE
        if mime[end - 1 : end + 1] == b"\r\n":
            end += 1
        yield mime[start:end] if start or end < len(mime) else mime
        start = end


# Header fields.


def _subject(text: str) -> str:
    """Return the value of Subject, such that unfolding and decoding gives `text` back."""
    if text == "" or (_UNSTRUCTURED.fullmatch(text) and "=?" not in text):
        return text if len(text) <= _FOLD_AT - len("Subject: ") else _folded(text)
    return _encoded_words(text, used=len("Subject: "))


def _folded(text: str) -> str:
    """Break Subject before words (RFC 5322 §2.2.3), so that no line is longer than 76."""
    lines: list[str] = []
    line = ""
    width = _FOLD_AT - len("Subject: ")
    for word in text.split(" "):
        if not line:
            line = word
        elif len(line) + 1 + len(word) <= width:
            line = f"{line} {word}"
        else:
            lines.append(line)
            line, width = word, _FOLD_AT - 1
    return "\r\n ".join((*lines, line))


def _name_and_address(name: str, mailbox: Mailbox) -> str:
    """Return the value of From: `name <address>`, or the address alone."""
    if not name:
        return mailbox.path
    phrase = _phrase(name)
    line_length = len(phrase) - (phrase.rfind("\n") + 1) + len("From: ")
    fold = "\r\n " if line_length + len(mailbox.path) + 3 > _FOLD_AT else " "
    return f"{phrase}{fold}<{mailbox.path}>"


def _phrase(name: str) -> str:
    """Return a display name as atoms, a quoted string or encoded-words, the first that can hold it."""
    # Some readers squeeze white space, and some decode encoded-words even inside quotes.
    simple = name.isascii() and name.isprintable() and "=?" not in name and "  " not in name
    if not simple or name != name.strip(" ") or len(name) > _MAX_PHRASE:
        return _encoded_words(name, used=len("From: "))
    if _PHRASE.fullmatch(name):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _address_list(mailboxes: tuple[Mailbox, ...]) -> str:
    """Return the value of To, folded after commas so that lines stay within 76 where they can."""
    if len(mailboxes) == 1:
        return mailboxes[0].path
    written: list[str] = []
    column = len("To: ")
    for mailbox in mailboxes:
        item = mailbox.path
        if written:
            fold = column + len(", ") + len(item) + len(",") > _FOLD_AT
            written.append(",\r\n " if fold else ", ")
            column = 1 if fold else column + 2
        written.append(item)
        column += len(item)
    return "".join(written)


def _encoded_words(text: str, *, used: int) -> str:
    """Return `text` as encoded-words (RFC 2047), one a line; `used` is the width of the field's name.

    B or Q, whichever is shorter. White space between encoded-words vanishes when
    they are decoded, so the text comes back exactly.
    """
    octets = text.encode()
    escaped = len(octets.translate(None, _Q_SAFE))
    use_q = len(octets) + 2 * escaped <= (len(octets) + 2) // 3 * 4
    first = _FOLD_AT - used - _ENCODED_WORD_FRAME
    rest = _ENCODED_WORD - _ENCODED_WORD_FRAME
    if use_q:
        return "\r\n ".join(f"=?utf-8?q?{word}?=" for word in _q_words(text, first, rest))
    return "\r\n ".join(f"=?utf-8?b?{word}?=" for word in _b_words(octets, first, rest))


def _q_words(text: str, first: int, rest: int) -> Iterator[str]:
    """Yield the Q encoding of `text` in pieces of at most `first`, then `rest` characters.

    A piece holds whole characters (RFC 2047 §5: each word decodes by itself).
    """
    width, piece, length = first, [""], 0
    for character in text:
        encoded = "".join([_Q_BYTES[octet] for octet in character.encode()])
        if length + len(encoded) > width:
            yield "".join(piece)
            width, piece, length = rest, [], 0
        piece.append(encoded)
        length += len(encoded)
    yield "".join(piece)


def _b_words(octets: bytes, first: int, rest: int) -> Iterator[str]:
    """Yield the B encoding of UTF-8 in pieces of at most `first`, then `rest` characters, each whole."""
    start, width = 0, first
    while start < len(octets):
        end = start + width // 4 * 3
        while end < len(octets) and octets[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        yield b2a_base64(octets[start:end], newline=False).decode()
        start, width = end, rest


@lru_cache(maxsize=16)
def _date(seconds: int) -> str:
    """Return the value of Date (RFC 5322 §3.3), in UTC and in no locale's words."""
    moment = time.gmtime(seconds)
    return (
        f"{_WEEKDAYS[moment.tm_wday]}, {moment.tm_mday:02} {_MONTHS[moment.tm_mon - 1]} {moment.tm_year:04} "
        f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02} +0000"
    )


# Bodies.


def _alternative(html: str, boundary: str) -> list[bytes]:
    """Return multipart/alternative (RFC 2046 §5.1.4): the text first, the HTML, which is preferred, last."""
    text = text_part(b"plain", html_to_text(html))
    rich = text_part(b"html", html)
    mark = boundary.encode()
    while any(mark in piece for piece in (*text, *rich)):  # it is on one line, and so in one piece
        mark = hashlib.sha256(mark).hexdigest()[:32].encode()
    head = (
        b'Content-Type: multipart/alternative; boundary="%b"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n--%b\r\n'
        % (
            mark,
            mark,
        )
    )
    return [head, *text, b"\r\n--%b\r\n" % mark, *rich, b"\r\n--%b--\r\n" % mark]
