"""Encodes the text parts of a message: 7bit, quoted-printable or base64 (RFC 2045, RFC 2046), in pieces.

Each step over a whole text of 25 MB would hold Python's lock for up to 0.4 s, and delay all other requests.
"""

from __future__ import annotations

from binascii import a2b_qp, b2a_base64, b2a_qp
from collections.abc import Iterator

MAX_LINE = 998  # octets before CRLF, RFC 5322 §2.1.1
_PIECE = 262_144  # characters; more than a line may have
_TEXT_SAFE = bytes((9, 10, 13, *range(32, 127)))  # is sent as it is in a 7bit body
_QP_SAFE = _TEXT_SAFE.replace(b"=", b"")
_ENCODED_LINE = 76  # RFC 2045 §6.7 (5), §6.8
_LINE_OCTETS = _ENCODED_LINE // 4 * 3  # in base64


def text_part(subtype: bytes, text: str) -> list[bytes]:
    """Return a text part: its Content fields and the empty line, then its content, in pieces that end with CRLF."""
    pieces = _canonical(text)
    if all(map(_is_7bit, pieces)):
        encoding = b"7bit"
    else:
        encoding, pieces = _encoded(pieces)
    head = b"Content-Type: text/%b; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n" % (
        subtype,
        encoding,
    )
    return [head, *pieces]


def has_long_line(mime: bytes) -> bool:
    """Tell whether a line is longer than 998 octets, in leaps of up to that length."""
    start, size = 0, len(mime)
    while size - start > MAX_LINE:
        line_end = mime.rfind(b"\r\n", start, start + MAX_LINE + 2)
        if line_end < 0:
            return True
        start = line_end + 2
    return False


def _canonical(text: str) -> list[bytes]:
    """Return UTF-8 in which CRLF ends every line, the last one included (RFC 2046 §4.1.1).

    CRLF, CR and LF in the text are one line end each; nothing else changes. Each piece ends with CRLF, unless all of
    it is within one line.
    """
    if text and not text.endswith(("\n", "\r")):
        text += "\n"
    if len(text) <= _PIECE:
        return [_with_crlf(text)]
    return [_with_crlf(piece) for piece in _cut(text)]


def _with_crlf(text: str) -> bytes:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("\n", "\r\n").encode()


def _cut(text: str) -> Iterator[str]:
    """Cut a text after line ends, and inside a line only where that is longer than a piece."""
    start = 0
    while start < len(text):
        most = start + _PIECE
        end = max(text.rfind("\n", start, most), text.rfind("\r", start, most)) + 1 or most
        if text[end - 1 : end + 1] == "\r\n":
            end += 1
        yield text[start:end]
        start = end


def _is_7bit(data: bytes) -> bool:
    """Tell whether canonical text can go out as it is (RFC 2045 §2.7) and come through unchanged.

    Relays cut off white space before a line end. A piece that is within one line has a long one.
    """
    return (
        not data.translate(None, _TEXT_SAFE)
        and b" \r\n" not in data
        and b"\t\r\n" not in data
        and not has_long_line(data)
    )


def _encoded(pieces: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Return canonical text in quoted-printable or base64 (RFC 2045 §6.7, §6.8), the shorter by estimate."""
    escaped = sum(len(piece.translate(None, _QP_SAFE)) for piece in pieces)
    # 3 octets for each escape against 4 for every 3; both break lines at 76, which cancels out.
    if 2 * escaped <= sum(map(len, pieces)) // 3:
        return b"quoted-printable", list(_quoted_printable(pieces))
    return b"base64", list(_base64(pieces))


def _quoted_printable(pieces: list[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        encoded = b2a_qp(rest + piece, istext=True)
        rest = b""
        if not piece.endswith(b"\r\n"):  # the last encoded line goes on: encode it again, with the next piece
            end = encoded.rfind(b"=\n") + 2
            rest = a2b_qp(encoded[end:])
            encoded = encoded[:end].replace(b"\n", b"\r\n")  # `b2a_qp` has seen no line end to go by
        yield encoded


def _base64(pieces: list[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        octets = rest + piece
        whole = len(octets) - len(octets) % _LINE_OCTETS
        rest = octets[whole:]
        digits = b2a_base64(octets[:whole], newline=False)
        lines = [digits[start : start + _ENCODED_LINE] for start in range(0, len(digits), _ENCODED_LINE)]
        if lines:
            yield b"".join([line + b"\r\n" for line in lines])
    if rest:
        yield b2a_base64(rest, newline=False) + b"\r\n"
