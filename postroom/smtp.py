"""The SMTP client (RFC 5321, RFC 3207, RFC 4954, RFC 2920, RFC 6531): the only one.

A `Connection` carries one mail transaction after another. Whatever goes wrong that
is not a plain refusal closes it for good, so that a late reply can never be taken
for the answer to the next message.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from postroom.errors import FaultKind, SMTPFault
from postroom.failpoint import passing
from postroom.model import Reply, Secret, Security
from postroom.status import printable
from postroom.wire import Wire, connect

_DOT = b".\r\n"
_LAST_WRITE = 65_536  # how much of the text may leave together with the dot: one write costs less than two


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds, for whole replies (RFC 5321 §4.5.3.2)."""

    connect: float = 30.0
    greeting: float = 300.0
    command: float = 300.0
    data: float = 120.0
    block: float = 180.0  # for each block of the body to leave us
    dot: float = 600.0
    quit: float = 5.0

    def capped(self, seconds: float | None) -> Timeouts:
        """Return these deadlines, none of them above `seconds`."""
        if seconds is None:
            return self
        names = ("connect", "greeting", "command", "data", "block", "dot", "quit")
        return replace(self, **{name: min(getattr(self, name), seconds) for name in names})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, and as whom. `tls` must be given unless `security` is NONE."""

    host: str
    port: int
    security: Security
    username: str | None = None
    password: Secret = field(default=Secret(""), repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


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

    `rcpt` has one reply for each forward-path that was asked. `dot_sent` is set just
    before the final dot leaves; with it set and `final` None, the message is in doubt.
    """

    mail: Reply | None = None
    rcpt: dict[str, Reply] = field(default_factory=dict)
    data: Reply | None = None
    final: Reply | None = None
    fault: SMTPFault | None = None
    dot_sent: bool = False


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Return a context that verifies certificate and name; at least TLS 1.2 (RFC 8997)."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Connection:
    """One SMTP session: opened, greeted, secured and authenticated, then any number of transactions."""

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        self._endpoint = endpoint
        self._timeouts = endpoint.timeouts
        self._wire = wire
        self._extensions: dict[str, str] = {}
        self.transactions = 0

    @classmethod
    async def open(cls, endpoint: Endpoint) -> Connection:
        """Connect, greet, secure and log in. Raises SMTPFault; the socket is closed then."""
        wire = await connect(endpoint.host, endpoint.port, endpoint.timeouts.connect)
        connection = cls(endpoint, wire)
        try:
            await connection._greet()
        except BaseException:
            wire.abort()
            raise
        return connection

    @property
    def usable(self) -> bool:
        """False once anything went wrong, or the server has spoken unasked."""
        return not self._wire.closing and not self._wire.has_unread

    # -- session

    async def _greet(self) -> None:
        passing("session.connect")
        if self._endpoint.security is Security.TLS:
            await self._secure()
        greeting = await self._wire.reply("greeting", self._timeouts.greeting)
        self._expect(greeting, "greeting")
        await self._hello()
        if self._endpoint.security is Security.STARTTLS:
            await self._start_tls()
            await self._hello()
        passing("session.tls")
        if self._endpoint.username and self._endpoint.password:
            await self._authenticate()
        passing("session.auth")

    async def _hello(self) -> None:
        reply = await self._command("EHLO", f"EHLO {self._own_name()}")
        self._expect(reply, "EHLO")
        lines = reply.text.upper().split("\n")[1:]
        self._extensions = {word: rest for word, _, rest in (line.partition(" ") for line in lines)}

    def _own_name(self) -> str:
        """Return our address literal (RFC 5321 §4.1.3): always true, and no DNS to wait for."""
        assert self._wire.transport is not None
        address = self._wire.transport.get_extra_info("sockname")
        ip = str(address[0]).partition("%")[0] if address else "127.0.0.1"
        return f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"

    async def _start_tls(self) -> None:
        endpoint = self._endpoint
        if "STARTTLS" not in self._extensions:
            raise SMTPFault(
                FaultKind.INSECURE,
                "STARTTLS",
                f"{endpoint} does not offer STARTTLS; nothing was sent to it. If it speaks TLS from the "
                f"start, set the security to tls (usually port 465)",
            )
        reply = await self._command("STARTTLS", "STARTTLS")
        self._expect(reply, "STARTTLS")
        await self._secure()
        self._extensions = {}  # RFC 3207 §4.2: forget what was learned before TLS

    async def _secure(self) -> None:
        endpoint = self._endpoint
        assert endpoint.tls is not None
        await self._wire.start_tls(endpoint.tls, endpoint.host, str(endpoint), self._timeouts.connect)

    async def _authenticate(self) -> None:
        if "AUTH" not in self._extensions:
            return
        offered = self._extensions["AUTH"].split()
        endpoint = self._endpoint
        user, password = endpoint.username or "", endpoint.password.reveal()
        if "PLAIN" in offered:
            reply = await self._command("AUTH", f"AUTH PLAIN {_base64(f'{chr(0)}{user}{chr(0)}{password}')}")
        elif "LOGIN" in offered:
            reply = await self._auth_login(user, password)
        else:
            raise SMTPFault(
                FaultKind.UNSUPPORTED,
                "AUTH",
                f"{endpoint} takes none of the log-in methods PLAIN and LOGIN, only {printable(' '.join(offered))}",
            )
        self._expect(reply, "AUTH")

    async def _auth_login(self, user: str, password: str) -> Reply:
        reply = await self._command("AUTH", f"AUTH LOGIN {_base64(user)}")
        if reply.code == 334:
            reply = await self._command("AUTH", _base64(password))
        return reply

    @property
    def authenticated(self) -> bool:
        """Whether credentials were given and accepted."""
        return bool(self._endpoint.username and self._endpoint.password) and "AUTH" in self._extensions

    async def _command(self, verb: str, line: str) -> Reply:
        await self._say(verb, line)
        return await self._wire.reply(verb, self._timeouts.command)

    async def _say(self, verb: str, line: str) -> None:
        """Send a command, unless the server has spoken unasked: that must not pass for the answer."""
        if self._wire.has_unread:
            raise self._out_of_turn(verb, await self._wire.reply(verb, self._timeouts.command))
        await self._wire.write(line.encode() + b"\r\n", verb, self._timeouts.command)

    def _out_of_turn(self, verb: str, reply: Reply) -> SMTPFault:
        if reply.code == 421:
            return SMTPFault(FaultKind.REFUSED, verb, f"{self._endpoint} is closing: {reply}", reply)
        message = f"{self._endpoint} answered {verb} out of turn: {reply}"
        return SMTPFault(FaultKind.GARBLED, verb, message, reply)

    def _expect(self, reply: Reply, verb: str) -> None:
        if not reply.positive:
            raise SMTPFault(FaultKind.REFUSED, verb, f"{self._endpoint} refused {verb}: {reply}", reply)

    # -- mail

    def shortcoming(self, envelope: Envelope) -> str | None:
        """Say what the server lacks to take this message, or None. Asked before MAIL is sent."""
        limit = self._extensions.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < len(envelope.mime):
            return f"{self._endpoint} takes at most {limit} bytes; the message has {len(envelope.mime)}"
        if envelope.smtputf8 and "SMTPUTF8" not in self._extensions:
            return f"{self._endpoint} cannot carry addresses that are not ASCII (it does not offer SMTPUTF8)"
        return None

    async def transact(self, envelope: Envelope, before_dot: Callable[[], Awaitable[None]]) -> Transcript:
        """Carry one message over; `before_dot` is awaited between the body and the final dot.

        Whatever `before_dot` raises passes through, the connection closed and the
        message not sent. Faults of the connection are in the transcript.
        """
        self.transactions += 1
        transcript = Transcript()
        try:
            await self._envelope(envelope, transcript)
            if self._may_send(transcript):
                await self._body(envelope, transcript, before_dot)
            else:
                await self._back_out(transcript)
        except SMTPFault as fault:
            transcript.fault = fault
            self._wire.abort()
        except BaseException:
            self._wire.abort()
            raise
        return transcript

    async def _envelope(self, envelope: Envelope, transcript: Transcript) -> None:
        commands = [self._mail_command(envelope)]
        commands += [f"RCPT TO:<{path}>" for path in envelope.forward_paths]
        commands.append("DATA")
        if "PIPELINING" in self._extensions:
            await self._say("MAIL", "\r\n".join(commands))
            await self._read_envelope(envelope, transcript)
        else:
            await self._step_by_step(envelope, commands, transcript)

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
        transcript.data = await self._answer("DATA", self._timeouts.data)

    async def _step_by_step(
        self, envelope: Envelope, commands: Sequence[str], transcript: Transcript
    ) -> None:
        seconds = self._timeouts.command
        await self._say("MAIL", commands[0])
        transcript.mail = await self._answer("MAIL", seconds)
        if not transcript.mail.positive:
            return
        for path, command in zip(envelope.forward_paths, commands[1:-1], strict=True):
            await self._say("RCPT", command)
            transcript.rcpt[path] = await self._answer("RCPT", seconds)
        if any(reply.positive for reply in transcript.rcpt.values()):
            await self._say("DATA", "DATA")
            transcript.data = await self._answer("DATA", self._timeouts.data)

    async def _answer(self, verb: str, seconds: float) -> Reply:
        """Read the reply to one command of a transaction; anything out of turn is a fault."""
        reply = await self._wire.reply(verb, seconds)
        expected = reply.code == 354 if verb == "DATA" else reply.positive
        if reply.code == 421 or not (expected or reply.code >= 400):
            raise self._out_of_turn(verb, reply)
        return reply

    @staticmethod
    def _may_send(transcript: Transcript) -> bool:
        mail, data = transcript.mail, transcript.data
        accepted = any(reply.positive for reply in transcript.rcpt.values())
        return mail is not None and mail.positive and accepted and data is not None and data.code == 354

    async def _body(
        self, envelope: Envelope, transcript: Transcript, before_dot: Callable[[], Awaitable[None]]
    ) -> None:
        """Send all but the end, then `before_dot`, then the end with its dot in one write."""
        passing("send.data")
        text = dot_stuff(envelope.mime)
        early, end = text[:-_LAST_WRITE], text[-_LAST_WRITE:]
        await self._wire.write(early, "DATA", self._timeouts.block)
        passing("send.before_mark")
        if not await self._answered_early(transcript):
            await before_dot()
            passing("send.marked")
            if not await self._answered_early(transcript):
                await self._dot(end, transcript)

    async def _answered_early(self, transcript: Transcript) -> bool:
        """The server spoke before the dot: its words count only if they refuse, and the session is over."""
        if not self._wire.has_unread and not self._wire.closing:
            return False
        reply = await self._wire.reply("DATA", self._timeouts.data)
        if reply.code < 400:
            raise self._out_of_turn("DATA", reply)
        transcript.final = reply
        self._wire.abort()
        return True

    async def _dot(self, end: bytes, transcript: Transcript) -> None:
        transcript.dot_sent = True
        await self._wire.write(end + _DOT, "dot", self._timeouts.block)
        passing("send.dot")
        reply = await self._wire.reply("dot", self._timeouts.dot)
        passing("send.replied")
        if 300 <= reply.code < 400:
            raise self._out_of_turn("dot", reply)
        transcript.final = reply
        if reply.code == 421:
            self._wire.abort()

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
            self._expect(await self._command("RSET", "RSET"), "RSET")

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
        """Close at once, unsaid."""
        self._wire.abort()


def dot_stuff(mime: bytes) -> bytes:
    """Double the dot that starts a line (RFC 5321 §4.5.2). `mime` must have passed the gate (`mime.gate`)."""
    stuffed = mime.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
