"""The SMTP client (RFC 5321, RFC 2920, RFC 3030, RFC 6531): the only one.

A `Connection` carries one mail transaction after another. Where the server takes
commands in groups (PIPELINING), MAIL, RCPT and DATA of one message leave in one write;
with CHUNKING and a server that is far away, the message as well: one round trip.
Nothing is sent before the answer to the end of the message before: RFC 2920 §3.1 allows
it, but Haraka, Dovecot and others do not take it.

Some servers offer PIPELINING or CHUNKING and do not take it. Until a server has taken a
group, what it does with one is not held against the message (`Suspicion`).
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TypeAlias, TypeGuard

from postroom.core import failpoint
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.numbers import whole_number
from postroom.core.outcome import Reply
from postroom.core.stored_text import StoredText
from postroom.smtp.session import Endpoint, Session
from postroom.smtp.stream import Wire

Mark = Callable[[], Awaitable[None]]
Text: TypeAlias = bytes | StoredText

_DOT = b".\r\n"
_LAST_WRITE = 65_536  # how much of the text may leave together with its end: one write costs less than two
_SMALL = 2  # parts of a text whose first is the chunk by which a server shows that it takes chunks
_LEFT = (FaultKind.DISCONNECTED, FaultKind.REFUSED, FaultKind.TIMEOUT)
_CHUNK = 262_144  # octets of a text that leave together before its end
_SILENCE_S = 5.0  # how long a server that has not taken a group yet may say nothing within one
_FAR_S = 0.005  # of a round trip: from here on one less is worth that a break leaves a doubt more often
_IN_FLOW_S = 1.0  # since the last answer: then the server is not about to close an idle connection
_CAUTION_S = 3600.0  # after a break that left a doubt, before messages leave in one write again
_NOT_TAKEN = (500, 501, 502, 503, 554)  # replies to a command of a group that may be about the group
_EXIM = re.compile(r"\bExim\b", re.IGNORECASE)
_MOST_DIGITS_OF_SIZE = 20  # RFC 1870 §3: at most twenty digits; what else is announced is no limit


class Extension(Enum):
    """What a server offers and may not take."""

    PIPELINING = "PIPELINING"
    CHUNKING = "CHUNKING"


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Why a server may not take an extension that it offers: what it said or did, at which verb."""

    extension: Extension
    verb: str
    said: str
    code: int | None = None  # of its reply; None: it left, or was silent


@dataclass(slots=True)
class ServerTraits:
    """What a server has shown beyond its EHLO; shared by all connections of an account to it.

    `pipelining` and `chunking` are False once it is known that the server does not take what it offers.
    `on_lack` is told when that is found out.
    """

    pipelining: bool = True
    chunking: bool = True
    took_group: bool = False  # a message whose commands left in one write
    took_chunks: bool = False  # a message in chunks
    goes_on: bool = False  # a message after another over one connection
    is_believed: bool = False  # asked one command at a time it has given the same answer
    broke_at: float = (
        -math.inf
    )  # by the loop's clock: when a break left a message that left in one write in doubt
    on_lack: Callable[[Suspicion], None] = lambda suspicion: None

    def lack(self, suspicion: Suspicion) -> None:
        """Do without this extension from now on."""
        known = self.pipelining if suspicion.extension is Extension.PIPELINING else self.chunking
        if suspicion.extension is Extension.PIPELINING:
            self.pipelining = False
        self.chunking = False
        if known:
            self.on_lack(suspicion)


@dataclass(frozen=True, slots=True)
class Envelope:
    """Reverse-path, forward-paths and the RFC 5322 bytes of one transaction."""

    reverse_path: str
    forward_paths: tuple[str, ...]
    mime: Text = field(repr=False)
    smtputf8: bool = False


