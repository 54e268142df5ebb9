"""An SMTP session without mail: opened, greeted, secured, authenticated (RFC 5321, RFC 3207, RFC 4954).

Whatever goes wrong that is not a plain refusal closes it for good, so that a late
reply can never be taken for the answer to something else.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Self

from postroom.connect import connect
from postroom.errors import FaultKind, SMTPFault
from postroom.failpoint import passing
from postroom.model import Reply, Secret, Security
from postroom.status import printable
from postroom.wire import Wire

_UNKNOWN = (500, 502)  # the command is not known here (RFC 5321 §4.2.2)
_FORM = (500, 501, 502, 503, 504)  # the command's form is refused, not what it asks for
_PROMPT = 334  # RFC 4954 §4
_BARE = frozenset({"ENHANCEDSTATUSCODES"})  # what a server that turns a connection away still lists in EHLO


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
        self._mechanisms: tuple[str, ...] = ()  # of AUTH
        self._greeting = ""
        self._round_trip = float("inf")  # the quickest answer to a command, in seconds
        self.authenticated = False  # whether credentials were given and accepted

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
        self._greeting = greeting.text
        await self._hello()
        if self._endpoint.security is Security.STARTTLS:
            await self._start_tls()
            await self._hello()
        passing("session.tls")
        if self._has_login:
            await self._authenticate()
        elif self._extensions.keys() <= _BARE:
            await self._expect_service()
        passing("session.auth")

    @property
    def _has_login(self) -> bool:
        return bool(self._endpoint.username and self._endpoint.password)

    async def _hello(self) -> None:
        reply = await self._command("EHLO", f"EHLO {self._own_name()}")
        if (
            reply.code in _UNKNOWN
            and self._endpoint.security is not Security.STARTTLS
            and not self._has_login
        ):
            reply = await self._command("HELO", f"HELO {self._own_name()}")
            self._expect(reply, "HELO")
            return
        self._expect(reply, "EHLO")
        self._learn(reply)

    def _learn(self, reply: Reply) -> None:
        """Read what the server offers off its answer to EHLO."""
        lines = reply.text.upper().split("\n")[1:]
        self._extensions = {word: rest for word, _, rest in (line.partition(" ") for line in lines)}
        # Some announce AUTH in several lines, and in the form with "=" of drafts before RFC 2554.
        offers = (re.match(r"AUTH[ =](.*)", line) for line in lines)
        self._mechanisms = tuple(name for offer in offers if offer for name in offer[1].split())

    async def _expect_service(self) -> None:
        """Where something is missing in EHLO, ask whether the server serves this connection at all.

        Sendmail, when a limit is reached, answers EHLO without what it can do, and every command with the reason.
        """
        self._expect(await self._command("NOOP", "NOOP"), "NOOP")

    def _own_name(self) -> str:
        """Return our address literal (RFC 5321 §4.1.3): always true, and no DNS to wait for."""
        assert self._wire.transport is not None
        address = self._wire.transport.get_extra_info("sockname")
        ip = str(address[0]).partition("%")[0] if address else "127.0.0.1"
        return f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"

    async def _start_tls(self) -> None:
        endpoint = self._endpoint
        reply = await self._command("STARTTLS", "STARTTLS")  # missing in EHLO or not: see `_expect_service`
        if reply.code in _FORM and "STARTTLS" not in self._extensions:
            raise SMTPFault(
                FaultKind.INSECURE,
                "STARTTLS",
                f"{endpoint} does not offer STARTTLS; nothing was sent to it. If it speaks TLS from the "
                f"start, set the security to tls (usually port 465)",
            )
        self._expect(reply, "STARTTLS")
        await self._secure()
        self._extensions, self._mechanisms = {}, ()  # RFC 3207 §4.2: forget what was learned before TLS

    async def _secure(self) -> None:
        endpoint = self._endpoint
        assert endpoint.tls is not None
        await self._wire.start_tls(endpoint.tls, endpoint.host, str(endpoint), self._timeouts.connect)

    async def _authenticate(self) -> None:
        """Log in by the first mechanism whose form the server takes. A refused password is not tried in another form."""
        if not self._mechanisms:
            await self._expect_service()
            self._expect_no_login()
            return
        reply: Reply | None = None
        for way in self._ways_to_log_in():
            reply = await way()
            if reply.positive:
                self.authenticated = True
                await self._learn_size()
                return
            if reply.code == _PROMPT:
                await self._cancel_exchange()
            elif reply.code not in _FORM:
                break
        raise self._no_way(reply)

    def _ways_to_log_in(self) -> list[Callable[[], Awaitable[Reply]]]:
        ways: tuple[tuple[str, Callable[[], Awaitable[Reply]]], ...] = (
            ("PLAIN", self._auth_plain),
            ("LOGIN", self._auth_login),
            ("PLAIN", self._auth_plain_prompted),
        )
        return [way for name, way in ways if name in self._mechanisms]

    def _no_way(self, reply: Reply | None) -> SMTPFault:
        endpoint = self._endpoint
        if reply is not None and reply.code != _PROMPT:
            return SMTPFault(FaultKind.REFUSED, "AUTH", f"{endpoint} refused AUTH: {reply}", reply)
        if reply is not None:
            message = f"{endpoint} goes on asking where the log-in should be over: {reply}"
        else:
            names = printable(" ".join(dict.fromkeys(self._mechanisms)))
            message = f"{endpoint} takes none of the log-in methods PLAIN and LOGIN, only {names}"
        return SMTPFault(FaultKind.UNSUPPORTED, "AUTH", message)

    def _expect_no_login(self) -> None:
        """Without TLS a server may ask for none; with it the server would relay nothing, and blame the recipients."""
        if self._endpoint.security is not Security.NONE:
            raise SMTPFault(
                FaultKind.UNSUPPORTED,
                "AUTH",
                f"{self._endpoint} offers no log-in (AUTH), but a password is set; check host and port, "
                f"or leave the password empty if this server asks for none",
            )

    async def _auth_plain(self) -> Reply:
        return await self._command("AUTH", f"AUTH PLAIN {self._plain_response()}")

    async def _auth_plain_prompted(self) -> Reply:
        """For a server that takes no initial response (RFC 4954 §4)."""
        reply = await self._command("AUTH", "AUTH PLAIN")
        return await self._command("AUTH", self._plain_response()) if reply.code == _PROMPT else reply

    def _plain_response(self) -> str:
        endpoint = self._endpoint
        return _base64(f"\0{endpoint.username}\0{endpoint.password.reveal()}")

    async def _auth_login(self) -> Reply:
        """AUTH LOGIN has no initial response in any document: each prompt is answered for what it asks."""
        left = {"user": self._endpoint.username or "", "pass": self._endpoint.password.reveal()}
        reply = await self._command("AUTH", "AUTH LOGIN")
        while reply.code == _PROMPT and left:
            asked = _asked_for(reply)
            if asked is not None and asked not in left:
                break  # for the same again: no answer to that would be right
            reply = await self._command("AUTH", _base64(left.pop(asked or next(iter(left)))))
        return reply

    async def _cancel_exchange(self) -> None:
        """End an exchange that goes on (RFC 4954 §4), so that the next command is not taken for its answer."""
        reply = await self._command("AUTH", "*")
        if reply.code == 421 or not (reply.transient or reply.permanent):
            raise self._out_of_turn("AUTH", reply)

    async def _learn_size(self) -> None:
        """Ask for what is said only to those who are logged in: Dovecot names the number of SIZE then."""
        if self._extensions.get("SIZE") == "":
            reply = await self._command("EHLO", f"EHLO {self._own_name()}")
            if reply.positive:
                self._learn(reply)

    async def _command(self, verb: str, line: str) -> Reply:
        began = time.perf_counter()
        await self._say(verb, line)
        reply = await self._wire.reply(verb, self._timeouts.command)
        self._round_trip = min(self._round_trip, time.perf_counter() - began)
        return reply

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


def _asked_for(prompt: Reply) -> str | None:
    """Return what a prompt of AUTH LOGIN asks for: `user`, `pass`, or None where its words do not say."""
    try:
        text = base64.b64decode(prompt.text, validate=True).decode()
    except (binascii.Error, ValueError):
        text = prompt.text  # in the clear, against RFC 4954
    text = text.lower()
    return "pass" if "pass" in text else "user" if "user" in text else None
