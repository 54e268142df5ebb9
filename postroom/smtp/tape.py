"""Records what is said over a connection, for the dialogue of an attempt; neither secrets nor texts are kept.

It is written for each message, so it keeps references while the conversation goes on; `take` makes the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final, TypeAlias

from postroom.core.dialogue import AttemptRecord, Speaker, bounded, step_of
from postroom.core.errors import SMTPFault
from postroom.core.outcome import Reply
from postroom.core.text import printable, shortened
from postroom.smtp.credentials import STRUCK

_MOST_ENTRIES: Final = 2000  # of one attempt: a message may have many recipients or chunks
_LONGEST_LINE: Final = 1000  # characters; the rest of a longer line is left out
_CLIENT, _SERVER, _NOTE = (speaker.value for speaker in (Speaker.CLIENT, Speaker.SERVER, Speaker.NOTE))
_Entry: TypeAlias = tuple[float, str, "str | Sequence[str] | Reply"]


class Tape:
    """What was said over a connection since it was last taken."""

    __slots__ = ("_entries", "ended_at")

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self.ended_at: str | None = None  # the verb of the step at which the attempt ended

    # -- the words

    def said(self, line: str) -> None:
        """Record a command."""
        self._entries.append((perf_counter(), _CLIENT, line))

    def said_at_once(self, lines: Sequence[str]) -> None:
        """Record commands that left in one write."""
        self._entries.append((perf_counter(), _CLIENT, lines))

    def said_secret(self, line: str) -> None:
        """Record a line of a log-in without what it gives away: all but the name of the mechanism."""
        command, _, rest = line.partition(" ")
        if line == "*":
            self.said(line)  # RFC 4954 §4: the exchange is cancelled
        elif command == "AUTH":
            mechanism, _, response = rest.partition(" ")
            self.said(f"AUTH {mechanism} {STRUCK}" if response else line)
        else:
            self.said(STRUCK)

    def gave(self, octets: int) -> None:
        """Record that so much of a message's text has left."""
        self._entries.append((perf_counter(), _CLIENT, f"… {octets:,} octets"))

    def heard(self, reply: Reply) -> None:
        """Record a reply, whose secrets were struck."""
        self._entries.append((perf_counter(), _SERVER, reply))

    def note(self, text: str) -> None:
        """Record what has happened."""
        self._entries.append((perf_counter(), _NOTE, text))

    def failed(self, fault: SMTPFault) -> None:
        """Record what ended the conversation, where that was no reply."""
        if fault.reply is None:
            self.note(str(fault))

    # -- the end

    def take(self) -> AttemptRecord:
        """Return what was recorded, and begin anew."""
        step = None if self.ended_at is None else step_of(self.ended_at)
        record = AttemptRecord(step, _text(self._entries))
        self._entries, self.ended_at = [], None
        return record


def _text(entries: list[_Entry]) -> str | None:
    if not entries:
        return None
    began = entries[0][0]
    if len(entries) > _MOST_ENTRIES:
        half = _MOST_ENTRIES // 2
        gap = (entries[half][0], _NOTE, f"… {len(entries) - 2 * half:,} lines left out")
        entries = [*entries[:half], gap, *entries[-half:]]
    lines: list[str] = []
    for at, speaker, said in entries:
        head = f"{round((at - began) * 1000)} {speaker}: "
        if isinstance(said, str):
            lines.append(head + said if speaker is _CLIENT else head + _shown(said))
        elif isinstance(said, Reply):
            lines.append(_reply(head, said))
        else:
            lines += [f"{head}{line}" for line in said]
    return bounded("\n".join(lines))


def _reply(head: str, reply: Reply) -> str:
    """Return a reply as it came: each line with the code (RFC 5321 §4.2.1), what is not seen escaped."""
    text, enhanced = reply.text, f"{reply.enhanced} " if reply.enhanced else ""
    if len(text) <= _LONGEST_LINE and text.isascii() and text.isprintable():
        return f"{head}{reply.code} {enhanced}{text}".rstrip()
    *lines, last = (enhanced + _shown(line.removesuffix("\r")) for line in text.split("\n"))
    return "\n".join([*(f"{head}{reply.code}-{line}" for line in lines), f"{head}{reply.code} {last}"])


def _shown(line: str) -> str:
    return shortened(printable(line), _LONGEST_LINE)
