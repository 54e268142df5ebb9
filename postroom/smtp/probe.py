"""Looks at a server without logging in: can it be reached, what does it say, which certificate and log-ins does it have.

The credentials are known here for one reason: they are struck from what the server says. No AUTH is ever sent.
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.text import printable
from postroom.smtp.certificate import Certificate, certificate_of, tls_version
from postroom.smtp.connect import connect
from postroom.smtp.credentials import credentials_of
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.second_look import certificate_shown
from postroom.smtp.session import Session
from postroom.smtp.stream import Wire

_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM})
_NUMBER: Final = re.compile(r"Errno (\d+)")


class Reach(Enum):
    """What became of the attempt to connect."""

    CONNECTED = "connected"
    NO_SUCH_HOST = "no such host"
    UNRESOLVED = "unresolved"  # no name server could be asked
    BLOCKED = "blocked"  # nobody answers: a firewall drops the packets, or the host is off
    REFUSED = "refused"  # the host answers that nothing listens at this port
    NO_ROUTE = "no route"  # this machine, or a router, says that there is no way
    PRIVATE = "private"  # where its account may not go
    BROKEN = "broken"  # anything else


@dataclass(frozen=True, slots=True)
class ServerShown:
    """What a server has shown. `fault` is what stopped us; what would have come after it is not known."""

    reach: Reach
    fault: SMTPFault | None = None
    address: str | None = None
    greeting: str | None = None
    certificate: Certificate | None = None  # also one that cannot be trusted
    tls_version: str | None = None
    mechanisms: tuple[str, ...] = ()  # of AUTH


class _Look(Session):
    """A session that ends before the log-in."""

    @property
    def _has_login(self) -> bool:
        return False

    def shown(self) -> ServerShown:
        address = self._wire.transport and self._wire.transport.get_extra_info("peername")
        return ServerShown(
            Reach.CONNECTED,
            address=str(address[0]) if address else None,
            greeting=printable(self._names_itself[0].split("\n")[0]),
            certificate=_readable(self._wire),
            tls_version=tls_version(self._wire),
            mechanisms=tuple(printable(self.struck(name)) for name in dict.fromkeys(self._mechanisms)),
        )


async def look_at_server(endpoint: Endpoint) -> ServerShown:
    """Connect, greet, secure, ask what is offered, and say goodbye. Raises nothing for a server that misbehaves."""
    try:
        session = await _Look.open(endpoint)
    except SMTPFault as fault:
        return await _stopped(endpoint, fault)
    shown = session.shown()
    await session.quit()
    return shown


async def ports_that_answer(
    host: str, ports: Iterable[int], seconds: float, *, is_confined: bool = False
) -> tuple[int, ...]:
    """Return at which of these ports something accepts a connection; nothing is said to it."""

    no_credentials = None  # nothing that it says is read

    async def answers(port: int) -> bool:
        try:
            wire = await connect(host, port, seconds, no_credentials, is_confined=is_confined)
        except SMTPFault:
            return False
        wire.abort()
        return True

    asked = tuple(ports)
    found = await asyncio.gather(*map(answers, asked))
    return tuple(port for port, does in zip(asked, found, strict=True) if does)


async def _stopped(endpoint: Endpoint, fault: SMTPFault) -> ServerShown:
    reach, certificate = _reach(fault), None
    if isinstance(fault.__cause__, ssl.SSLCertVerificationError):
        certificate = await certificate_shown(endpoint, credentials_of(endpoint.username, endpoint.password))
    return ServerShown(reach, fault, certificate=certificate)


def _reach(fault: SMTPFault) -> Reach:
    if fault.verb != "connect":
        return Reach.CONNECTED
    if fault.kind is FaultKind.NO_SUCH_HOST:
        return Reach.NO_SUCH_HOST
    if fault.kind in (FaultKind.UNRESOLVED, FaultKind.PRIVATE):
        return Reach.UNRESOLVED if fault.kind is FaultKind.UNRESOLVED else Reach.PRIVATE
    numbers = _numbers(fault.__cause__)
    if (
        errno.ECONNREFUSED in numbers
    ):  # by one address at least: the others have no route, as IPv6 often has none
        return Reach.REFUSED
    if fault.kind is FaultKind.TIMEOUT or errno.ETIMEDOUT in numbers:
        return Reach.BLOCKED
    return Reach.NO_ROUTE if numbers & _NO_WAY else Reach.BROKEN


def _numbers(cause: BaseException | None) -> set[int]:
    """Return the numbers of the errors by which connecting failed: those of several addresses stand in the text."""
    number = getattr(cause, "errno", None)
    return {number} if number else set(map(int, _NUMBER.findall(str(cause))))


def _readable(wire: Wire) -> Certificate | None:
    try:
        return certificate_of(wire)
    except ValueError:
        return None
