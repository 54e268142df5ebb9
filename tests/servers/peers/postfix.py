"""Postfix with Dovecot's log-in, as the other tests run it (tests/servers/postfix.py), here in the clear as well."""

from __future__ import annotations

import subprocess
from typing import Self

import trustme

from tests.servers import postfix
from tests.servers.installation import descendants
from tests.servers.peers.peer import PASSWORD, USER, Limit, Peer, accepted_once

OPEN = {
    "smtpd_tls_security_level": "may",
    "smtpd_relay_restrictions": "permit_inet_interfaces, reject",
}


class Postfix(Peer):
    """Each setting is a line of main.cf."""

    name = "postfix"
    limits = (
        Limit(
            "connections of a client", "too many connections", {"smtpd_client_connection_count_limit": "2"}
        ),
        Limit(
            "rate of messages",
            "too much mail",
            {"smtpd_client_message_rate_limit": "20", "anvil_rate_time_unit": "10s"},
            messages=60,
            long=True,
        ),
        Limit(
            "rate of connections",
            "too many connections",
            {"smtpd_client_connection_rate_limit": "3", "anvil_rate_time_unit": "10s"},
        ),
    )

    def __init__(self, ca: trustme.CA, limit: Limit | None = None, timeout: float = 60.0) -> None:
        super().__init__(ca, limit, timeout)
        settings = {**OPEN, **self.settings}
        self._server = postfix.Postfix(ca, {USER: PASSWORD}, settings, timeout)

    def prepare(self) -> None:
        """Its constructor has looked for the programs."""

    def configure(self) -> None:
        """It does so when it is entered."""

    def __enter__(self) -> Self:
        self._server.__enter__()
        self.port, self.tls_port, self.folder = self._server.port, self._server.tls_port, self._server.folder
        return self

    def _remove(self) -> None:
        self._server.__exit__(None, None, None)

    def start(self) -> None:
        self._server.start()

    def spawn(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.kill()

    @property
    def pids(self) -> list[int]:
        first = self._server.pid
        return [first, *descendants(first)]

    def received(self) -> list[bytes]:
        return accepted_once(path.read_bytes() for path in self._server.files())

    def is_idle(self) -> bool:
        return self._server.idle()


PEER = Postfix
