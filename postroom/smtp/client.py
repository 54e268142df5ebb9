"""`Connection`: sends messages over an open session, with PIPELINING and CHUNKING (RFC 5321, 2920, 3030, 6531).

A `Connection` carries one mail transaction after another. Where the server takes
commands in groups (PIPELINING), MAIL, RCPT and DATA of one message leave in one write;
with CHUNKING and a server that is far away, the message as well: one round trip.
Nothing is sent before the answer to the end of the message before: RFC 2920 §3.1 allows
it, but Haraka, Dovecot and others do not take it.
"""

from __future__ import annotations

import asyncio
import math

from postroom.core import failpoint
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Reply
from postroom.smtp import suspicion
from postroom.smtp.content import Mark, TextSession
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.pieces import is_short
from postroom.smtp.stream import Wire
from postroom.smtp.transcript import Envelope, Suspicion, Transcript

_FAR_S = 0.005  # of a round trip: from here on one less is worth that a break leaves a doubt more often
_IN_FLOW_S = 1.0  # since the last answer: then the server is not about to close an idle connection
_CAUTION_S = 3600.0  # after a break that left a doubt, before messages leave in one write again


class Connection(TextSession):
    """An SMTP session with any number of mail transactions."""

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        super().__init__(endpoint, wire)
        self._transactions = 0
        self._carried = False
        self._answered_at = -math.inf  # by the loop's clock: the end of the last message

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
        tape = self.tape
        try:
            await self._carry(envelope, transcript, before_dot)
        except SMTPFault as fault:
            transcript.fault = fault
            tape.failed(fault)
            self._wire.abort()
        except BaseException:
            tape.ended_at = "DATA"
            self._wire.abort()
            raise
        tape.ended_at = transcript.ended_at
        self._note(transcript, doubted)
        return transcript

    async def _carry(self, envelope: Envelope, transcript: Transcript, before_dot: Mark) -> None:
        if self._goes_in_one_write(envelope):
            await self._in_one_write(envelope, transcript, before_dot)
            return
        text = await self._envelope(envelope, transcript)
        if transcript.grouped and not transcript.all_consent:
            transcript.suspicion = suspicion.suspicion_of(self.traits, transcript)
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
            suspicion.clear_up(traits, doubted, transcript, taken=taken)
        elif taken and transcript.grouped:
            traits.took_group = True
            traits.took_chunks = traits.took_chunks or transcript.data is None
        elif transcript.grouped and transcript.suspicion is None:
            transcript.suspicion = suspicion.suspicion_of(self.traits, transcript)

    # -- all in one write

    def _goes_in_one_write(self, envelope: Envelope) -> bool:
        """Whether the message may leave with its envelope: where a round trip is long, and the server has shown the rest.

        A break leaves such a message in doubt wherever it comes. So the server must have taken groups and chunks and
        have gone on after a message, and this connection must be in use just now.
        """
        if self._round_trip < _FAR_S or not is_short(envelope.mime):
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
        assert is_short(text)
        chunk = b"BDAT %d LAST\r\n" % len(text) + text
        try:
            await self._say_in_one("MAIL", self._commands(envelope), chunk)
            failpoint.hit("send.dot")
            await self._read_envelope(envelope, transcript)
            final = await self._wire.reply("BDAT", self._timeouts.dot)
        except SMTPFault as fault:
            self._clear_doubt(transcript, fault)
            raise
        failpoint.hit("send.replied")
        await self._take_final(transcript, final)

    async def _expect_silence(self, verb: str) -> None:
        """Raise SMTPFault when the server has left or spoken unasked."""
        if self._wire.has_unread or self._wire.closing:
            raise self.out_of_turn(verb, await self._wire.reply(verb, self._timeouts.command))

    def _clear_doubt(self, transcript: Transcript, fault: SMTPFault) -> None:
        """A message is not in doubt whose sender or recipients were all refused, or whose server said that it leaves."""
        mail = transcript.mail
        refused = (mail is not None and not mail.positive) or (
            fault.verb == "BDAT" and not transcript.has_recipients
        )
        if refused or fault.kind is FaultKind.REFUSED:
            transcript.dot_sent = False
        else:
            self.traits.broke_at = asyncio.get_running_loop().time()

    async def _take_final(self, transcript: Transcript, final: Reply) -> None:
        """Take the answer to a chunk that left with its envelope."""
        mail = transcript.mail
        is_open = mail is not None and mail.positive
        out_of_step = self._wire.has_unread or (final.positive and transcript.has_recipients and not is_open)
        if 300 <= final.code < 400 or out_of_step:
            raise self.out_of_turn("BDAT", final)
        if is_open and transcript.has_recipients:
            transcript.final = final
        else:
            transcript.dot_sent = False  # there was nobody to take it for
        if final.code == 421:
            self._wire.abort()
        elif is_open and not final.positive:
            await self._reset()
