"""The SMTP client (RFC 5321, RFC 2920, RFC 3030, RFC 6531): the only one.

A `Connection` carries one mail transaction after another. Where the server takes
commands in groups (PIPELINING), MAIL, RCPT and DATA of one message leave in one write.
Nothing is sent before the answer to the end of the message before: RFC 2920 §3.1 allows
it, but Haraka, Dovecot and others do not take it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from postroom.errors import FaultKind, SMTPFault
from postroom.failpoint import passing
from postroom.model import Reply
from postroom.session import Endpoint, Session
from postroom.wire import Wire

Mark = Callable[[], Awaitable[None]]

_DOT = b".\r\n"
_LAST_WRITE = 65_536  # how much of the text may leave together with its end: one write costs less than two
_LEFT = (FaultKind.DISCONNECTED, FaultKind.REFUSED, FaultKind.TIMEOUT)
_CHUNK = 262_144  # octets of a BDAT that is not the last


@dataclass(frozen=True, slots=True)
class Envelope:
    """Reverse-path, forward-paths and the RFC 5322 bytes of one transaction."""

    reverse_path: str
    forward_paths: tuple[str, ...]
    mime: bytes = field(repr=False)
    smtputf8: bool = False


@dataclass(slots=True)
class Transcript:
    """What the server answered to one transaction.

    `rcpt` has one reply for each forward-path that was asked. `data` stays None where the
    text went in chunks. `dot_sent` is set just before the end of the text leaves, be it
    the final dot or the last chunk; with it set and `final` None, the message is in doubt.
    """

    mail: Reply | None = None
    rcpt: dict[str, Reply] = field(default_factory=dict)
    data: Reply | None = None
    final: Reply | None = None
    fault: SMTPFault | None = None
    dot_sent: bool = False
    reused: bool = False  # the connection had carried a message before

    @property
    def not_begun(self) -> bool:
        """The server had left a connection that was kept open before it heard of this message."""
        return self.reused and self.mail is None and self.fault is not None and self.fault.kind in _LEFT


class Connection(Session):
    """An SMTP session with any number of mail transactions."""

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        super().__init__(endpoint, wire)
        self._transactions = 0

    @property
    def usable(self) -> bool:
        """False once anything went wrong, or the server has spoken unasked."""
        return not self._wire.closing and not self._wire.has_unread

    @property
    def _pipelines(self) -> bool:
        return self._endpoint.pipelining and "PIPELINING" in self._extensions

    @property
    def _chunks(self) -> bool:
        return self._endpoint.chunking and "CHUNKING" in self._extensions

    def shortcoming(self, envelope: Envelope) -> str | None:
        """Say what the server lacks to take this message, or None. Asked before MAIL is sent."""
        limit = self._extensions.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < len(envelope.mime):
            return f"{self._endpoint} takes at most {limit} bytes; the message has {len(envelope.mime)}"
        if envelope.smtputf8 and "SMTPUTF8" not in self._extensions:
            return f"{self._endpoint} cannot carry addresses that are not ASCII (it does not offer SMTPUTF8)"
        return None

    async def transact(self, envelope: Envelope, before_dot: Mark) -> Transcript:
        """Carry one message over; `before_dot` is awaited between the text and its end.

        Whatever `before_dot` raises passes through, the connection closed and the
        message not sent. Faults of the connection are in the transcript.
        """
        transcript = Transcript(reused=self._transactions > 0)
        self._transactions += 1
        try:
            await self._envelope(envelope, transcript)
            if not self._may_send(transcript):
                await self._back_out(transcript)
            elif self._chunks:
                await self._in_chunks(envelope, transcript, before_dot)
            else:
                await self._as_data(envelope, transcript, before_dot)
        except SMTPFault as fault:
            transcript.fault = fault
            self._wire.abort()
        except BaseException:
            self._wire.abort()
            raise
        return transcript

    # -- the envelope

    async def _envelope(self, envelope: Envelope, transcript: Transcript) -> None:
        if not self._pipelines:
            await self._step_by_step(envelope, transcript)
            return
        await self._say("MAIL", "\r\n".join(self._commands(envelope)))
        await self._read_envelope(envelope, transcript)

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
        transcript.mail = await self._answer("MAIL", self._timeouts.command)
        passing("send.mail")
        for path in envelope.forward_paths:
            transcript.rcpt[path] = await self._answer("RCPT", self._timeouts.command)
            passing("send.rcpt")
        if not self._chunks:
            transcript.data = await self._answer("DATA", self._timeouts.data)

    async def _step_by_step(self, envelope: Envelope, transcript: Transcript) -> None:
        seconds = self._timeouts.command
        await self._say("MAIL", self._mail_command(envelope))
        transcript.mail = await self._answer("MAIL", seconds)
        passing("send.mail")
        if not transcript.mail.positive:
            return
        for path in envelope.forward_paths:
            await self._say("RCPT", f"RCPT TO:<{path}>")
            transcript.rcpt[path] = await self._answer("RCPT", seconds)
            passing("send.rcpt")
        if not self._chunks and any(reply.positive for reply in transcript.rcpt.values()):
            await self._say("DATA", "DATA")
            transcript.data = await self._answer("DATA", self._timeouts.data)

    async def _answer(self, verb: str, seconds: float) -> Reply:
        """Read the reply to one command of a transaction; anything out of turn is a fault."""
        reply = await self._wire.reply(verb, seconds)
        expected = reply.code == 354 if verb == "DATA" else reply.positive
        if reply.code == 421 or not (expected or reply.code >= 400):
            raise self._out_of_turn(verb, reply)
        return reply

    def _may_send(self, transcript: Transcript) -> bool:
        mail, data = transcript.mail, transcript.data
        accepted = any(reply.positive for reply in transcript.rcpt.values())
        ready = self._chunks or (data is not None and data.code == 354)
        return mail is not None and mail.positive and accepted and ready

    async def _back_out(self, transcript: Transcript) -> None:
        """Leave a transaction that has nobody to go to, so that the session can be used again."""
        mail, data = transcript.mail, transcript.data
        if data is not None and data.code == 354:
            if any(reply.positive for reply in transcript.rcpt.values()):
                raise self._out_of_turn("DATA", data)  # after refusing MAIL: an empty message would go out
            # RFC 2920 §3.1: DATA was taken although every recipient was refused; an empty message ends it.
            await self._wire.write(_DOT, "dot", self._timeouts.block)
            await self._answer("dot", self._timeouts.dot)
        elif mail is not None and mail.positive:
            await self._reset()

    async def _reset(self) -> None:
        self._expect(await self._command("RSET", "RSET"), "RSET")

    # -- the text

    async def _as_data(self, envelope: Envelope, transcript: Transcript, before_dot: Mark) -> None:
        """Send all but the end, then `before_dot`, then the end with its dot in one write."""
        passing("send.data")
        text = dot_stuff(envelope.mime)
        early, end = text[:-_LAST_WRITE], text[-_LAST_WRITE:]
        await self._wire.write(early, "DATA", self._timeouts.block)
        passing("send.before_mark")
        if await self._may_end("DATA", transcript, before_dot):
            await self._end("dot", end + _DOT, transcript)

    async def _in_chunks(self, envelope: Envelope, transcript: Transcript, before_dot: Mark) -> None:
        """Send all chunks but the last, then `before_dot`, then the last in one write (RFC 3030 §2)."""
        passing("send.data")
        early, end = envelope.mime[:-_LAST_WRITE], envelope.mime[-_LAST_WRITE:]
        refusal = await self._early_chunks(early)
        if refusal is not None:
            transcript.final = refusal
            await self._reset()  # what follows a refused chunk would be refused too
            return
        passing("send.before_mark")
        if await self._may_end("BDAT", transcript, before_dot):
            await self._end("BDAT", b"BDAT %d LAST\r\n" % len(end) + end, transcript)

    async def _early_chunks(self, early: bytes) -> Reply | None:
        """Send these octets; return the first reply that refuses a chunk, if there is one."""
        chunks = [early[start : start + _CHUNK] for start in range(0, len(early), _CHUNK)]
        unanswered = 0
        refusal: Reply | None = None
        for chunk in chunks:
            await self._wire.write(b"BDAT %d\r\n" % len(chunk) + chunk, "BDAT", self._timeouts.block)
            unanswered += 1
            if not self._pipelines:
                unanswered, refusal = 0, await self._refusal(1)
            if refusal is not None:
                return refusal
        return await self._refusal(unanswered)

    async def _refusal(self, count: int) -> Reply | None:
        replies = [await self._answer("BDAT", self._timeouts.data) for _ in range(count)]
        return next((reply for reply in replies if not reply.positive), None)

    async def _may_end(self, verb: str, transcript: Transcript, before_dot: Mark) -> bool:
        """Await the mark, unless the server has spoken before it was asked to, before the mark or meanwhile."""
        if await self._answered_early(verb, transcript):
            return False
        await before_dot()
        passing("send.marked")
        return not await self._answered_early(verb, transcript)

    async def _answered_early(self, verb: str, transcript: Transcript) -> bool:
        """The server spoke before the end: its words count only if they refuse, and the session is over."""
        if not self._wire.has_unread and not self._wire.closing:
            return False
        reply = await self._wire.reply(verb, self._timeouts.data)
        if reply.code < 400:
            raise self._out_of_turn(verb, reply)
        transcript.final = reply
        self._wire.abort()
        return True

    async def _end(self, verb: str, end: bytes, transcript: Transcript) -> None:
        """Send the end of the text and read the reply to it."""
        transcript.dot_sent = True
        await self._wire.write(end, verb, self._timeouts.block)
        passing("send.dot")
        reply = await self._wire.reply(verb, self._timeouts.dot)
        passing("send.replied")
        if 300 <= reply.code < 400:
            raise self._out_of_turn(verb, reply)
        transcript.final = reply
        if reply.code == 421:
            self._wire.abort()


def dot_stuff(mime: bytes) -> bytes:
    """Double the dot that starts a line (RFC 5321 §4.5.2). `mime` must have passed the gate (`mime.gate`)."""
    stuffed = mime.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed
