"""Reads the folder of captured messages: a listing, or one message with its texts and attachments. Needs no server."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from postroom.core.clock import Instant
from postroom.core.errors import NotFound
from postroom.core.files import NotPlain
from postroom.inbox.maildrop import id_of, instant_of, names_in, open_message, read_envelope

if TYPE_CHECKING:
    from email.message import EmailMessage, MIMEPart

logger = logging.getLogger(__name__)

_HEADER_BYTES = 65_536  # how much of a message is read for a listing
_HEADER_CHARS = 4096  # the email package takes quadratic time over some headers


@dataclass(frozen=True, slots=True)
class MessageSummary:
    """A line of the listing. Subject and sender are decoded but hostile: print them with `printable`."""

    id: str
    received: Instant
    envelope_from: str
    envelope_to: tuple[str, ...]
    subject: str
    sender: str
    size: int  # octets of the message as it was sent
    is_test: bool = field(default=False, kw_only=True)  # of a test key: it is in the database


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part of a message that is not its text. The file name is the sender's: never a path to write to."""

    filename: str | None
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CapturedMessage(MessageSummary):
    """A whole message; `raw` is byte for byte what was sent."""

    text: str
    html: str | None
    attachments: tuple[Attachment, ...]
    raw: bytes = field(repr=False)


def list_messages(folder: Path, limit: int | None = 50) -> list[MessageSummary]:
    """Return the newest messages first; none when there is no inbox yet."""
    found: list[MessageSummary] = []
    for name in sorted(names_in(folder), reverse=True):
        if limit is not None and len(found) >= limit:
            break
        try:
            found.append(_read_summary(folder / "mail" / name))
        except FileNotFoundError:  # pruned meanwhile
            continue
        except NotPlain as error:
            logger.warning("%s is left out: %s", error.filename, error.strerror)
    return found


def read_message(folder: Path, which: str = "latest") -> CapturedMessage:
    """Return one message: by its id, the start of its id, or "latest". Raises NotFound."""
    path = folder / "mail" / _find(folder, which.strip().lower())
    try:
        return _read_whole(path)
    except FileNotFoundError:
        raise NotFound("That message has just been deleted to make room for newer ones.") from None


def _find(folder: Path, which: str) -> str:
    names = sorted(names_in(folder))
    if not names:
        raise NotFound("There is no message in the inbox yet.")
    if which == "latest":
        return names[-1]
    matches = [name for name in names if which and id_of(name).startswith(which)]
    if not matches:
        raise NotFound(f"There is no message with the id {printable(which)!r} in the inbox.")
    if len(matches) > 1:
        raise NotFound(f"{len(matches)} messages have ids that start with {which!r}: give more of it.")
    return matches[0]


def _read_summary(path: Path) -> MessageSummary:
    with open_message(path) as file:
        reverse_path, forward_paths = read_envelope(file)
        start = file.tell()
        head = file.read(_HEADER_BYTES)
        size = os.fstat(file.fileno()).st_size - start
    message = _parse(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    return MessageSummary(
        id=id_of(path.name),
        received=instant_of(path.name),
        envelope_from=reverse_path,
        envelope_to=forward_paths,
        subject=_header(message, "subject"),
        sender=_header(message, "from"),
        size=size,
    )


def _read_whole(path: Path) -> CapturedMessage:
    with open_message(path) as file:
        reverse_path, forward_paths = read_envelope(file)
        raw = file.read()
    return message_of(
        raw,
        id_=id_of(path.name),
        received=instant_of(path.name),
        envelope_from=reverse_path,
        envelope_to=forward_paths,
    )


def message_of(
    raw: bytes,
    *,
    id_: str,
    received: Instant,
    envelope_from: str,
    envelope_to: tuple[str, ...],
    is_test: bool = False,
) -> CapturedMessage:
    """Return a message with what its bytes say."""
    message = _parse(raw)
    text, html = _bodies(message, raw)
    return CapturedMessage(
        id=id_,
        received=received,
        envelope_from=envelope_from,
        envelope_to=envelope_to,
        is_test=is_test,
        subject=_header(message, "subject"),
        sender=_header(message, "from"),
        size=len(raw),
        text=text,
        html=html,
        attachments=_attachments(message),
        raw=raw,
    )


# The email package raises almost anything on crafted input (IndexError, LookupError, RecursionError,
# …), each time it is asked. A message that it cannot read is shown as it is.


def _parse(raw: bytes) -> EmailMessage | None:
    from email import message_from_bytes, policy

    try:
        return message_from_bytes(raw, policy=policy.default)
    except Exception:
        logger.info("a message in the inbox cannot be parsed", exc_info=True)
        return None


def _header(message: EmailMessage | None, name: str) -> str:
    """Return a header's decoded value on one line, or as it stands where it cannot be decoded."""
    for key, value in message.raw_items() if message is not None else ():
        if key.lower() == name:
            value = str(value)[:_HEADER_CHARS]
            with contextlib.suppress(Exception):
                value = str(message.policy.header_fetch_parse(key, value)) if message is not None else value
            return re.sub(r"\s*[\r\n]+\s*", " ", value).strip()
    return ""


def _bodies(message: EmailMessage | None, raw: bytes) -> tuple[str, str | None]:
    """Return the plain text and the HTML of a message; the raw message as text where it cannot be parsed."""
    try:
        if message is None:
            raise ValueError("not parsed")
        plain = message.get_body(("plain",))
        html = message.get_body(("html",))
        return _content(plain) or "", _content(html)
    except Exception:
        return _lines(raw.decode("utf-8", "replace")), None


def _content(part: MIMEPart | None) -> str | None:
    if part is None:
        return None
    try:
        return _lines(str(part.get_content()))
    except Exception:  # an unknown charset, mostly
        payload = part.get_payload(decode=True)
        return _lines(payload.decode("utf-8", "replace")) if isinstance(payload, bytes) else ""


def _attachments(message: EmailMessage | None) -> tuple[Attachment, ...]:
    try:
        return tuple(_attachment(part) for part in message.iter_attachments()) if message is not None else ()
    except Exception:
        return ()


def _attachment(part: MIMEPart) -> Attachment:
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else part.as_bytes()
    return Attachment(part.get_filename(), part.get_content_type(), content)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _unprintable() -> dict[int, str]:
    """Map characters that steer a terminal or reverse the reading order to harmless ones."""
    table = {code: chr(0x2400 + code) for code in range(0x20)}  # ␀ to ␟
    del table[ord("\n")], table[ord("\t")]
    table[0x7F] = "␡"
    c1 = range(0x80, 0xA0)
    bidi = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    surrogates = range(0xD800, 0xE000)
    return table | dict.fromkeys((*c1, *bidi, *surrogates), "\ufffd")


_UNPRINTABLE = _unprintable()


def printable(text: str) -> str:
    """Return the text without characters that a terminal obeys.

    Line feed and tab stay, CR LF becomes LF; other C0 characters become their
    pictures (␛), DEL ␡; C1, bidirectional controls and lone surrogates become U+FFFD.
    """
    return _lines(text).translate(_UNPRINTABLE)
