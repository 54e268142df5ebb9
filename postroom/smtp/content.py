"""Sends the text of a message by DATA or BDAT; the final dot leaves after it was marked (RFC 5321 §4.1.1.4, RFC 3030)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from postroom.core import failpoint
from postroom.core.outcome import Reply
from postroom.smtp import suspicion
from postroom.smtp.envelope import EnvelopeSession
from postroom.smtp.pieces import cut, dot_stuff, halved, is_short
from postroom.smtp.transcript import Text, Transcript

Mark = Callable[[], Awaitable[None]]

_DOT = b".\r\n"


class TextSession(EnvelopeSession):
    """An SMTP session that sends the text of a transaction whose envelope the server has taken."""

    async def _as_data(self, mime: Text, transcript: Transcript, before_dot: Mark) -> None:
        """Send all but the end, then `before_dot`, then the end with its dot in one write."""
        failpoint.hit("send.data")
        end = dot_stuff(mime) if is_short(mime) else await self._send_to_the_end(mime)
        failpoint.hit("send.before_mark")
        if await self._may_end("DATA", transcript, before_dot):
            self.tape.gave(len(mime))
            self.tape.said(".")
            await self._end("dot", end + _DOT, transcript)

    async def _send_to_the_end(self, mime: Text) -> bytes:
        """Send all but the end of a long text, its dots doubled; return the end."""
        begins_line, end = True, b""
        async for piece, is_last in cut(mime):
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
        if shown and is_short(mime):
            end = mime
        else:
            refusal, end = await self._early_chunks(
                cut(mime) if shown or not is_short(mime) else halved(mime)
            )
        if refusal is not None:
            transcript.final = refusal
            await self._reset()  # what follows a refused chunk would be refused too
            return
        failpoint.hit("send.before_mark")
        if await self._may_end("BDAT", transcript, before_dot):
            self.tape.said(f"BDAT {len(end)} LAST")
            self.tape.gave(len(end))
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
            self.tape.said(f"BDAT {len(chunk)}")
            self.tape.gave(len(chunk))
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
        seconds = self._timeouts.data if known else min(self._timeouts.data, suspicion.SILENCE_S)
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
            raise self.out_of_turn(verb, reply)
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
            raise self.out_of_turn(verb, reply)
        transcript.final = reply
        if reply.code == 421:
            self._wire.abort()
