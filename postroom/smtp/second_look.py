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
from postroom.smtp.stream import Wire

LONGEST_S: Final = 10.0  # for each step


async def greeting_in_clear(
    host: str, port: int, seconds: float, credentials: Credentials | None
) -> Reply | None:
    """Return the greeting that a server sends in clear; None for one that waits for the client."""
    try:
        wire = await connect(host, port, min(seconds, LONGEST_S), credentials)
        try:
            return await wire.reply("greeting", min(seconds, LONGEST_S))
        finally:
            wire.abort()
    except SMTPFault:
        return None


async def certificate_names(
    host: str, port: int, security: Security, seconds: float, credentials: Credentials | None
) -> tuple[str, ...]:
    """Return the names that the server's certificate is for, as far as it shows one."""
    found = await certificate_shown(host, port, security, seconds, credentials)
    return found.names if found else ()


async def certificate_shown(
    host: str, port: int, security: Security, seconds: float, credentials: Credentials | None
) -> Certificate | None:
    """Return the certificate that the server shows, unverified; None where there is none that can be read."""
    step = min(seconds, LONGEST_S)
    try:
        wire = await connect(host, port, step, credentials)
        try:
            if security is Security.STARTTLS and not await _starts_tls(wire, step):
                return None
            await wire.start_tls(_unverified(), host, f"{host}:{port}", step)
            return certificate_of(wire)
        finally:
            wire.abort()
    except (SMTPFault, ValueError):  # ValueError: its certificate cannot be read
        return None


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
