"""Values of a connection: the server and log-in (`Endpoint`), the deadlines (`Timeouts`), the TLS context."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from postroom.core.account import Secret, Security


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

    def capped(self, seconds: float | None, dot: float | None = None) -> Timeouts:
        """Return these deadlines, none above `seconds` but that of the dot, which is `dot` where that is given.

        Who gives up early after the dot sends again what the server is about to accept (RFC 5321 §4.5.3.2.6).
        """
        ours = self if dot is None else replace(self, dot=dot)
        if seconds is None:
            return ours
        names = ("connect", "greeting", "command", "data", "block", "quit")
        return replace(ours, **{name: min(getattr(self, name), seconds) for name in names})


def _unmeasured(phase: str, seconds: float) -> None:
    """Forget how long a step took."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, and as whom. `tls` must be given unless `security` is NONE.

    `observe` is told how long each step took: CONNECT, TLS, and the wait for the reply to each verb.

    `ehlo_name` is this machine's fully qualified name, where it has one. `pipelining` and
    `chunking` say whether to make use of them where they are offered.
    """

    host: str
    port: int
    security: Security
    username: str | None = None
    password: Secret = field(default=Secret(""), repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()
    ehlo_name: str | None = None
    pipelining: bool = True
    chunking: bool = True
    is_confined: bool = False  # to public addresses
    access_token: Secret = field(default=Secret(""), repr=False)  # in place of the password (OAuth2)
    observe: Callable[[str, float], None] = field(default=_unmeasured, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Return a context that verifies certificate and name; at least TLS 1.2 (RFC 8997)."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
