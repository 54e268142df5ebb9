"""A submission server as people run it: Postfix, with Dovecot for passwords, delivering into a Maildir.

Everything lives in one short folder under /tmp (Unix sockets must fit in 107 bytes), and nothing leaves the
machine: every domain is a virtual mailbox domain here.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from tests.servers import logs
from tests.servers.installation import descendants
from tests.servers.programs import StartupError, answers, end, free_port, require, unavailable, wait_ready
from tests.servers.waiting import eventually

USERS = {
    "alice@postroom.example": "alice's secret",
    "bob@postroom.example": "bob's secret",
    "charlie@postroom.example": "charlie's secret",
}

# Recipients that are refused at RCPT, by how they begin.
RECIPIENTS = """\
/^unknown/  550 5.1.1 User unknown
/^defer/    450 4.2.1 Mailbox is busy, try again later
/^full/     452 4.2.2 Mailbox is full
"""

MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = {sbin}
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
mail_owner = postfix
myhostname = mail.postroom.example
smtpd_banner = $myhostname ESMTP {folder.name}
mydestination =
mynetworks = 192.0.2.0/32
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
address_verify_map =
default_transport = error:5.7.1 nothing leaves this machine
relay_transport = error:5.7.1 nothing leaves this machine
local_transport = virtual

virtual_mailbox_domains = static:all
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:inbox/
virtual_mailbox_limit = 0
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}

smtputf8_enable = yes
message_size_limit = 41943040
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = check_recipient_access regexp:{folder}/recipients
smtpd_data_restrictions = reject_unauth_pipelining
smtpd_forbid_bare_newline = reject
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_chain_files = {folder}/server.pem
smtpd_tls_loglevel = 1
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {folder}/sasl
smtpd_sasl_security_options = noanonymous

default_process_limit = 100
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 100000
smtpd_hard_error_limit = 100000
smtpd_junk_command_limit = 100000
initial_destination_concurrency = 20
virtual_destination_concurrency_limit = 50
virtual_destination_rate_delay = 0
"""

# chroot is off ("n" in the fifth column) for all.
MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{tls_port} inet n - n - - smtpd
    -o smtpd_tls_wrappermode=yes
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
proxywrite unix - - n - 1 proxymap
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
virtual   unix  - n n - 50 virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

# The folders of a queue, as in postfix-files. Made here, so that the checks that make them can be left out.
QUEUES = (
    "active",
    "bounce",
    "corrupt",
    "defer",
    "deferred",
    "flush",
    "hold",
    "incoming",
    "private",
    "saved",
    "trace",
)

