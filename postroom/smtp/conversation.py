"""Sends one SMTP command at a time and reads its reply; a reply out of turn is a fault (RFC 5321 §4.1.4)."""

from __future__ import annotations

import time

from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Reply
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.stream import Wire

FORM = (500, 501, 502, 503, 504)  # the command's form is refused, not what it asks for


class Conversation:
    """A connection over which commands are said and answered."""

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        self._endpoint = endpoint
        self._timeouts = endpoint.timeouts
        self._wire = wire
        self.tape = wire.tape
        self._round_trip = float("inf")  # the quickest answer to a command, in seconds

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    @property
    def host(self) -> str:
        """The server's name, as it was given."""
        return self._endpoint.host

    @property
    def last_text(self) -> str:
        """The text of the last reply as the server sent it, with credentials still in it: for the log-in alone."""
        return self._wire.as_it_came

    def struck(self, text: str) -> str:
        """Return the server's words without the credentials in them."""
        return self._wire.struck(text)

    async def command(self, verb: str, line: str) -> Reply:
        began = time.perf_counter()
        await self.say(verb, line)
        reply = await self._wire.reply(verb, self._timeouts.command)
        self._round_trip = min(self._round_trip, time.perf_counter() - began)
        return reply

    async def say(self, verb: str, line: str, text: bytes = b"") -> None:
        """Send a command, and `text` behind it, unless the server has spoken unasked: that must not pass for the answer."""
        if self._wire.has_unread:
            raise self.out_of_turn(verb, await self._wire.reply(verb, self._timeouts.command))
        if verb == "AUTH":
            self.tape.said_secret(line)
        else:
            self.tape.said_at_once(line.split("\r\n")) if "\n" in line else self.tape.said(line)
            if text:
                self._record_chunk(text)
        await self._wire.write(line.encode() + b"\r\n" + text, verb, self._timeouts.command)

    def _record_chunk(self, chunk: bytes) -> None:
        """Record a chunk with its BDAT: the command, and how many octets followed."""
        end = chunk.index(b"\r\n")
        self.tape.said(chunk[:end].decode())
        self.tape.gave(len(chunk) - end - 2)

    def out_of_turn(self, verb: str, reply: Reply) -> SMTPFault:
        if reply.code == 421:
            return SMTPFault(FaultKind.REFUSED, verb, f"{self._endpoint} is closing: {reply}", reply)
        message = f"{self._endpoint} answered {verb} out of turn: {reply}"
        return SMTPFault(FaultKind.GARBLED, verb, message, reply)

    def expect(self, reply: Reply, verb: str) -> None:
        if not reply.positive:
            raise SMTPFault(FaultKind.REFUSED, verb, f"{self._endpoint} refused {verb}: {reply}", reply)

    async def quit(self) -> None:
        """Say goodbye, briefly, and close. Never raises."""
        try:
            if self._wire.broken is None:
                await self._wire.write(b"QUIT\r\n", "QUIT", self._timeouts.quit)
                await self._wire.reply("QUIT", self._timeouts.quit)
        except SMTPFault:
            pass
        finally:
            self._wire.abort()

    def abort(self) -> None:
        """Close at once, without QUIT."""
        self._wire.abort()
