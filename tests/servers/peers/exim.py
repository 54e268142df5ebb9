"""Exim, from Debian: GnuTLS, PIPELINING, CHUNKING, SMTPUTF8. It delivers into a Maildir."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import ClassVar

from tests.servers.installation import descendants
from tests.servers.peers.peer import CLEAR_AND_TLS, HOSTNAME, PASSWORD, USER, Limit, accepted_once
from tests.servers.peers.private import PrivatePeer, files_below

CONFIGURATION = """\
primary_hostname = {hostname}
exim_user = Debian-exim
exim_group = Debian-exim
spool_directory = {folder}/spool
log_file_path = {folder}/log/%s
pid_file_path = {folder}/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port} : {tls_port}
tls_on_connect_ports = {tls_port}
tls_advertise_hosts = *
tls_certificate = {folder}/cert.pem
tls_privatekey = {folder}/key.pem
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
host_lookup =
rfc1413_query_timeout = 0s
smtputf8_advertise_hosts = *
keep_environment =
never_users =
acl_smtp_mail = acl_mail
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = accept
{settings}

begin acl
acl_mail:
{acl}
  accept
acl_rcpt:
  deny    local_parts = ^unknown
          message = 5.1.1 User unknown
  defer   local_parts = ^defer
          message = 4.2.1 Mailbox is busy, try again later
  accept  hosts = 127.0.0.1
          control = submission/sender_retain
  accept  authenticated = *

begin routers
all:
  driver = accept
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = {folder}/mail
  maildir_format
  create_directory
  user = mail
  group = mail
  return_path_add = false
  delivery_date_add = false
  envelope_to_add = false

begin retry
*  *  F,1h,1s

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{{user}}}}}{{eq{{$auth2}}{{{password}}}}}}}}}
  server_set_id = $auth1
"""
RATE = (
    "  defer  message = Sender rate $sender_rate / $sender_rate_period exceeded for $sender_address\n"
    "         ratelimit = 20 / 10s / per_mail / strict / $sender_address"
)


# The first process of the namespace, so that those of the connections outlive the daemon, as on a real machine.
INIT = """\
my $daemon = fork // die;
exec @ARGV unless $daemon;
$SIG{TERM} = sub { kill TERM => $daemon };
while (wait != -1 || $!{EINTR}) {}
"""


class Exim(PrivatePeer):
    """Each setting is a line of the main section; `acl` is the start of the ACL for MAIL."""

    name = "exim"
    packages = ("exim4-base", "exim4-daemon-heavy")
    users: ClassVar = {"Debian-exim": 901}
    limits = (
        Limit(
            "connections, as it comes",
            "Too many concurrent SMTP connections",
            messages=100,
            securities=CLEAR_AND_TLS,
            long=True,
        ),
        Limit(
            "messages a connection",
            "too many messages in this connection",
            {"smtp_accept_max_per_connection": "5"},
        ),
        Limit("connections", "Too many concurrent SMTP connections", {"smtp_accept_max": "2"}),
        Limit(
            "connections of a host", "Too many concurrent SMTP connections", {"smtp_accept_max_per_host": "1"}
        ),
        Limit("rate", "Sender rate", {"acl": RATE}, long=True),
    )

    def configure(self) -> None:
        settings = dict(self.settings)
        acl = settings.pop("acl", "")
        text = CONFIGURATION.format(
            hostname=HOSTNAME,
            folder=self.folder,
            port=self.port,
            tls_port=self.tls_port,
            user=USER,
            password=PASSWORD,
            acl=acl,
            settings="\n".join(f"{name} = {value}" for name, value in settings.items()),
        )
        (self.folder / "exim.conf").write_text(text, encoding="utf-8")
        for name, owner in (("spool", 901), ("log", 901), ("mail", 8)):
            (self.folder / name).mkdir(exist_ok=True)
            os.chown(self.folder / name, owner, owner)
        os.chown(self.folder / "key.pem", 901, 901)
        # Not by -C: Exim's own processes, which have given up root's rights, must find it too.
        copy = f"mkdir -p /etc/exim4\ncp {self.folder}/exim.conf /etc/exim4/exim4.conf\n"
        (self.folder / "prepare").write_text(copy, encoding="utf-8")

    def command(self) -> list[str]:
        # -bdf stays in the foreground; a queue runner every other second, for what a killed one has left.
        return ["/usr/bin/perl", "-e", INIT, "/usr/sbin/exim4", "-bdf", "-q2s"]

    def stop(self) -> None:
        """As Debian's script does: SIGTERM to the daemon alone; the others end with what they have in hand.

        A process that has answered 250 for a message removes it when SIGTERM comes right then, after DATA as well.
        """
        assert self._process is not None
        [first] = descendants(self._process.pid)[:1]
        os.kill(first, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()

    def received(self) -> list[bytes]:
        return accepted_once(
            path.read_bytes() for path in files_below(self.folder / "mail") if path.parent.name == "new"
        )

    def is_idle(self) -> bool:
        # It removes the text (-D) first: one that was killed right after has delivered the message.
        names = {path.name for path in files_below(self.folder / "spool/input")}
        return not any(name.endswith("-H") and f"{name[:-1]}D" in names for name in names)


PEER = Exim
