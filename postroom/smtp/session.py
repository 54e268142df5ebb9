"""Opens an SMTP session: greeting, EHLO, STARTTLS or TLS, log-in (RFC 5321, RFC 3207, RFC 4954).

Whatever goes wrong that is not a plain refusal closes it for good, so that a late
reply can never be taken for the answer to something else.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from typing import Self

from postroom.core import failpoint
from postroom.core.account import Security
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Reply
from postroom.smtp import own_name, second_look
from postroom.smtp.auth import log_in
from postroom.smtp.connect import avoid, connect
from postroom.smtp.conversation import FORM, Conversation
from postroom.smtp.credentials import credentials_of
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.stream import Wire
from postroom.smtp.tape import Tape
from postroom.smtp.tls import is_for_another_name, spoke_in_clear

_UNKNOWN = (500, 502)  # the command is not known here (RFC 5321 §4.2.2)
_BARE = frozenset({"ENHANCEDSTATUSCODES"})  # what a server that turns a connection away still lists in EHLO
_GREETING_S = 10.0  # how long a server may say nothing before it is said what may be wrong
_MORE_PATIENCE = 3  # how many times longer it may the next time: some make every client wait on purpose
_MOST_REMEMBERED = 10_000  # servers

_patience: dict[tuple[str, int], float] = {}  # how long servers may take that have said nothing once


class _ClosedAfterOurName(SMTPFault):
    """The server left when it heard our name; another one is to be tried."""


class Session(Conversation):
    """A connection whose server has greeted, been authenticated where asked, and knows us."""

    def __init__(self, endpoint: Endpoint, wire: Wire) -> None:
        super().__init__(endpoint, wire)
        self._peer = None if wire.transport is None else wire.transport.get_extra_info("peername")
        self._extensions: dict[str, str] = {}
        self._mechanisms: tuple[str, ...] = ()  # of AUTH
        self._names_itself: list[str] = []  # its greeting, and the first line of its answer to EHLO
        self._own_name = ""  # as we last said it in EHLO
        self._other_names: list[str] = []
        self.authenticated = False  # whether credentials were given and accepted

    @classmethod
    async def open(cls, endpoint: Endpoint, tape: Tape | None = None) -> Self:
        """Connect, greet, secure and log in, all of it recorded. Raises SMTPFault; the socket is closed then."""
        tape = tape or Tape()
        try:
            return await cls._open(endpoint, tape)
        except _ClosedAfterOurName:
            try:
                return await cls._open(endpoint, tape)
            except _ClosedAfterOurName:
                own_name.forget_refused(endpoint.host, endpoint.port)  # it was not for the name
                raise

    @classmethod
    async def _open(cls, endpoint: Endpoint, tape: Tape) -> Self:
        credentials = credentials_of(endpoint.username, endpoint.password, endpoint.access_token)
        began = time.perf_counter()
        wire = await connect(
            endpoint.host,
            endpoint.port,
            endpoint.timeouts.connect,
            credentials,
            is_confined=endpoint.is_confined,
            tape=tape,
        )
        endpoint.observe("CONNECT", time.perf_counter() - began)
        wire.observe = endpoint.observe
        session = cls(endpoint, wire)
        try:
            await session._greet()
        except BaseException:
            wire.abort()
            raise
        return session

    async def _greet(self) -> None:
        failpoint.hit("session.connect")
        if self._endpoint.security is Security.TLS:
            await self._secure_from_the_start()
        await self._read_greeting()
        await self._hello()
        if self._endpoint.security is Security.STARTTLS:
            await self._start_tls()
            await self._hello()
        failpoint.hit("session.tls")
        if self._has_login:
            await self._authenticate()
        elif self._extensions.keys() <= _BARE:
            await self._expect_service()
        failpoint.hit("session.auth")

    @property
    def _has_login(self) -> bool:
        return bool(self._endpoint.username and (self._endpoint.password or self._endpoint.access_token))

    async def _read_greeting(self) -> None:
        endpoint = self._endpoint
        host, most = (endpoint.host, endpoint.port), self._timeouts.greeting
        seconds = most if endpoint.security is Security.TLS else min(most, _patience.get(host, _GREETING_S))
        try:
            greeting = await self._wire.reply("greeting", seconds)
        except SMTPFault as fault:
            avoid(*host, self._peer)
            if fault.kind is not FaultKind.TIMEOUT or endpoint.security is Security.TLS:
                raise
            _be_more_patient(host, seconds)
            raise SMTPFault(fault.kind, fault.verb, f"{fault}{_silence(endpoint)}") from fault
        self.expect(greeting, "greeting")
        self._names_itself = [greeting.text]

    async def _hello(self) -> None:
        """Introduce ourselves; where the name is refused, by our address, and the other way round."""
        endpoint = self._endpoint
        self._own_name, *others = self._introductions()
        self._other_names = others
        reply = await self.command("EHLO", f"EHLO {self._own_name}")
        if others and own_name.may_be_for_the_name(reply):
            if reply.code == 421:
                own_name.note_refused(endpoint.host, endpoint.port, self._own_name)
                message = f"{endpoint} refused EHLO: {reply}"
                raise _ClosedAfterOurName(FaultKind.REFUSED, "EHLO", message, reply)
            second = await self.command("EHLO", f"EHLO {others[0]}")
            if second.positive:
                own_name.note_refused(endpoint.host, endpoint.port, self._own_name)
                self._own_name, reply, self._other_names = others[0], second, [self._own_name]
        if (
            reply.code in _UNKNOWN
            and self._endpoint.security is not Security.STARTTLS
            and not self._has_login
        ):
            reply = await self.command("HELO", f"HELO {self._own_name}")
            self.expect(reply, "HELO")
            return
        self.expect(reply, "EHLO")
        self._learn(self._wire.as_it_came)

    def _learn(self, said: str) -> None:
        """Read what the server offers off its answer to EHLO."""
        name, *_ = said.split("\n")
        self._names_itself = [*self._names_itself[:1], name]
        lines = said.upper().split("\n")[1:]
        self._extensions = {word: rest for word, _, rest in (line.partition(" ") for line in lines)}
        # Some announce AUTH in several lines, and in the form with "=" of drafts before RFC 2554.
        offers = (re.match(r"AUTH[ =](.*)", line) for line in lines)
        self._mechanisms = tuple(name for offer in offers if offer for name in offer[1].split())

    async def _expect_service(self) -> None:
        """Where something is missing in EHLO, ask whether the server serves this connection at all.

        Sendmail, when a limit is reached, answers EHLO without what it can do, and other commands with the reason;
        not EHLO, NOOP, RSET and QUIT. HELP asks for nothing that a server could refuse for another reason.
        """
        reply = await self.command("HELP", "HELP")
        if reply.code not in FORM:
            self.expect(reply, "EHLO")  # it is what EHLO should have said

    def wants_another_name(self, refusals: Iterable[Reply]) -> bool:
        """Whether these refusals are of our name, and a new connection is to try another one; this one is closed then."""
        endpoint, own = self._endpoint, self._own_name
        wants = own_name.refused_later(endpoint.host, endpoint.port, own, self._other_names, refusals)
        if wants:
            self.abort()
        return wants

    @property
    def skipped_login(self) -> str | None:
        """Say why no log-in was tried although there is a password, or None."""
        if self.authenticated or not self._has_login:
            return None
        return "no log-in was tried, since the server offers none without TLS: set the security to starttls"

    def _introductions(self) -> list[str]:
        assert self._wire.transport is not None
        address = self._wire.transport.get_extra_info("sockname")
        endpoint, own = self._endpoint, str(address[0]) if address else None
        return own_name.introductions(endpoint.ehlo_name, own, endpoint.host, endpoint.port)

    async def _start_tls(self) -> None:
        endpoint = self._endpoint
        reply = await self.command("STARTTLS", "STARTTLS")  # missing in EHLO or not: see `_expect_service`
        if reply.code in FORM and "STARTTLS" not in self._extensions:
            raise SMTPFault(
                FaultKind.INSECURE,
                "STARTTLS",
                f"{endpoint} does not offer STARTTLS; nothing was sent to it. If it speaks TLS from the "
                f"start, set the security to tls (usually port 465)",
            )
        self.expect(reply, "STARTTLS")
        await self._secure()
        self._extensions, self._mechanisms = {}, ()  # RFC 3207 §4.2: forget what was learned before TLS

    async def _secure_from_the_start(self) -> None:
        spoke = self._wire.has_unread
        if spoke:
            raise _speaks_first(self._endpoint, await self._wire.reply("greeting", self._timeouts.connect))
        try:
            await self._secure()
        except SMTPFault as fault:
            if not spoke_in_clear(fault.__cause__):
                raise
            self._wire.abort()
            endpoint = self._endpoint
            said = await second_look.greeting_in_clear(endpoint, self._wire.credentials)
            raise _speaks_first(endpoint, said) from fault

    async def _secure(self) -> None:
        endpoint = self._endpoint
        assert endpoint.tls is not None
        began = time.perf_counter()
        try:
            await self._wire.start_tls(endpoint.tls, endpoint.host, str(endpoint), self._timeouts.connect)
            endpoint.observe("TLS", time.perf_counter() - began)
        except SMTPFault as fault:
            if not is_for_another_name(fault.__cause__):
                raise
            self._wire.abort()
            names = await second_look.certificate_names(endpoint, self._wire.credentials)
            raise _wrong_name(fault, names) from fault.__cause__
        self.tape.note(self._wire.tls_in_use)

    async def _authenticate(self) -> None:
        """Log in, where the server offers it; then ask again what it offers (`_learn_size`)."""
        if not self._mechanisms:
            await self._expect_service()
            self._expect_no_login()
            return
        await log_in(self, self._mechanisms)
        self.authenticated = True
        await self._learn_size()

    def _expect_no_login(self) -> None:
        """Without TLS a server may ask for none; with it the server would relay nothing, and blame the recipients."""
        if self._endpoint.security is not Security.NONE:
            raise SMTPFault(
                FaultKind.UNSUPPORTED,
                "AUTH",
                f"{self._endpoint} offers no log-in (AUTH), but a password is set; check host and port, "
                f"or leave the password empty if this server asks for none",
            )

    async def _learn_size(self) -> None:
        """Ask for what is said only to those who are logged in: Dovecot names the number of SIZE then."""
        if self._extensions.get("SIZE") == "":
            reply = await self.command("EHLO", f"EHLO {self._own_name}")
            if reply.positive:
                self._learn(self._wire.as_it_came)


def _be_more_patient(host: tuple[str, int], seconds: float) -> None:
    """Wait longer the next time: a wrong row costs seconds, and a slow server is reached all the same."""
    _patience[host] = max(_patience.get(host, 0.0), seconds * _MORE_PATIENCE)
    if len(_patience) > _MOST_REMEMBERED:
        del _patience[next(iter(_patience))]


def _silence(endpoint: Endpoint) -> str:
    """Return what a server may be about that does not greet."""
    usual = endpoint.port == 465
    how = "as port 465 does" if usual else "as port 465 usually does"
    return f"; {endpoint} may wait for TLS from the start, {how}: set the security to tls then"


def _speaks_first(endpoint: Endpoint, said: Reply | None) -> SMTPFault:
    """What a server said in clear where TLS had to begin: a refusal counts, a greeting says that the row is wrong."""
    if said is not None and not said.positive:
        return SMTPFault(FaultKind.REFUSED, "greeting", f"{endpoint} refused us: {said}", said)
    message = (
        f"{endpoint} answered in clear where TLS had to begin: it does not speak TLS from the start; "
        "set the security to starttls (usually port 587)"
    )
    return SMTPFault(FaultKind.INSECURE, "STARTTLS", message)


def _wrong_name(fault: SMTPFault, names: Sequence[str]) -> SMTPFault:
    if not names:
        return fault
    listed, such = ", ".join(names), "such a name" if names[0].startswith("*") else "that name"
    return SMTPFault(fault.kind, fault.verb, f"{fault} (it is for {listed}): use {such} as the host")
