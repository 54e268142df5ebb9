"""Postfix as a relay with its default settings, from a port of 127.0.0.1 to the sink. Needs root."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench import machine
from bench.processes import StartError, free_port
from tests.servers.postfix import MASTER, QUEUES
from tests.servers.programs import PATH, answers

# What is not a default keeps it off the machine's own files and network; speed is left as Postfix ships it.
MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = {sbin}
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
mail_owner = postfix
myhostname = mail.postroom.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
relayhost = [127.0.0.1]:{sink}
smtp_tls_security_level = none
smtpd_relay_restrictions = permit_mynetworks, reject
"""
CLIENTS = """\
pickup    unix  n - n 60 1 pickup
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
"""


def available() -> bool:
    programs = ("postfix", "smtp-source")
    return os.geteuid() == 0 and all(shutil.which(program, path=PATH) for program in programs)


def _program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        raise StartError(f"{name} is not installed")
    return found


class Relay:
    """A Postfix of our own; `held` keeps what comes until `release`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def submit(self, count: int, size: int, sessions: int = 32) -> None:
        """Hand over so many mails through smtp-source, each session kept for many."""
        command = [_program("smtp-source"), "-d", "-s", str(min(sessions, count)), "-m", str(count)]
        command += ["-l", str(size), "-f", "bench@example.com", "-t", "ada@example.org"]
        done = subprocess.run(
            [*command, f"127.0.0.1:{self.port}"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StartError(f"smtp-source: {done.stderr[-1000:]}")

    def release(self) -> None:
        """Let go what was held."""
        for command in (("postsuper", "-H", "ALL"), ("postqueue", "-f")):
            program = [_program(command[0]), "-c", str(self.folder), *command[1:]]
            done = subprocess.run(program, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise StartError(f"{command[0]}: {done.stderr[-1000:]}")


@contextmanager
def relay(sink_port: int, *, held: bool = False) -> Iterator[Relay]:
    """Run the relay for the length of a `with` block, in a folder under /tmp that is removed."""
    folder = Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
    try:
        if machine.in_memory(folder):
            raise StartError("/tmp is in memory: Postfix' queue would not be durable there")
        port = free_port()
        _write(folder, port, sink_port, {"smtpd_client_restrictions": "static:HOLD"} if held else {})
        with _master(folder, port):
            yield Relay(folder, port)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, port: int, sink_port: int, settings: Mapping[str, str]) -> None:
    folder.chmod(0o755)  # Postfix' own user passes through
    owner, group = pwd.getpwnam("postfix").pw_uid, grp.getgrnam("postdrop").gr_gid
    for name in ("queue", "queue/pid", "data"):
        (folder / name).mkdir(mode=0o755)
    os.chown(folder / "data", owner, -1)
    for name in QUEUES:
        (folder / "queue" / name).mkdir(mode=0o700)
        os.chown(folder / "queue" / name, owner, -1)
    for name, mode in (("maildrop", 0o730), ("public", 0o710)):
        (folder / "queue" / name).mkdir()
        os.chown(folder / "queue" / name, owner, group)
        (folder / "queue" / name).chmod(mode)
    main = MAIN.format(folder=folder, sbin=Path(_program("postfix")).parent, sink=sink_port)
    main += "".join(f"{name} = {value}\n" for name, value in settings.items())
    _write_settled(folder / "main.cf", main)
    smtpd, rest = (
        MASTER.format(port=port, tls_port=0).splitlines(keepends=True)[0],
        MASTER[MASTER.index("cleanup") :],
    )
    _write_settled(folder / "master.cf", smtpd + rest + CLIENTS)
    (folder / "queue" / "quick-start").touch()


def _write_settled(path: Path, text: str) -> None:
    """Write a file that looks a minute old: Postfix waits two seconds when main.cf was just changed."""
    path.write_text(text)
    then = time.time() - 60
    os.utime(path, (then, then))


@contextmanager
def _master(folder: Path, port: int) -> Iterator[None]:
    with (folder / "output").open("ab") as output:
        process = subprocess.Popen(
            [_program("postfix"), "-c", str(folder), "start-fg"],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 30
        while not answers("127.0.0.1", port, b"", b"220 mail.postroom.example"):
            if process.poll() is not None or time.monotonic() > deadline:
                log = folder / "mail.log"
                raise StartError(
                    "Postfix did not start:\n" + (log.read_text()[-2000:] if log.exists() else "")
                )
            time.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / "queue/pid/master.pid").read_text()), signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
