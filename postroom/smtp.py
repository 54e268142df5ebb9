"""The SMTP client (RFC 5321, RFC 3207, RFC 4954, RFC 2920, RFC 6531): the only one.

A `Connection` carries one mail transaction after another. Whatever goes wrong that
is not a plain refusal closes it for good, so that a late reply can never be taken
for the answer to the next message. Every deadline is for a whole reply, not for one
read, and every reply is bounded in size.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from postroom.errors import FaultKind, SMTPFault
from postroom.model import Reply, Secret, Security
from postroom.status import parse_enhanced, printable

_MOST_REPLY_BYTES = 64 * 1024
_WRITE_CHUNK = 256 * 1024
_DOT = b".\r\n"


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


class _Wire(asyncio.Protocol):
    """Bytes to replies. The only place where bytes move."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._size = 0
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self.broken: SMTPFault | None = None

    # -- callbacks of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._size += len(data)
        if self._size > _MOST_REPLY_BYTES:
            self._break(FaultKind.GARBLED, "the server's reply does not end")
            return
        while self.broken is None and (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            self._take_line(line)
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        detail = f": {exc}" if exc is not None else ""
        self._break(FaultKind.DISCONNECTED, f"the server closed the connection{detail}")

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # -- parsing (RFC 5321 §4.2.1)

    def _take_line(self, line: bytes) -> None:
        malformed = len(line) < 3 or not line[:3].isdigit() or line[3:4] not in (b"", b" ", b"-")
        other_code = bool(self._lines) and self._lines[0][:3] != line[:3]
        if malformed or other_code or b"\0" in line or not b"2" <= line[:1] <= b"5":
            said = printable(line[:80].decode("utf-8", "replace"))
            self._break(FaultKind.GARBLED, f"the server answered with something that is not SMTP: {said!r}")
            return
        self._lines.append(line)
        if line[3:4] == b"-":
            return
        self._replies.append(_parse_reply(self._lines))
        self._lines = []
        self._size = len(self._buffer)

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

    async def reply(self, verb: str, seconds: float) -> Reply:
        """Return the next whole reply. Raises SMTPFault; after that the connection is dead."""
        if not self._replies:
            await self._wait(verb, seconds)
        if self._replies:
            return self._replies.popleft()
        raise self._fault(verb)

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
        self._break(FaultKind.TIMEOUT, f"no answer to {verb} within {seconds:g} s")

    def _fault(self, verb: str) -> SMTPFault:
        assert self.broken is not None
        return SMTPFault(self.broken.kind, verb, f"{self.broken} (during {verb})")

    async def write(self, data: bytes, verb: str, seconds: float) -> None:
        """Send bytes; wait, no longer than `seconds` a block, while the server does not take them."""
        for start in range(0, len(data), _WRITE_CHUNK):
            if self.broken is not None or self.transport is None:
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
        if self.transport is not None:
            self.transport.abort()


def _parse_reply(lines: Sequence[bytes]) -> Reply:
    code = int(lines[0][:3])
    texts = [line[4:].decode("utf-8", "replace") for line in lines]
    enhanced = parse_enhanced(texts[-1])
    if enhanced is not None:
        texts = [text.removeprefix(enhanced).lstrip(" ") for text in texts]
    return Reply(code, "\n".join(texts).strip(), enhanced)


class Connection:
    """One SMTP session: opened, greeted, secured and authenticated, then any number of transactions."""

    def __init__(self, endpoint: Endpoint, wire: _Wire) -> None:
        self._endpoint = endpoint
        self._timeouts = endpoint.timeouts
        self._wire = wire
        self._extensions: dict[str, str] = {}
        self.transactions = 0

    @classmethod
    async def open(cls, endpoint: Endpoint) -> Connection:
        """Connect, greet, secure and log in. Raises SMTPFault; the socket is closed then."""
        wire = await _connect(endpoint)
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
        return self._wire.broken is None and not self._wire.has_unread

    # -- session

    async def _greet(self) -> None:
        greeting = await self._wire.reply("greeting", self._timeouts.greeting)
        self._expect(greeting, "greeting")
        await self._hello()
        if self._endpoint.security is Security.STARTTLS:
            await self._start_tls()
            await self._hello()
        if self._endpoint.username and self._endpoint.password:
            await self._authenticate()

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
        if "STARTTLS" not in self._extensions:
            raise SMTPFault(
                FaultKind.INSECURE,
                "STARTTLS",
                f"{self._endpoint} does not offer STARTTLS; nothing was sent to it. If it speaks TLS from the "
                f"start, set the security to tls (usually port 465)",
            )
        reply = await self._command("STARTTLS", "STARTTLS")
        self._expect(reply, "STARTTLS")
        if self._wire.has_unread:
            self._wire.abort()
            raise SMTPFault(
                FaultKind.INSECURE,
                "STARTTLS",
                f"{self._endpoint} sent plain text after agreeing to TLS: somebody may be tampering with the line",
            )
        await self._upgrade()

    async def _upgrade(self) -> None:
        loop = asyncio.get_running_loop()
        wire, endpoint = self._wire, self._endpoint
        assert wire.transport is not None
        assert endpoint.tls is not None
        try:
            transport = await loop.start_tls(
                wire.transport,
                wire,
                endpoint.tls,
                server_hostname=endpoint.host,
                ssl_handshake_timeout=self._timeouts.connect,
            )
        except (OSError, EOFError) as error:
            raise _tls_fault(endpoint, error) from error
        assert transport is not None
        wire.transport = transport
        self._extensions = {}  # RFC 3207 §4.2: forget what was learned before TLS

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
        await self._wire.write(line.encode() + b"\r\n", verb, self._timeouts.command)
        return await self._wire.reply(verb, self._timeouts.command)

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
            lines = "\r\n".join(commands).encode() + b"\r\n"
            await self._wire.write(lines, "MAIL", self._timeouts.command)
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
        for path in envelope.forward_paths:
            transcript.rcpt[path] = await self._answer("RCPT", self._timeouts.command)
        transcript.data = await self._answer("DATA", self._timeouts.data)

    async def _step_by_step(
        self, envelope: Envelope, commands: Sequence[str], transcript: Transcript
    ) -> None:
        wire, seconds = self._wire, self._timeouts.command
        await wire.write(commands[0].encode() + b"\r\n", "MAIL", seconds)
        transcript.mail = await self._answer("MAIL", seconds)
        if not transcript.mail.positive:
            return
        for path, command in zip(envelope.forward_paths, commands[1:-1], strict=True):
            await wire.write(command.encode() + b"\r\n", "RCPT", seconds)
            transcript.rcpt[path] = await self._answer("RCPT", seconds)
        if any(reply.positive for reply in transcript.rcpt.values()):
            await wire.write(b"DATA\r\n", "DATA", self._timeouts.data)
            transcript.data = await self._answer("DATA", self._timeouts.data)

    async def _answer(self, verb: str, seconds: float) -> Reply:
        """Read the reply to one command of a transaction; anything out of turn is a fault."""
        reply = await self._wire.reply(verb, seconds)
        if reply.code == 421:
            raise SMTPFault(FaultKind.REFUSED, verb, f"{self._endpoint} is closing: {reply}", reply)
        if reply.code >= 400 or (reply.code == 354 if verb == "DATA" else reply.positive):
            return reply
        raise SMTPFault(
            FaultKind.GARBLED, verb, f"{self._endpoint} answered {verb} out of turn: {reply}", reply
        )

    @staticmethod
    def _may_send(transcript: Transcript) -> bool:
        accepted = any(reply.positive for reply in transcript.rcpt.values())
        return accepted and transcript.data is not None and transcript.data.code == 354

    async def _body(
        self, envelope: Envelope, transcript: Transcript, before_dot: Callable[[], Awaitable[None]]
    ) -> None:
        await self._wire.write(dot_stuff(envelope.mime), "DATA", self._timeouts.block)
        if self._wire.has_unread or self._wire.broken is not None:
            await self._early_answer(transcript)
            return
        await before_dot()
        transcript.dot_sent = True
        await self._wire.write(_DOT, "dot", self._timeouts.block)
        reply = await self._wire.reply("dot", self._timeouts.dot)
        if 300 <= reply.code < 400:
            raise SMTPFault(
                FaultKind.GARBLED, "dot", f"{self._endpoint} answered the dot with {reply}", reply
            )
        transcript.final = reply
        if reply.code == 421:
            self._wire.abort()

    async def _early_answer(self, transcript: Transcript) -> None:
        """The server spoke before the dot: its words count only if they refuse, and the session is over."""
        reply = await self._wire.reply("DATA", self._timeouts.data)
        self._wire.abort()
        if reply.code < 400:
            raise SMTPFault(
                FaultKind.GARBLED, "DATA", f"{self._endpoint} answered before the dot: {reply}", reply
            )
        transcript.final = reply

    async def _back_out(self, transcript: Transcript) -> None:
        """Leave a transaction that has nobody to go to, so that the session can be used again."""
        if transcript.data is not None and transcript.data.code == 354:
            # RFC 2920 §3.1: DATA was taken although every recipient was refused; an empty message ends it.
            await self._wire.write(_DOT, "dot", self._timeouts.block)
            await self._wire.reply("dot", self._timeouts.dot)
        elif transcript.mail is not None and transcript.mail.positive:
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


async def _connect(endpoint: Endpoint) -> _Wire:
    """Try the host's addresses in turn; return the first that answers."""
    addresses = await _resolve(endpoint)
    problem: SMTPFault | None = None
    for address in addresses:
        try:
            return await _connect_to(endpoint, address)
        except SMTPFault as fault:
            problem = fault
            if fault.kind is FaultKind.INSECURE:
                break
    assert problem is not None
    raise problem


async def _resolve(endpoint: Endpoint) -> list[str]:
    loop = asyncio.get_running_loop()
    looked_up = loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    try:
        found: list[Any] = await asyncio.wait_for(looked_up, endpoint.timeouts.connect)
    except TimeoutError as error:
        raise SMTPFault(
            FaultKind.UNRESOLVED, "connect", f"looking up {endpoint.host} took too long"
        ) from error
    except (OSError, UnicodeError) as error:
        gone = getattr(error, "errno", None) in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
        kind = FaultKind.NO_SUCH_HOST if gone or isinstance(error, UnicodeError) else FaultKind.UNRESOLVED
        detail = "there is no such host" if kind is FaultKind.NO_SUCH_HOST else str(error)
        raise SMTPFault(kind, "connect", f"cannot look up the server {endpoint.host}: {detail}") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


async def _connect_to(endpoint: Endpoint, address: str) -> _Wire:
    loop = asyncio.get_running_loop()
    direct = endpoint.security is Security.TLS
    seconds = endpoint.timeouts.connect
    tls: dict[str, Any] = (
        {"ssl": endpoint.tls, "server_hostname": endpoint.host, "ssl_handshake_timeout": seconds}
        if direct
        else {}
    )
    connecting = loop.create_connection(_Wire, address, endpoint.port, **tls)
    try:
        _, wire = await asyncio.wait_for(connecting, seconds)
    except TimeoutError as error:
        message = f"cannot connect to {endpoint} ({address}): no answer within {seconds:g} s"
        raise SMTPFault(FaultKind.TIMEOUT, "connect", message) from error
    except ssl.SSLError as error:
        raise _tls_fault(endpoint, error) from error
    except OSError as error:
        message = f"cannot connect to {endpoint} ({address}): {error.strerror or error}"
        raise SMTPFault(FaultKind.DISCONNECTED, "connect", message) from error
    return wire


def _tls_fault(endpoint: Endpoint, error: BaseException) -> SMTPFault:
    """Tell a certificate that cannot be trusted (the account's fault) from a connection that broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        message = f"the certificate of {endpoint} cannot be trusted: {error.verify_message}"
        return SMTPFault(FaultKind.INSECURE, "STARTTLS", message)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        return SMTPFault(FaultKind.INSECURE, "STARTTLS", f"no TLS with {endpoint}: {printable(reason)}")
    return SMTPFault(FaultKind.DISCONNECTED, "STARTTLS", f"{endpoint} broke off the TLS handshake: {error}")
