"""OpenSMTPD 6.8, from Debian. No PIPELINING; its TLS fails every handshake there, so in the clear only."""

from __future__ import annotations

import os
from typing import ClassVar

from postroom.core.account import Security
from tests.servers.peers.peer import HOSTNAME, Limit, accepted_once
from tests.servers.peers.private import PrivatePeer, files_below

CONFIGURATION = """\
table unknown {{ "^unknown@.*" }}
table defer {{ "^defer@.*" }}
filter unknown phase rcpt-to match rcpt-to regex <unknown> reject "550 5.1.1 User unknown"
filter defer phase rcpt-to match rcpt-to regex <defer> reject "450 4.2.1 Mailbox is busy, try again later"
filter both chain {{ unknown, defer }}
{settings}
listen on 127.0.0.1 port {port} hostname {hostname} filter both
listen on 127.0.0.1 port {tls_port} hostname {hostname} filter both
action "in" maildir "{folder}/mail" virtual {{ "@" = keeper }}
match from any for any action "in"
"""
# Its user for mail, and those of its own. What it has accepted is in the folder, so that it survives a restart.
PREPARE = """\
rm -rf /var/spool/smtpd
ln -s {folder}/spool /var/spool/smtpd
cp {folder}/smtpd.conf /etc/smtpd.conf
mkdir -p /var/empty /run
"""


class OpenSmtpd(PrivatePeer):
    """Each setting is a line of smtpd.conf."""

    name = "opensmtpd"
    packages = ("opensmtpd",)
    users: ClassVar = {"opensmtpd": 902, "opensmtpq": 903, "keeper": 904}
    securities = (Security.NONE,)
    limits = (
        Limit(
            "messages a session, which stays open",
            "Too many messages sent",
            {"smtp limit": "max-mails 5"},
        ),
    )

    def configure(self) -> None:
        text = CONFIGURATION.format(
            hostname=HOSTNAME,
            folder=self.folder,
            port=self.port,
            tls_port=self.tls_port,
            settings="\n".join(f"{name} {value}" for name, value in self.settings.items()),
        )
        (self.folder / "smtpd.conf").write_text(text, encoding="utf-8")
        (self.folder / "prepare").write_text(PREPARE.format(folder=self.folder), encoding="utf-8")
        for name, owner, mode in (
            ("spool", 0, 0o711),
            ("mail", 904, 0o700),
            ("spool/offline", 0, 0o770),
            ("spool/purge", 903, 0o700),
            ("spool/queue", 903, 0o700),
            ("spool/incoming", 903, 0o700),
            ("spool/corrupt", 903, 0o700),
            ("spool/temporary", 903, 0o700),
        ):
            path = self.folder / name
            path.mkdir(exist_ok=True)
            os.chown(path, owner, 903 if name == "spool/offline" else 0)
            path.chmod(mode)

    def command(self) -> list[str]:
        return ["/usr/sbin/smtpd", "-d"]

    def received(self) -> list[bytes]:
        return accepted_once(
            path.read_bytes() for path in files_below(self.folder / "mail") if path.parent.name == "new"
        )

    def is_idle(self) -> bool:
        return not any(path.name == "message" for path in files_below(self.folder / "spool/queue"))


PEER = OpenSmtpd
