"""An SMTP session without mail: opened, greeted, secured, authenticated (RFC 5321, RFC 3207, RFC 4954).

Whatever goes wrong that is not a plain refusal closes it for good, so that a late
reply can never be taken for the answer to something else.
"""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass, field, replace
from typing import Self

from postroom.connect import connect
from postroom.errors import FaultKind, SMTPFault
from postroom.failpoint import passing
from postroom.model import Reply, Secret, Security
from postroom.status import printable
from postroom.wire import Wire


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
    """Where to connect, and as whom. `tls` must be given unless `security` is NONE.

    `pipelining` and `chunking` say whether to make use of them where they are offered.
    """

    host: str
    port: int
    security: Security
    username: str | None = None
    password: Secret = field(default=Secret(""), repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()
    pipelining: bool = True
    chunking: bool = True

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Return a context that verifies certificate and name; at least TLS 1.2 (RFC 8997)."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Session:
    """A connection whose server has greeted, been authenticated where asked, and knows us."""

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        self._endpoint = endpoint
        self._timeouts = endpoint.timeouts
        self._wire = wire
        self._extensions: dict[str, str] = {}

    @classmethod
    async def open(cls, endpoint: Endpoint) -> Self:
        """Connect, greet, secure and log in. Raises SMTPFault; the socket is closed then."""
        wire = await connect(endpoint.host, endpoint.port, endpoint.timeouts.connect)
        session = cls(endpoint, wire)
        try:
            await session._greet()
        except BaseException:
            wire.abort()
            raise
        return session

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
            self._expect_no_login()
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

    def _expect_no_login(self) -> None:
        """Without TLS a server may ask for none; with it the server would relay nothing, and blame the recipients."""
        if self._endpoint.security is not Security.NONE:
            raise SMTPFault(
                FaultKind.UNSUPPORTED,
                "AUTH",
                f"{self._endpoint} offers no log-in (AUTH), but a password is set; check host and port, "
                f"or leave the password empty if this server asks for none",
            )

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


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