@dataclass(slots=True)
class Transcript:
    """What the server answered to one transaction.

    `rcpt` has one reply for each forward-path that was asked. `data` stays None where the
    text went in chunks. `dot_sent` is set just before the end of the text leaves, be it
    the final dot or the last chunk; with it set and `final` None, the message is in doubt.
    `suspicion` is set where all that went wrong may be that the server does not take groups.
    """

    mail: Reply | None = None
    rcpt: dict[str, Reply] = field(default_factory=dict)
    data: Reply | None = None
    final: Reply | None = None
    fault: SMTPFault | None = None
    dot_sent: bool = False
    reused: bool = False  # the connection had been asked for a transaction before
    carried: bool = False  # the connection had begun a transaction before: its MAIL was accepted
    grouped: bool = False  # commands left before the answers to those before them
    suspicion: Suspicion | None = None
    slowest: float = 0.0  # seconds until the latest answer within the envelope

    @property
    def not_begun(self) -> bool:
        """The server had left a connection that was kept open before it heard of this message."""
        left = self.fault is not None and self.fault.kind in _LEFT
        return self.reused and self.mail is None and left and not self.dot_sent

    @property
    def is_in_doubt(self) -> bool:
        """The end of the text has left, and no answer to it has come."""
        return self.dot_sent and self.final is None

    @property
    def has_recipients(self) -> bool:
        """Whether the server has accepted any."""
        return any(reply.positive for reply in self.rcpt.values())

    @property
    def all_consent(self) -> bool:
        """Every answer so far, that to MAIL among them, is a consent."""
        final, mail, data = self.final, self.mail, self.data
        if (
            self.fault is not None
            or mail is None
            or not mail.positive
            or (data is not None and data.code != 354)
        ):
            return False
        return (final is None or final.positive) and all(reply.positive for reply in self.rcpt.values())

    @property
    def was_taken_for_all(self) -> bool:
        """The server has taken the message, and every answer before was a consent."""
        return self.final is not None and self.all_consent

    def refused_at(self) -> tuple[str, Reply] | None:
        """Return the first refusal that those before it do not explain, and the verb."""
        if self.mail is not None and not self.mail.positive:
            return "MAIL", self.mail
        for reply in self.rcpt.values():
            if reply.code in _NOT_TAKEN:
                return "RCPT", reply
        if self.has_recipients and self.data is not None and self.data.code != 354:
            return "DATA", self.data
        if self.final is not None and not self.final.positive:
            return "dot" if self.data is not None else "BDAT", self.final
        return next((("RCPT", reply) for reply in self.rcpt.values() if not reply.positive), None)


