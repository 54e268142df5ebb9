"""Sendmail, from Debian, with Cyrus SASL. It only queues: what it took is read from its queue."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from postroom.core.account import Security
from tests.servers.peers.peer import HOSTNAME, PASSWORD, USER, Limit
from tests.servers.peers.private import PrivatePeer, files_below

CONFIGURATION = """\
divert(-1)dnl
define(`_USE_ETC_MAIL_')dnl
include(`/usr/share/sendmail/cf/m4/cf.m4')dnl
divert(0)dnl
VERSIONID(`a peer')dnl
OSTYPE(`debian')dnl
define(`confDOMAIN_NAME', `{hostname}')dnl
define(`QUEUE_DIR', `{folder}/queue')dnl
define(`STATUS_FILE', `{folder}/statistics')dnl
define(`confPID_FILE', `{folder}/sendmail.pid')dnl
define(`confDELIVERY_MODE', `queueonly')dnl
define(`confTO_IDENT', `0')dnl
define(`confSERVER_CERT', `/etc/mail/tls/cert.pem')dnl
define(`confSERVER_KEY', `/etc/mail/tls/key.pem')dnl
define(`confCACERT', `/etc/mail/tls/ca.pem')dnl
define(`confCACERT_PATH', `/etc/mail/tls')dnl
define(`confAUTH_MECHANISMS', `PLAIN LOGIN')dnl
define(`confAUTH_OPTIONS', `p,y')dnl
define(`confREFUSE_LA', `10000')dnl
define(`confQUEUE_LA', `10000')dnl
define(`confDELAY_LA', `0')dnl
TRUST_AUTH_MECH(`PLAIN LOGIN')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`access_db', `hash -T<TMPF> /etc/mail/access')dnl
FEATURE(`blocklist_recipients')dnl
{settings}
DAEMON_OPTIONS(`Family=inet, Name=clear, Port={port}, Addr=127.0.0.1')dnl
DAEMON_OPTIONS(`Family=inet, Name=tls, Port={tls_port}, Addr=127.0.0.1, M=s')dnl
MAILER(`smtp')dnl
"""
# It relays for 127.0.0.1 as it comes. `Connect:127.0.0.1 RELAY` would lift the limits of connections.
ACCESS = """\
To:unknown@other.example ERROR:5.1.1:550 User unknown
To:defer@other.example ERROR:4.2.1:450 Mailbox is busy, try again later
"""
PREPARE = """\
mkdir -p /etc/mail /etc/sasl2 /etc/mail/smrsh
cd /etc/mail
mkdir -m 700 -p tls
cp {folder}/*.pem tls  # it trusts no file below a folder that anybody can write to
chmod 600 tls/*
echo {hostname} > local-host-names
touch trusted-users aliases relay-domains
cp {folder}/access access
m4 {folder}/sendmail.mc > sendmail.cf 2> m4.errors
[ ! -s m4.errors ] || {{ cat m4.errors; exit 1; }}
mkdir -p /var/lib/sendmail/host_status
/usr/libexec/sendmail/makemap hash access < access
printf 'pwcheck_method: auxprop\\nauxprop_plugin: sasldb\\nmech_list: plain login\\n' > /etc/sasl2/Sendmail.conf
printf '%s' '{password}' | saslpasswd2 -p -c -u {domain} {user}
"""
_HEADER = re.compile(rb"H\?[^?]*\?(?!Return-Path)")


class Sendmail(PrivatePeer):
    """`mc` holds lines of sendmail.mc, `access` lines of the access map."""

    name = "sendmail"
    packages = (
        "sendmail-bin",
        "sendmail-base",
        "sendmail-cf",
        "sasl2-bin",
        "libsasl2-modules",
        "libsasl2-modules-db",
        "m4",
    )
    users: ClassVar = {"smmsp": 907, "smmta": 908}
    limits = (
        Limit(
            "connections, open and useless",
            "Too many open connections",
            {
                "mc": "FEATURE(`conncontrol')dnl",
                "access": "ClientConn:127.0.0.1 2\n",
            },
            securities=(Security.STARTTLS,),
            long=True,
        ),
        Limit(
            "connections, ended at once",
            "Too many open connections",
            {
                "mc": "FEATURE(`conncontrol', `', `terminate')dnl",
                "access": "ClientConn:127.0.0.1 2\n",
            },
        ),
        Limit(
            "rate of connections",
            "Connection rate limit exceeded",
            {
                "mc": "FEATURE(`ratecontrol')dnl\ndefine(`confCONNECTION_RATE_WINDOW_SIZE', `10s')dnl",
                "access": "ClientRate:127.0.0.1 3\n",
            },
            securities=(Security.TLS,),
            long=True,
        ),
    )

    def configure(self) -> None:
        user, _, domain = USER.partition("@")
        names = {
            "hostname": HOSTNAME,
            "folder": self.folder,
            "port": self.port,
            "tls_port": self.tls_port,
            "settings": self.settings.get("mc", ""),
            "user": user,
            "domain": domain,
            "password": PASSWORD,
        }
        (self.folder / "sendmail.mc").write_text(CONFIGURATION.format(**names), encoding="utf-8")
        (self.folder / "access").write_text(ACCESS + self.settings.get("access", ""), encoding="utf-8")
        (self.folder / "prepare").write_text(PREPARE.format(**names), encoding="utf-8")
        (self.folder / "queue").mkdir(exist_ok=True)
        (self.folder / "queue").chmod(0o700)

    def command(self) -> list[str]:
        return ["/usr/libexec/sendmail/sendmail", "-bD"]

    def received(self) -> list[bytes]:
        return list(self._queued())

    def _queued(self) -> Iterator[bytes]:
        for control in files_below(self.folder / "queue"):
            # tf and xf are on their way.
            text = control.read_bytes() if control.name.startswith("qf") else b""
            if text.endswith(b"\n.\n"):  # whole: one that was ended while it wrote has not answered for it
                head = _head(text)
                yield head + b"\n" + control.with_name(f"df{control.name[2:]}").read_bytes()


def _head(control: bytes) -> bytes:
    """Return the message's headers, as they are in a qf file: each on lines of its own behind H?FLAGS?."""
    lines: list[bytes] = []
    inside = False
    for line in control.splitlines(keepends=True):
        match = _HEADER.match(line)
        inside = bool(match) or (inside and line[:1] in b"\t ")
        if inside:
            lines.append(line[match.end() :] if match else line)
    return b"".join(lines)


PEER = Sendmail