DOVECOT = """\
base_dir = {folder}/dovecot
state_dir = {folder}/dovecot
log_path = {folder}/dovecot.log
instance_name = {folder}
protocols =
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login{mechanisms}
auth_failure_delay = 0
auth_cache_size = {cache}
{tokens}passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/users
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/mail
}}
service auth {{
  client_limit = 1000
  unix_listener {folder}/sasl {{
    mode = 0666
  }}
}}
service anvil {{
  client_limit = 1000
  # No growing delay for an address whose passwords are wrong: all tests come from 127.0.0.1.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""

# For a log-in with an access token, which the token server is asked about.
TOKENS = """\
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
}}
"""
OAUTH2 = """\
introspection_mode = post
introspection_url = {url}/introspect
username_attribute = username
username_format = %u
active_attribute = active
active_value = true
"""


class Postfix:
    """A Postfix of our own: STARTTLS required on `port`, TLS from the first byte on `tls_port`.

    `users` holds address -> password (AUTH PLAIN and LOGIN), `ca_file` the CA to trust. Mail for any recipient
    of any domain lands in one Maildir, read by `mails`; recipients that begin with unknown, defer or full are
    refused with 550, 450 and 452. `settings` adds to or replaces main.cf. With a token server's URL, `tokens`, it
    takes access tokens too (AUTH XOAUTH2 and OAUTHBEARER); `mechanisms` says by which of the two.
    """

    host = "localhost"

    def __init__(
        self,
        ca: trustme.CA,
        users: Mapping[str, str] = USERS,
        settings: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        tokens: str | None = None,
        mechanisms: str = "xoauth2 oauthbearer",
    ) -> None:
        postfix, self._dovecot_program = require("postfix", "dovecot")
        if os.geteuid() != 0:
            unavailable("Postfix starts only as root")
        self._postfix_program = Path(postfix)
        self.ca = ca
        self.users = dict(users)
        self.settings = dict(settings or {})
        self.timeout = timeout
        self.tokens, self.mechanisms = tokens, mechanisms
        self.port = self.tls_port = 0
        self.folder = Path()
        self._master: subprocess.Popen[bytes] | None = None
        self._dovecot: subprocess.Popen[bytes] | None = None

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def maildir(self) -> Path:
        return self.folder / "mail" / "inbox"

    @property
    def log(self) -> str:
        """All that Postfix has logged."""
        path = self.folder / "mail.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="pr-", dir="/tmp"))
        try:
            self._write_folder()
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write_folder(self) -> None:
        self.folder.chmod(0o755)  # Postfix' own user passes through
        owner, nobody = pwd.getpwnam("postfix"), pwd.getpwnam("nobody")
        for name in ("queue", "queue/pid", "dovecot", "data", "mail"):
            (self.folder / name).mkdir(mode=0o755)
        os.chown(self.folder / "data", owner.pw_uid, -1)
        self._make_queues(owner.pw_uid, grp.getgrnam("postdrop").gr_gid)
        os.chown(self.folder / "mail", nobody.pw_uid, nobody.pw_gid)
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        certificate = self.ca.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self.folder / "server.pem"))
        (self.folder / "server.pem").chmod(0o600)
        self._write_settled("recipients", RECIPIENTS)
        self._write_users()
        names = {
            "folder": self.folder,
            "sbin": self._postfix_program.parent,
            "uid": nobody.pw_uid,
            "gid": nobody.pw_gid,
        }
        extra = "".join(f"{name} = {value}\n" for name, value in self.settings.items())
        self._write_settled("main.cf", MAIN.format(**names) + extra)
        with_tokens = self.tokens is not None
        names["mechanisms"] = f" {self.mechanisms}" if with_tokens else ""
        names["cache"] = "0" if with_tokens else "1M"  # a token that was revoked counts no more
        names["tokens"] = TOKENS.format(folder=self.folder) if with_tokens else ""
        (self.folder / "oauth2.conf").write_text(OAUTH2.format(url=self.tokens))
        (self.folder / "dovecot.conf").write_text(DOVECOT.format(**names))

    def _write_settled(self, name: str, text: str) -> None:
        """Write a file that looks a minute old: Postfix waits two seconds when main.cf was just changed."""
        path = self.folder / name
        path.write_text(text)
        then = time.time() - 60
        os.utime(path, (then, then))

    def _make_queues(self, owner: int, group: int) -> None:
        queue = self.folder / "queue"
        for name in QUEUES:
            (queue / name).mkdir(mode=0o700)
            os.chown(queue / name, owner, -1)
        for name, mode in (("maildrop", 0o730), ("public", 0o710)):
            (queue / name).mkdir()
            os.chown(queue / name, owner, group)
            (queue / name).chmod(mode)

    def _write_users(self) -> None:
        text = "".join(f"{user}:{{PLAIN}}{password}\n" for user, password in self.users.items())
        (self.folder / "users").write_text(text)

    def set_password(self, user: str, password: str) -> None:
        """Change or add a user, in effect at the next AUTH."""
        self.users[user] = password
        self._write_users()
        # It forgets what auth has cached; a reload would refuse log-ins for a while.
        if self._dovecot is not None:
            self._start_dovecot()

    def take_password_away(self, user: str, password: str) -> None:
        """Give a user another password, as a provider does: connections that have logged in end too."""
        self.users[user] = password
        self._write_users()
        self.kill()
        self.start()

    def start(self) -> None:
        """Start both and wait until they answer; the first start picks the ports, later ones use the same."""
        for name in ("mail.log", "dovecot.log"):
            logs.watch(self.folder / name)
        self._start_dovecot()
        if self.port:
            self._start_postfix()
            return
        for attempt in range(4):
            self.port, self.tls_port = free_port(), free_port()
            try:
                self._start_postfix()
            except StartupError:
                if attempt == 3:
                    raise
            else:
                return

    def _start_dovecot(self) -> None:
        if self._dovecot is not None:  # it outlives Postfix's `kill`
            end(self._dovecot)
        sasl = self.folder / "sasl"
        sasl.unlink(missing_ok=True)
        self._dovecot = self._spawn(self._dovecot_program, "-F", "-c", str(self.folder / "dovecot.conf"))
        wait_ready(self._dovecot, sasl.exists, self.folder / "output", self.timeout)

    def _start_postfix(self) -> None:
        self._write_settled("master.cf", MASTER.format(port=self.port, tls_port=self.tls_port))
        (self.folder / "queue" / "quick-start").touch()
        self._master = self._spawn(str(self._postfix_program), "-c", str(self.folder), "start-fg")
        try:
            wait_ready(self._master, self._greets, self.folder / "mail.log", self.timeout)
        except BaseException:
            self._stop_postfix()
            raise

    def _greets(self) -> bool:
        # The folder's name in the banner tells our server from another that took the port before us.
        banner = f"220 mail.postroom.example ESMTP {self.folder.name}".encode()
        return answers("127.0.0.1", self.port, b"", banner)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Stop both; what is queued and delivered stays in the folder."""
        if self._dovecot is not None:
            self._dovecot.terminate()  # takes a second: Postfix ends meanwhile
        self._stop_postfix()
        if self._dovecot is not None:
            end(self._dovecot)
            self._dovecot = None

    def _stop_postfix(self) -> None:
        if self._master is None:
            return
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / "queue/pid/master.pid").read_text()), signal.SIGTERM)
            self._master.wait(10)
        end(self._master)
        self._master = None

    @property
    def pid(self) -> int:
        """The pid of Postfix' master."""
        return int((self.folder / "queue/pid/master.pid").read_text())

    def kill(self) -> None:
        """End all processes of Postfix at once, with SIGKILL; `start` starts them again."""
        if self._master is None:
            return
        first = self.pid
        os.kill(first, signal.SIGSTOP)  # it starts no more
        for pid in [first, *descendants(first)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end(self._master, signal.SIGKILL)
        self._master = None

    def mails(self, expected: int | None = None, timeout: float = 30.0) -> list[bytes]:
        """Return the raw mails of the Maildir, oldest first, after waiting until `expected` have arrived.

        Each begins with Return-Path, X-Original-To and Delivered-To, so one copy per recipient can be told apart.
        Without `expected`, waits until nothing is queued any more. More than `expected` raises.
        """
        if expected is None:
            eventually(self.idle, timeout, "Postfix to deliver what it has queued")
        else:
            message = f"{expected} mails in {self.maildir}"
            eventually(lambda: len(self.files()) >= expected, timeout, message)
        mails = [path.read_bytes() for path in sorted(self.files(), key=_arrival)]
        if expected is not None and len(mails) > expected:
            raise AssertionError(f"{len(mails)} mails arrived, {expected} were expected")
        return mails

    def messages(self, expected: int | None = None, timeout: float = 30.0) -> list[EmailMessage]:
        """The same, parsed."""
        return [message_from_bytes(mail, policy=policy.default) for mail in self.mails(expected, timeout)]

    def files(self) -> list[Path]:
        """Return the files of the Maildir, one for each delivery."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.maildir / "new") as entries:
            return [Path(entry.path) for entry in entries]
        return []

    def idle(self) -> bool:
        """Return whether nothing that Postfix has answered for waits in its queue."""
        return next(self._queued(), None) is None

    def _queued(self) -> Iterator[Path]:
        for name in ("incoming", "active", "deferred"):
            for path in (self.folder / "queue" / name).rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    mode = path.stat().st_mode
                    # x: it is whole. Others come from a client that has no answer yet, or from before a kill.
                    if stat.S_ISREG(mode) and mode & stat.S_IXUSR:
                        yield path

    def clear(self, timeout: float = 30.0) -> None:
        """Empty the Maildir, after what is queued has arrived."""
        eventually(self.idle, timeout, "Postfix to deliver what it has queued")
        for path in self.files():
            path.unlink()


def _arrival(path: Path) -> tuple[int, int]:
    """Sort key from Postfix' Maildir name `SECONDS.V…I…M<microseconds>.HOST`."""
    seconds, unique, _ = path.name.split(".", 2)
    return int(seconds), int(unique.rpartition("M")[2])
