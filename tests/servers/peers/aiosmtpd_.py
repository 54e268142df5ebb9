"""aiosmtpd, from PyPI, as a program that stores what comes. Dovecot's relay is one, too."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import ssl
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.servers.peers.peer import HOSTNAME, PASSWORD, USER, Limit, Peer, Spool

ROOT = Path(__file__).resolve().parents[3]
PERIOD_S = 10.0


class Keep:
    """Stores each message as a file, and refuses what the tests want refused."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._folder = Path(options.spool)
        self._rate = options.rate
        self._times: deque[float] = deque()
        self._names = itertools.count()

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._rate and self._is_too_fast():
            return "450 4.7.1 Rate limit exceeded, try again later"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    def _is_too_fast(self) -> bool:
        now = asyncio.get_running_loop().time()
        while self._times and self._times[0] < now - PERIOD_S:
            self._times.popleft()
        if len(self._times) >= self._rate:
            return True
        self._times.append(now)
        return False

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("unknown"):
            return "550 5.1.1 User unknown"
        if address.startswith("defer"):
            return "450 4.2.1 Mailbox is busy, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        name = f"{os.getpid()}.{next(self._names)}"
        hidden = self._folder / f".{name}"
        assert isinstance(envelope.original_content, bytes)
        hidden.write_bytes(envelope.original_content)
        hidden.rename(self._folder / name)
        return "250 2.0.0 stored"


def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (
        USER.encode(),
        PASSWORD.encode(),
    )
    return AuthResult(success=right, handled=False, auth_data=USER if right else None)


async def serve(options: argparse.Namespace) -> None:
    keep = Keep(options)
    tls: ssl.SSLContext | None = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate, options.key)

    def make(**more: Any) -> SMTP:
        return SMTP(
            keep,
            hostname=HOSTNAME,
            ident="aiosmtpd",
            enable_SMTPUTF8=True,
            data_size_limit=options.size,
            authenticator=authenticate,
            command_call_limit={"MAIL": options.calls} if options.calls else None,
            **more,
        )

    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: make(tls_context=tls), "127.0.0.1", options.port, backlog=1000)
    if options.tls_port:
        await loop.create_server(
            lambda: make(auth_require_tls=False), "127.0.0.1", options.tls_port, ssl=tls, backlog=1000
        )
    await asyncio.Event().wait()


def command(folder: Path, port: int, *more: str) -> list[str]:
    """Return the command line that starts this program."""
    spool = Spool(folder).folder
    module = "tests.servers.peers.aiosmtpd_"
    return [sys.executable, "-m", module, "--spool", str(spool), "--port", str(port), *more]


class Aiosmtpd(Peer):
    """The settings are options of the program below."""

    name = "aiosmtpd"
    limits = (
        Limit("calls of a command, then 421", "MAIL sent too many times", {"--calls": "5"}),
        Limit("rate", "Rate limit exceeded", {"--rate": "20"}, long=True),
    )

    def prepare(self) -> None:
        """It is in requirements/run.txt: the built-in inbox is one."""

    def configure(self) -> None:
        self.spool = Spool(self.folder / "spool")

    def spawn(self) -> subprocess.Popen[bytes]:
        tls = ["--tls-port", str(self.tls_port)]
        tls += ["--certificate", str(self.folder / "cert.pem"), "--key", str(self.folder / "key.pem")]
        limits = [word for pair in self.settings.items() for word in pair]
        return self.run(command(self.spool.folder, self.port, *tls, *limits), {"PYTHONPATH": str(ROOT)})

    def received(self) -> list[bytes]:
        return self.spool.messages()


PEER = Aiosmtpd


def main() -> None:
    parser = argparse.ArgumentParser(description="An aiosmtpd that stores what comes.")
    parser.add_argument("--spool", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-port", type=int, default=0)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--size", type=int, default=33_554_432)
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--calls", type=int, default=0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
