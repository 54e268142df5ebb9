"""Values of one SMTP transaction: the `Envelope`, and the server's answers (`Transcript`).

Some servers offer PIPELINING or CHUNKING and do not take it. Until a server has taken a
group, what it does with one is not held against the message (`Suspicion`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Reply
from postroom.core.stored_text import StoredText

Text: TypeAlias = bytes | StoredText

NOT_TAKEN = (500, 501, 502, 503, 554)  # replies to a command of a group that may be about the group
_LEFT = (FaultKind.DISCONNECTED, FaultKind.REFUSED, FaultKind.TIMEOUT)


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

    @property
    def ended_at(self) -> str:
        """The verb of the step that decided: of a refusal, of a fault, or of the message's end."""
        if self.was_taken_for_all:
            return self._end
        refused = self.refused_at()
        is_everybodys = refused is not None and (not self.has_recipients or refused[0] != "RCPT")
        if self.fault is not None and not is_everybodys:
            return self.fault.verb
        return self._end if refused is None else refused[0]

    @property
    def _end(self) -> str:
        return "BDAT" if self.data is None else "dot"

    def refused_at(self) -> tuple[str, Reply] | None:
        """Return the first refusal that those before it do not explain, and the verb."""
        if self.mail is not None and not self.mail.positive:
            return "MAIL", self.mail
        for reply in self.rcpt.values():
            if reply.code in NOT_TAKEN:
                return "RCPT", reply
        if self.has_recipients and self.data is not None and self.data.code != 354:
            return "DATA", self.data
        if self.final is not None and not self.final.positive:
            return "dot" if self.data is not None else "BDAT", self.final
        return next((("RCPT", reply) for reply in self.rcpt.values() if not reply.positive), None)
