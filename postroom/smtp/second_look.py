"""After a TLS failure, a second connection without credentials finds out what is wrong with the server.

No credential is sent, and nothing that is learned here is trusted: it goes into a sentence for a person, without the
credentials, which are struck from it.
"""

from __future__ import annotations

import ssl
from typing import Final

from postroom.core.account import Security
from postroom.core.errors import SMTPFault
from postroom.core.outcome import Reply
from postroom.smtp.certificate import Certificate, certificate_of
from postroom.smtp.connect import connect
from postroom.smtp.credentials import Credentials
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.stream import Wire

LONGEST_S: Final = 10.0  # for each step


async def greeting_in_clear(endpoint: Endpoint, credentials: Credentials | None) -> Reply | None:
    """Return the greeting that a server sends in clear; None for one that waits for the client."""
    step = _step(endpoint)
    try:
        wire = await _connect(endpoint, step, credentials)
        try:
            return await wire.reply("greeting", step)
        finally:
            wire.abort()
    except SMTPFault:
        return None


async def certificate_names(endpoint: Endpoint, credentials: Credentials | None) -> tuple[str, ...]:
    """Return the names that the server's certificate is for, as far as it shows one."""
    found = await certificate_shown(endpoint, credentials)
    return found.names if found else ()


async def certificate_shown(endpoint: Endpoint, credentials: Credentials | None) -> Certificate | None:
    """Return the certificate that the server shows, unverified; None where there is none that can be read."""
    step = _step(endpoint)
    try:
        wire = await _connect(endpoint, step, credentials)
        try:
            if endpoint.security is Security.STARTTLS and not await _starts_tls(wire, step):
                return None
            await wire.start_tls(_unverified(), endpoint.host, str(endpoint), step)
            return certificate_of(wire)
        finally:
            wire.abort()
    except (SMTPFault, ValueError):  # ValueError: its certificate cannot be read
        return None


def _step(endpoint: Endpoint) -> float:
    return min(endpoint.timeouts.connect, LONGEST_S)


async def _connect(endpoint: Endpoint, step: float, credentials: Credentials | None) -> Wire:
    return await connect(endpoint.host, endpoint.port, step, credentials, is_confined=endpoint.is_confined)


async def _starts_tls(wire: Wire, step: float) -> bool:
    reply = await wire.reply("greeting", step)
    for verb, line in (("EHLO", b"EHLO localhost\r\n"), ("STARTTLS", b"STARTTLS\r\n")):
        if not reply.positive:
            return False
        await wire.write(line, verb, step)
        reply = await wire.reply(verb, step)
    return reply.positive


def _unverified() -> ssl.SSLContext:
    """A context for looking at a certificate: nothing is ever said over its connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
