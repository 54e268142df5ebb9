"""Dovecot's submission service, from Debian: it asks for a log-in, and passes every command on to a relay."""

from __future__ import annotations

import subprocess
from typing import ClassVar

from postroom.core.account import Security
from tests.servers.peers.aiosmtpd_ import ROOT, command
from tests.servers.peers.peer import HOSTNAME, PASSWORD, Limit, Spool
from tests.servers.peers.private import PrivatePeer
from tests.servers.programs import answers, end, free_port, wait_ready

CONFIGURATION = """\
base_dir = {folder}/base
state_dir = {folder}/state
log_path = /dev/stderr
hostname = {hostname}
instance_name = {folder}
protocols = submission
listen = 127.0.0.1
ssl = yes
ssl_cert = <{folder}/cert.pem
ssl_key = <{folder}/key.pem
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
default_process_limit = 200
submission_relay_host = 127.0.0.1
submission_relay_port = {relay_port}
submission_relay_trusted = no
mail_location = maildir:{folder}/mail
first_valid_uid = 1
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={folder}/home
}}
service submission-login {{
  inet_listener submission {{
    port = {port}
  }}
  inet_listener submissions {{
    port = {tls_port}
    ssl = yes
  }}
}}
service anvil {{
  # No growing delay for an address whose passwords are wrong: all tests come from 127.0.0.1.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
{settings}
"""


class Dovecot(PrivatePeer):
    """Each setting is a line of dovecot.conf. Its relay is an aiosmtpd that keeps what comes."""

    name = "dovecot"
    packages = ("dovecot-core", "dovecot-submissiond")
    users: ClassVar = {"dovecot": 905, "dovenull": 906}
    securities = (Security.STARTTLS, Security.TLS)
    limits = (
        Limit(
            "connections, as it comes",
            "Maximum number of connections",
            messages=200,
            securities=(Security.TLS,),
            long=True,
        ),
        Limit(
            "connections of a user",
            "Maximum number of connections",
            {"mail_max_userip_connections": "2"},
            securities=(Security.STARTTLS,),
            long=True,
        ),
    )

    _relay: subprocess.Popen[bytes] | None = None

    def configure(self) -> None:
        self.relay_port = free_port()
        text = CONFIGURATION.format(
            hostname=HOSTNAME,
            folder=self.folder,
            port=self.port,
            tls_port=self.tls_port,
            relay_port=self.relay_port,
            password=PASSWORD,
            settings="\n".join(f"{name} = {value}" for name, value in self.settings.items()),
        )
        (self.folder / "dovecot.conf").write_text(text, encoding="utf-8")
        self.spool = Spool(self.folder / "spool")
        for name in ("base", "state", "home", "mail"):
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name).chmod(0o755 if name in ("base", "state") else 0o777)

    def spawn(self) -> subprocess.Popen[bytes]:
        if self._relay is None:
            self._relay = self.run(command(self.spool.folder, self.relay_port), {"PYTHONPATH": str(ROOT)})
            wait_ready(
                self._relay,
                lambda: answers("127.0.0.1", self.relay_port, b"", b"220"),
                self.output,
                self.timeout,
            )
        return super().spawn()

    def command(self) -> list[str]:
        return ["/usr/sbin/dovecot", "-F", "-c", str(self.folder / "dovecot.conf")]

    def user_of(self, email: str) -> str:
        """Its limit of connections is a user's."""
        return email

    def received(self) -> list[bytes]:
        return self.spool.messages()

    def _remove(self) -> None:
        if self._relay is not None:
            end(self._relay)
        super()._remove()


PEER = Dovecot
