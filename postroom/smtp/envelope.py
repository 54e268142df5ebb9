"""Sends MAIL, RCPT and DATA, in one write where the server has PIPELINING (RFC 5321 §3.3, RFC 2920)."""

from __future__ import annotations

import asyncio
import re
from functools import cached_property

from postroom.core import failpoint
from postroom.core.numbers import whole_number
from postroom.core.outcome import Reply
from postroom.core.stored_text import StoredText
from postroom.smtp import suspicion
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.pieces import LAST_WRITE, SMALL
from postroom.smtp.session import Session
from postroom.smtp.stream import Wire
from postroom.smtp.transcript import Envelope, ServerTraits, Text, Transcript

_DOT = b".\r\n"
_EXIM = re.compile(r"\bExim\b", re.IGNORECASE)
_MOST_DIGITS_OF_SIZE = 20  # RFC 1870 §3: at most twenty digits; what else is announced is no limit


class EnvelopeSession(Session):
    """An SMTP session that asks for transactions: what the server offers for one, and its answers to the envelope."""

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        super().__init__(endpoint, wire)
        self._stepwise = False  # for the transaction under way
        self.traits = ServerTraits()

    @property
    def where(self) -> str:
        """Host and port of the server."""
        return str(self._endpoint)

    @property
    def usable(self) -> bool:
        """False once anything went wrong, or the server has spoken unasked."""
        return not self._wire.closing and not self._wire.has_unread

    @property
    def _pipelines(self) -> bool:
        offered = self._endpoint.pipelining and "PIPELINING" in self._extensions
        return offered and self.traits.pipelining and not self._stepwise

    @property
    def _chunks(self) -> bool:
        """Exim 4.96 loses messages that it has acknowledged to BDAT when SIGTERM stops it, and none of DATA's."""
        offered = self._endpoint.chunking and "CHUNKING" in self._extensions
        return offered and self.traits.chunking and not self._stepwise and not self._is_exim

    @cached_property
    def _is_exim(self) -> bool:
        return any(_EXIM.search(text) for text in self._names_itself)

    def shortcoming(self, envelope: Envelope) -> str | None:
        """Say what the server lacks to take this message, or None. Asked before MAIL is sent."""
        said = self._extensions.get("SIZE", "")
        limit = whole_number(said, _MOST_DIGITS_OF_SIZE)
        if limit and limit < len(envelope.mime):
            most = "fewer" if self._wire.struck(said) != said else f"at most {limit}"
            return f"{self._endpoint} takes {most} bytes; the message has {len(envelope.mime)}"
        if envelope.smtputf8 and "SMTPUTF8" not in self._extensions:
            return f"{self._endpoint} cannot carry addresses that are not ASCII (it does not offer SMTPUTF8)"
        return None

    # -- the envelope

    async def _envelope(self, envelope: Envelope, transcript: Transcript) -> Text:
        """Ask for the transaction; return what is left of the text to be sent."""
        if not self._pipelines:
            await self._step_by_step(envelope, transcript)
            return envelope.mime
        transcript.grouped = True
        first, rest = self._first_chunk(envelope.mime)
        await self._say_in_one("MAIL", self._commands(envelope), first)
        await self._read_envelope(envelope, transcript)
        if first:
            reply = await self._answer("BDAT", self._patience(self._timeouts.data))
            if not reply.positive and transcript.has_recipients:
                transcript.final = reply
        return rest

    def _first_chunk(self, mime: Text) -> tuple[bytes, Text]:
        """Cut off a chunk that leaves with the envelope where a server has yet to show that it takes chunks.

        It is not the last, so that whatever the server does with it, the message is not sent. A stored text has
        several chunks anyway.
        """
        if not self._chunks or self.traits.took_chunks or isinstance(mime, StoredText):
            return b"", mime
        at = min(len(mime) // SMALL, LAST_WRITE // SMALL)
        return b"BDAT %d\r\n" % at + mime[:at], mime[at:]

    async def _say_in_one(self, verb: str, commands: list[str], text: bytes = b"") -> None:
        await self.say(verb, "\r\n".join(commands), text)

    def _patience(self, seconds: float) -> float:
        """Return how long to wait for an answer within a group."""
        known = self.traits.took_group or self.traits.is_believed or not self._pipelines
        return seconds if known else min(seconds, suspicion.SILENCE_S)

    def _commands(self, envelope: Envelope) -> list[str]:
        commands = [self._mail_command(envelope)]
        commands += [f"RCPT TO:<{path}>" for path in envelope.forward_paths]
        if not self._chunks:
            commands.append("DATA")
        return commands

    def _mail_command(self, envelope: Envelope) -> str:
        command = f"MAIL FROM:<{envelope.reverse_path}>"
        if "SIZE" in self._extensions:
            command += f" SIZE={len(envelope.mime)}"
        if envelope.smtputf8:
            command += " SMTPUTF8"
            if "8BITMIME" in self._extensions:
                command += " BODY=8BITMIME"
        return command

    async def _read_envelope(self, envelope: Envelope, transcript: Transcript) -> None:
        seconds = self._patience(self._timeouts.command)
        transcript.mail = await self._answer("MAIL", seconds)
        failpoint.hit("send.mail")
        for path in envelope.forward_paths:
            transcript.rcpt[path] = await self._answer("RCPT", seconds)
            failpoint.hit("send.rcpt")
        if not self._chunks:
            transcript.data = await self._answer("DATA", self._patience(self._timeouts.data))

    async def _step_by_step(self, envelope: Envelope, transcript: Transcript) -> None:
        seconds = self._timeouts.command
        transcript.mail = await self._ask(transcript, "MAIL", self._mail_command(envelope), seconds)
        failpoint.hit("send.mail")
        if not transcript.mail.positive:
            return
        for path in envelope.forward_paths:
            transcript.rcpt[path] = await self._ask(transcript, "RCPT", f"RCPT TO:<{path}>", seconds)
            failpoint.hit("send.rcpt")
        if not self._chunks and transcript.has_recipients:
            transcript.data = await self._ask(transcript, "DATA", "DATA", self._timeouts.data)

    async def _ask(self, transcript: Transcript, verb: str, command: str, seconds: float) -> Reply:
        began = asyncio.get_running_loop().time()
        await self.say(verb, command)
        reply = await self._answer(verb, seconds)
        transcript.slowest = max(transcript.slowest, asyncio.get_running_loop().time() - began)
        return reply

    async def _answer(self, verb: str, seconds: float) -> Reply:
        """Read the reply to one command of a transaction; anything out of turn is a fault."""
        reply = await self._wire.reply(verb, seconds)
        expected = reply.code == 354 if verb == "DATA" else reply.positive
        if reply.code == 421 or not (expected or reply.code >= 400):
            raise self.out_of_turn(verb, reply)
        return reply

    def _may_send(self, transcript: Transcript) -> bool:
        mail, data = transcript.mail, transcript.data
        ready = self._chunks or (data is not None and data.code == 354)
        return mail is not None and mail.positive and transcript.has_recipients and ready

    async def _back_out(self, transcript: Transcript) -> None:
        """Leave a transaction that has nobody to go to, so that the session can be used again."""
        mail, data = transcript.mail, transcript.data
        if data is not None and data.code == 354:
            if transcript.has_recipients:
                raise self.out_of_turn("DATA", data)  # after refusing MAIL: an empty message would go out
            # RFC 2920 §3.1: DATA was taken although every recipient was refused; an empty message ends it.
            self.tape.said(".")
            await self._wire.write(_DOT, "dot", self._timeouts.block)
            await self._answer("dot", self._timeouts.dot)
        elif mail is not None and mail.positive:
            await self._reset()

    async def _reset(self) -> None:
        self.expect(await self.command("RSET", "RSET"), "RSET")