class Connection(Session):
    """An SMTP session with any number of mail transactions."""

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        super().__init__(endpoint, wire)
        self._transactions = 0
        self._carried = False
        self._stepwise = False  # for the transaction under way
        self._answered_at = -math.inf  # by the loop's clock: the end of the last message
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

    async def transact(
        self, envelope: Envelope, before_dot: Mark, doubted: Suspicion | None = None
    ) -> Transcript:
        """Carry one message over; `before_dot` is awaited before the end of its text leaves.

        Whatever `before_dot` raises passes through, the connection closed and the
        message not sent. Faults of the connection are in the transcript. With a doubt about a
        group's answer, one command is sent at a time, and what that shows goes to the traits.
        """
        transcript = Transcript(reused=self._transactions > 0, carried=self._carried)
        self._transactions += 1
        self._stepwise = doubted is not None
        try:
            await self._carry(envelope, transcript, before_dot)
        except SMTPFault as fault:
            transcript.fault = fault
            self._wire.abort()
        except BaseException:
            self._wire.abort()
            raise
        self._note(transcript, doubted)
        return transcript

    async def _carry(self, envelope: Envelope, transcript: Transcript, before_dot: Mark) -> None:
        if self._goes_in_one_write(envelope):
            await self._in_one_write(envelope, transcript, before_dot)
            return
        text = await self._envelope(envelope, transcript)
        if transcript.grouped and not transcript.all_consent:
            transcript.suspicion = self._suspicion(transcript)
        if transcript.suspicion is not None:
            self._wire.abort()  # the server may take what comes next for anything
        elif transcript.final is not None:
            await self._reset()  # what follows a refused chunk would be refused too
        elif not self._may_send(transcript):
            await self._back_out(transcript)
        elif self._chunks:
            await self._in_chunks(text, transcript, before_dot)
        else:
            await self._as_data(text, transcript, before_dot)

    def _note(self, transcript: Transcript, doubted: Suspicion | None) -> None:
        """Draw from a transcript what it says of the server."""
        traits = self.traits
        if transcript.mail is not None and transcript.mail.positive:
            self._carried = True
            traits.goes_on = traits.goes_on or transcript.carried
        taken = transcript.final is not None and transcript.final.positive
        if taken:
            self._answered_at = asyncio.get_running_loop().time()
        if doubted is not None:
            self._clear_up(doubted, transcript, taken=taken)
        elif taken and transcript.grouped:
            traits.took_group = True
            traits.took_chunks = traits.took_chunks or transcript.data is None
        elif transcript.grouped and transcript.suspicion is None:
            transcript.suspicion = self._suspicion(transcript)

    def _clear_up(self, doubted: Suspicion, transcript: Transcript, *, taken: bool) -> None:
        """One command at a time has shown whether the group was the reason."""
        refused = transcript.refused_at()
        same = refused is not None and (refused[0], refused[1].code) == (doubted.verb, doubted.code)
        slow = doubted.code is None and transcript.slowest >= _SILENCE_S / 2
        if same or (taken and slow):
            self.traits.is_believed = True
        elif taken:
            self.traits.lack(doubted)

    def _suspicion(self, transcript: Transcript) -> Suspicion | None:
        """Say why the message may have been refused for the group only; None where its own answer stands."""
        if transcript.fault is not None:
            return self._suspicion_of(transcript, transcript.fault)
        verb, reply = transcript.refused_at() or ("", None)
        proven = self.traits.took_chunks if verb == "BDAT" else self.traits.took_group
        if reply is None or reply.code not in _NOT_TAKEN or self.traits.is_believed:
            return None
        if proven and reply.code == 554:
            return None
        return Suspicion(_extension_at(verb), verb, str(reply), reply.code)

    def _suspicion_of(self, transcript: Transcript, fault: SMTPFault) -> Suspicion | None:
        """The server broke off within the group, was silent, or said what is none of its answers."""
        proven = self.traits.took_chunks if fault.verb == "BDAT" else self.traits.took_group
        if proven or self.traits.is_believed or transcript.dot_sent or transcript.not_begun:
            return None
        if fault.kind is FaultKind.REFUSED:  # 421: it says itself why it leaves
            return None
        return Suspicion(_extension_at(fault.verb), fault.verb, str(fault))

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
        at = min(len(mime) // _SMALL, _LAST_WRITE // _SMALL)
        return b"BDAT %d\r\n" % at + mime[:at], mime[at:]

    async def _say_in_one(self, verb: str, commands: list[str], text: bytes = b"") -> None:
        await self._say(verb, "\r\n".join(commands), text)

    def _patience(self, seconds: float) -> float:
        """Return how long to wait for an answer within a group."""
        known = self.traits.took_group or self.traits.is_believed or not self._pipelines
        return seconds if known else min(seconds, _SILENCE_S)

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
        await self._say(verb, command)
        reply = await self._answer(verb, seconds)
        transcript.slowest = max(transcript.slowest, asyncio.get_running_loop().time() - began)
        return reply

    async def _answer(self, verb: str, seconds: float) -> Reply:
        """Read the reply to one command of a transaction; anything out of turn is a fault."""
        reply = await self._wire.reply(verb, seconds)
        expected = reply.code == 354 if verb == "DATA" else reply.positive
        if reply.code == 421 or not (expected or reply.code >= 400):
            raise self._out_of_turn(verb, reply)
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
                raise self._out_of_turn("DATA", data)  # after refusing MAIL: an empty message would go out
            # RFC 2920 §3.1: DATA was taken although every recipient was refused; an empty message ends it.
            await self._wire.write(_DOT, "dot", self._timeouts.block)
            await self._answer("dot", self._timeouts.dot)
        elif mail is not None and mail.positive:
            await self._reset()

    async def _reset(self) -> None:
        self._expect(await self._command("RSET", "RSET"), "RSET")

    # -- the text

    async def _as_data(self, mime: Text, transcript: Transcript, before_dot: Mark) -> None:
        """Send all but the end, then `before_dot`, then the end with its dot in one write."""
        failpoint.hit("send.data")
        end = dot_stuff(mime) if _is_short(mime) else await self._send_to_the_end(mime)
        failpoint.hit("send.before_mark")
        if await self._may_end("DATA", transcript, before_dot):
            await self._end("dot", end + _DOT, transcript)

    async def _send_to_the_end(self, mime: Text) -> bytes:
        """Send all but the end of a long text, its dots doubled; return the end."""
        begins_line, end = True, b""
        async for piece, is_last in _cut(mime):
            end = dot_stuff(piece, begins_line=begins_line)
            begins_line = piece.endswith(b"\r\n")
            if not is_last:
                await self._wire.write(end, "DATA", self._timeouts.block)
                failpoint.hit("send.body")
                await asyncio.sleep(0)  # the loop may hear the server, and serve others, between two pieces
        return end

    async def _in_chunks(self, mime: Text, transcript: Transcript, before_dot: Mark) -> None:
        """Send all chunks but the last, then `before_dot`, then the last in one write (RFC 3030 §2)."""
        failpoint.hit("send.data")
        shown = self.traits.took_chunks or transcript.grouped
        transcript.grouped = True  # a chunk's octets leave before the answer to its BDAT
        refusal: Reply | None = None
        if shown and _is_short(mime):
            end = mime
        else:
            refusal, end = await self._early_chunks(
                _cut(mime) if shown or not _is_short(mime) else _halved(mime)
            )
        if refusal is not None:
            transcript.final = refusal
            await self._reset()  # what follows a refused chunk would be refused too
            return
        failpoint.hit("send.before_mark")
        if await self._may_end("BDAT", transcript, before_dot):
            await self._end("BDAT", b"BDAT %d LAST\r\n" % len(end) + end, transcript)

    async def _early_chunks(self, chunks: AsyncIterator[tuple[bytes, bool]]) -> tuple[Reply | None, bytes]:
        """Send all but the last; return the first reply that refuses one, if there is one, and the last.

        A server that has not taken chunks yet answers the first one before it gets more.
        """
        unanswered = 0
        refusal: Reply | None = None
        shown = self.traits.took_chunks
        async for chunk, is_last in chunks:
            if is_last:
                return await self._refusal(unanswered), chunk
            await self._wire.write(b"BDAT %d\r\n" % len(chunk) + chunk, "BDAT", self._timeouts.block)
            failpoint.hit("send.body")
            unanswered += 1
            if not self._pipelines or not shown:
                unanswered, refusal, shown = 0, await self._refusal(1), True
            if refusal is not None:
                return refusal, b""
        raise AssertionError("a text has a last piece")

    async def _refusal(self, count: int) -> Reply | None:
        known = self.traits.took_chunks or self.traits.is_believed
        seconds = self._timeouts.data if known else min(self._timeouts.data, _SILENCE_S)
        replies = [await self._answer("BDAT", seconds) for _ in range(count)]
        return next((reply for reply in replies if not reply.positive), None)

    async def _may_end(self, verb: str, transcript: Transcript, before_dot: Mark) -> bool:
        """Await the mark, unless the server has spoken before it was asked to, before the mark or meanwhile."""
        if await self._answered_early(verb, transcript):
            return False
        await before_dot()
        failpoint.hit("send.marked")
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
        failpoint.hit("send.dot")
        reply = await self._wire.reply(verb, self._timeouts.dot)
        failpoint.hit("send.replied")
        if 300 <= reply.code < 400:
            raise self._out_of_turn(verb, reply)
        transcript.final = reply
        if reply.code == 421:
            self._wire.abort()

    # -- all in one write

    def _goes_in_one_write(self, envelope: Envelope) -> bool:
        """Whether the message may leave with its envelope: where a round trip is long, and the server has shown the rest.

        A break leaves such a message in doubt wherever it comes. So the server must have taken groups and chunks and
        have gone on after a message, and this connection must be in use just now.
        """
        if self._round_trip < _FAR_S or not _is_short(envelope.mime):
            return False
        traits, now = self.traits, asyncio.get_running_loop().time()
        shown = (
            traits.took_group and traits.took_chunks and traits.goes_on and self._pipelines and self._chunks
        )
        return shown and now - self._answered_at < _IN_FLOW_S and now - traits.broke_at > _CAUTION_S

    async def _in_one_write(self, envelope: Envelope, transcript: Transcript, before_dot: Mark) -> None:
        """`before_dot`, then MAIL, RCPT and the only chunk together: one round trip for the message."""
        transcript.grouped = True
        failpoint.hit("send.data")
        failpoint.hit("send.before_mark")
        await self._expect_silence("MAIL")
        await before_dot()
        failpoint.hit("send.marked")
        await self._expect_silence("MAIL")
        transcript.dot_sent = True
        text = envelope.mime
        assert _is_short(text)
        chunk = b"BDAT %d LAST\r\n" % len(text) + text
        try:
            await self._say_in_one("MAIL", self._commands(envelope), chunk)
            failpoint.hit("send.dot")
            await self._read_envelope(envelope, transcript)
            final = await self._wire.reply("BDAT", self._timeouts.dot)
        except SMTPFault as fault:
            self._settle_doubt(transcript, fault)
            raise
        failpoint.hit("send.replied")
        await self._conclude(transcript, final)

    async def _expect_silence(self, verb: str) -> None:
        """Raise SMTPFault when the server has left or spoken unasked."""
        if self._wire.has_unread or self._wire.closing:
            raise self._out_of_turn(verb, await self._wire.reply(verb, self._timeouts.command))

    def _settle_doubt(self, transcript: Transcript, fault: SMTPFault) -> None:
        """A message is not in doubt whose sender or recipients were all refused, or whose server said that it leaves."""
        mail = transcript.mail
        refused = (mail is not None and not mail.positive) or (
            fault.verb == "BDAT" and not transcript.has_recipients
        )
        if refused or fault.kind is FaultKind.REFUSED:
            transcript.dot_sent = False
        else:
            self.traits.broke_at = asyncio.get_running_loop().time()

    async def _conclude(self, transcript: Transcript, final: Reply) -> None:
        """Take the answer to a chunk that left with its envelope."""
        mail = transcript.mail
        is_open = mail is not None and mail.positive
        out_of_step = self._wire.has_unread or (final.positive and transcript.has_recipients and not is_open)
        if 300 <= final.code < 400 or out_of_step:
            raise self._out_of_turn("BDAT", final)
        if is_open and transcript.has_recipients:
            transcript.final = final
        else:
            transcript.dot_sent = False  # there was nobody to take it for
        if final.code == 421:
            self._wire.abort()
        elif is_open and not final.positive:
            await self._reset()


def _extension_at(verb: str) -> Extension:
    return Extension.CHUNKING if verb == "BDAT" else Extension.PIPELINING


def _is_short(mime: Text) -> TypeGuard[bytes]:
    """Whether a text leaves as a whole together with its end."""
    return not isinstance(mime, StoredText) and len(mime) <= _LAST_WRITE


async def _cut(mime: Text) -> AsyncIterator[tuple[bytes, bool]]:
    """Yield a text in pieces, each with whether it is the last, which leaves with the end. No CRLF is cut in two."""
    held = b""
    async for octets in _pieces(mime):
        held += octets
        start = 0
        while (rest := len(held) - start) > _LAST_WRITE:
            end = start + min(_CHUNK, rest - _LAST_WRITE)
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


async def _halved(mime: bytes) -> AsyncIterator[tuple[bytes, bool]]:
    """Yield a short text in two pieces: the answer to the first one shows whether a server takes chunks."""
    at = len(mime) // _SMALL
    yield mime[:at], False
    yield mime[at:], True


def dot_stuff(mime: bytes, *, begins_line: bool = True) -> bytes:
    """Double the dot that starts a line (RFC 5321 §4.5.2). `mime` must have passed the gate (`mime.gate`)."""
    stuffed = mime.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if begins_line and stuffed.startswith(b".") else stuffed
