"""Reads replies from the socket and writes bytes to it, within deadlines; nothing else touches the socket.

Every deadline is for a whole reply, not for one read, and what is kept of a server's
words is bounded in size. Whatever breaks a `Wire` breaks it for good.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from postroom.core.classify import parse_enhanced
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Reply
from postroom.core.text import printable, shortened
from postroom.smtp.credentials import STRUCK, Credentials
from postroom.smtp.tape import Tape
from postroom.smtp.tls import ended, handshake_fault

_MOST_REPLY_BYTES = 64 * 1024
_MOST_UNREAD_BYTES = 256 * 1024
_MOST_UNREAD_REPLIES = 10_000  # short ones take many times their bytes
_ACTED_ON = frozenset({"EHLO", "AUTH"})  # what a server offers and asks for: a password may be a word of SMTP
_SHOWN = 80  # characters of a line that is not SMTP
_MOST_KEPT = (
    2_000  # characters of a reply, more than anybody reads: it is stored with message, attempt and event
)
_MOST_STRUCK = 2 * _MOST_KEPT  # that are searched for credentials: all accounts wait for it
_WRITE_CHUNK = 256 * 1024
_SHORT, _MOST_KNOWN = 100, 32  # octets of a line that is remembered, and how many are
_LINE = re.compile(rb"[2-5][0-9]{2}(?:[ -][^\0]*)?")  # without its end


class Wire(asyncio.Protocol):
    """Bytes to replies. The only place where bytes move."""

    def __init__(self, credentials: Credentials | None = None, tape: Tape | None = None) -> None:
        self.observe: Callable[[str, float], None] | None = None  # told how long each reply was waited for
        self.credentials = credentials  # struck from whatever the server says
        self.tape = tape or Tape()  # what was said
        self.as_it_came = ""  # the words of the last reply to EHLO or AUTH: acted on, never kept or shown
        self.transport: asyncio.Transport | None = None
        self._tcp: asyncio.Transport | None = None  # the same as `transport`, or what is below its TLS
        self._buffer = b""  # a line that has not ended
        self._lines: list[bytes] = []
        self._size = 0  # of `_lines`
        self._unread = 0  # bytes that came since all replies had last been taken
        self._known: dict[bytes, Reply] = {}  # by line: a server says the same to each MAIL, RCPT and DATA
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self.broken: SMTPFault | None = None

    # -- callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self._tcp = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if self.broken is None:
                self._take_line(line.removesuffix(b"\r"))
        if self._size + len(self._buffer) > _MOST_REPLY_BYTES or self._unread > _MOST_UNREAD_BYTES:
            self._break(FaultKind.GARBLED, "the server's reply does not end")
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(FaultKind.DISCONNECTED, ended(exc))

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # -- parsing (RFC 5321 §4.2.1)

    def _take_line(self, line: bytes) -> None:
        if not self._lines and (known := self._known.get(line)) is not None:
            self._take_reply(known)
            return
        other_code = bool(self._lines) and self._lines[0][:3] != line[:3]
        if other_code or _LINE.fullmatch(line) is None:
            said = printable(self.struck(_text(line))[:_SHOWN])
            self._break(FaultKind.GARBLED, f"the server answered with something that is not SMTP: {said!r}")
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size > _MOST_REPLY_BYTES:
            self._break(FaultKind.GARBLED, "the server's reply does not end")
        if line[3:4] == b"-" or self.broken is not None:
            return
        reply = _parse_reply(self._lines)
        if len(self._lines) == 1 and len(line) <= _SHORT and len(self._known) < _MOST_KNOWN:
            self._known[line] = reply
        self._lines, self._size = [], 0
        self._take_reply(reply)

    def _take_reply(self, reply: Reply) -> None:
        self._replies.append(reply)
        if len(self._replies) > _MOST_UNREAD_REPLIES:
            self._break(FaultKind.GARBLED, "the server's replies do not end")

    def _break(self, kind: FaultKind, message: str) -> None:
        if self.broken is None:
            self.broken = SMTPFault(kind, "", message)
            if self.transport is not None:
                self.transport.abort()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        self._wake()

    def _wake(self) -> None:
        ready = self._replies or self.broken is not None
        if ready and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- for the Connection

    @property
    def has_unread(self) -> bool:
        """Something came that nobody has asked for yet."""
        return bool(self._replies or self._buffer or self._lines)

    @property
    def closing(self) -> bool:
        """Nothing can be sent any more, though what ended it may not be known yet (`reply` waits for that)."""
        return self.broken is not None or self._tcp is None or self._tcp.is_closing()

    async def reply(self, verb: str, seconds: float) -> Reply:
        """Return the next whole reply. Raises SMTPFault; after that the connection is dead."""
        if not self._replies:
            began = time.perf_counter()
            await self._wait(verb, seconds)
            if self.observe is not None:
                self.observe(verb, time.perf_counter() - began)
        if not self._replies:
            raise self._fault(verb)
        reply = self._replies.popleft()
        if not self._replies:
            self._unread = self._size + len(self._buffer)
        self.as_it_came = reply.text if verb in _ACTED_ON else ""
        kept = self._kept(reply, verb)
        self.tape.heard(kept)
        return kept

    def _kept(self, reply: Reply, verb: str) -> Reply:
        """Return a reply as it may be stored: first struck, so that no password is cut in two, and then shortened."""
        if self.credentials is None and len(reply.text) <= _MOST_KEPT:
            return reply
        text, left_out = reply.text[:_MOST_STRUCK], len(reply.text[_MOST_STRUCK:])
        if left_out:
            reply = replace(reply, text=text)
        struck = self.credentials.strike_reply(reply, verb) if self.credentials else reply
        if not struck.text or (not left_out and len(struck.text) <= _MOST_KEPT):
            return struck
        return replace(
            struck, text=shortened(_to_the_last_struck(struck.text, left_out), _MOST_KEPT, left_out)
        )

    def struck(self, text: str) -> str:
        """Return other words of the server, such as the names in its certificate, as they may be shown."""
        beginning, left_out = text[:_MOST_STRUCK], len(text[_MOST_STRUCK:])
        struck = self.credentials.strike(beginning) if self.credentials else beginning
        return _to_the_last_struck(struck, left_out)

    async def _wait(self, verb: str, seconds: float) -> None:
        if self.broken is not None:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        late = loop.call_later(seconds, self._time_out, verb, seconds)
        try:
            await self._waiter
        finally:
            late.cancel()
            self._waiter = None

    def _time_out(self, verb: str, seconds: float) -> None:
        missing = verb if verb == "greeting" else f"answer to {verb}"
        self._break(FaultKind.TIMEOUT, f"no {missing} within {seconds:g} s")

    def _fault(self, verb: str) -> SMTPFault:
        assert self.broken is not None
        return SMTPFault(self.broken.kind, verb, f"{self.broken} (during {verb})")

    async def write(self, data: bytes, verb: str, seconds: float) -> None:
        """Send bytes; wait, no longer than `seconds` a block, while the server does not take them."""
        for start in range(0, len(data), _WRITE_CHUNK):
            if self.closing or self.transport is None:
                return
            self.transport.write(data[start : start + _WRITE_CHUNK] if len(data) > _WRITE_CHUNK else data)
            if self._writable is not None:
                await self._drain(verb, seconds)

    async def _drain(self, verb: str, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        late = loop.call_later(seconds, self._time_out, verb, seconds)
        try:
            if self._writable is not None:
                await self._writable
        finally:
            late.cancel()

    def abort(self) -> None:
        """Close at once; from now on the wire is broken."""
        self._break(FaultKind.DISCONNECTED, "we closed the connection")

    async def start_tls(self, context: ssl.SSLContext, host: str, where: str, seconds: float) -> None:
        """Go on in TLS, the certificate verified for `host`. Raises SMTPFault."""
        if self.has_unread:
            message = (
                f"{where} sent plain text where TLS had to begin: somebody may be tampering with the line"
            )
            raise SMTPFault(FaultKind.INSECURE, "STARTTLS", message)
        if self.closing or self.transport is None:
            await self._wait("STARTTLS", seconds)
            raise self._fault("STARTTLS")
        try:
            # No wait_for: it would let the loop run, and plain text come in, between the check above and TLS.
            async with asyncio.timeout(seconds):
                self.transport = await self._upgraded(self.transport, context, host)
        except TimeoutError as error:
            message = f"no TLS handshake with {where} within {seconds:g} s"
            raise SMTPFault(FaultKind.TIMEOUT, "STARTTLS", message) from error
        except (OSError, EOFError) as error:
            raise handshake_fault(where, error) from error

    @property
    def tls_in_use(self) -> str:
        """Version and cipher suite of TLS."""
        tls = None if self.transport is None else self.transport.get_extra_info("ssl_object")
        return "TLS" if tls is None else f"{tls.version()}, {tls.cipher()[0]}"

    async def _upgraded(
        self, transport: asyncio.Transport, context: ssl.SSLContext, host: str
    ) -> asyncio.Transport:
        upgraded = await asyncio.get_running_loop().start_tls(transport, self, context, server_hostname=host)
        if upgraded is None:  # asyncio says so when the server closes before its first byte
            raise EOFError("the server closed the connection")
        return upgraded


def _to_the_last_struck(text: str, left_out: int) -> str:
    """Leave out what follows where so much was struck that the end of what was looked at would be kept.

    It may be the beginning of a password.
    """
    if not left_out or len(text) > _MOST_KEPT:
        return text
    return text[: text.rfind(STRUCK) + len(STRUCK)]


def _text(line: bytes) -> str:
    """Read a server's words: UTF-8, or else with all octets escaped that are not ASCII, so that none is lost."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("ascii", "backslashreplace")


def _parse_reply(lines: Sequence[bytes]) -> Reply:
    texts = [_text(line[4:]) for line in lines]
    enhanced = parse_enhanced(texts[-1])
    if enhanced is not None:
        texts = [text.removeprefix(enhanced).lstrip(" ") for text in texts]
    return Reply(int(lines[0][:3]), "\n".join(texts).rstrip(), enhanced)
