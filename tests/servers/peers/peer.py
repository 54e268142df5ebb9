"""What the servers of other people have in common: a folder, two ports, a life, and an account of what they took."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import trustme

from postroom.core.account import Security
from tests.servers import logs
from tests.servers.installation import descendants
from tests.servers.programs import StartupError, answers, end, free_port, wait_ready
from tests.servers.sink import find_message_id
from tests.servers.waiting import eventually

USER, PASSWORD = "alice@postroom.example", "alices-secret"
HOSTNAME = "mail.postroom.example"
CLEAR_AND_TLS = (Security.NONE, Security.STARTTLS, Security.TLS)


@dataclass(frozen=True)
class Limit:
    """One limit of a server, set low.

    `words` are those of the server's refusal, `settings` is what its file makes of it. An account for each of
    `securities` sends so many `messages` against it; all must arrive within `seconds`, after at most `refused` tries.
    What takes long has its turn in `make servers` only.
    """

    name: str
    words: str
    settings: Mapping[str, str] = field(default_factory=dict)
    messages: int = 60
    securities: tuple[Security, ...] = (Security.NONE,)
    seconds: float = 60.0
    refused: int = 60
    long: bool = False

    def __str__(self) -> str:
        return self.name


class Peer(ABC):
    """One real server on two ports of loopback: in the clear with STARTTLS on `port`, TLS at once on `tls_port`.

    It takes messages from 127.0.0.1 without a password, and from USER with PASSWORD. Recipients that begin with
    unknown are refused with 550, those that begin with defer with 450 or 451.
    """

    name: ClassVar[str]
    securities: ClassVar[tuple[Security, ...]] = CLEAR_AND_TLS
    limits: ClassVar[tuple[Limit, ...]] = ()
    host = "localhost"

    def __init__(self, ca: trustme.CA, limit: Limit | None = None, timeout: float = 60.0) -> None:
        self.ca = ca
        self.settings = dict(limit.settings) if limit else {}
        self.timeout = timeout
        self.port = self.tls_port = 0
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    # -- what each server's file says

    @abstractmethod
    def prepare(self) -> None:
        """Fetch the server where it is not there yet; skip or fail the test where it cannot be."""

    @abstractmethod
    def configure(self) -> None:
        """Write the configuration into the folder; the ports are known."""

    @abstractmethod
    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the server in the foreground."""

    @abstractmethod
    def received(self) -> list[bytes]:
        """Return each copy that the server has answered for, as it stores it."""

    # -- life

    def __enter__(self) -> Self:
        self.prepare()
        self.folder = Path(tempfile.mkdtemp(prefix="pr-", dir="/tmp"))  # short: Unix sockets have 107 bytes
        self.folder.chmod(0o755)
        logs.watch(self.output)
        try:
            self.ca.cert_pem.write_to_path(str(self.folder / "ca.pem"))
            certificate = self.ca.issue_cert("localhost", "127.0.0.1")
            certificate.private_key_pem.write_to_path(str(self.folder / "key.pem"))
            chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
            (self.folder / "cert.pem").write_bytes(chain)
            self._first_start()
        except BaseException:
            self._remove()
            raise
        return self

    def _first_start(self) -> None:
        for attempt in range(4):
            self.port, self.tls_port = free_port(), free_port()
            self.configure()
            try:
                self.start()
            except StartupError:
                if attempt == 3:
                    raise
            else:
                return

    def start(self) -> None:
        """Start it and wait until it greets."""
        assert self._process is None
        self._process = self.spawn()
        try:
            wait_ready(self._process, self.greets, self.output, self.timeout)
        except BaseException:
            self.kill()
            raise

    def greets(self) -> bool:
        return answers("127.0.0.1", self.port, b"", b"220", 5.0)

    def stop(self) -> None:
        """End it as its administrator would."""
        assert self._process is not None
        self._signal_all(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()

    def kill(self) -> None:
        """End all its processes at once, with SIGKILL."""
        if self._process is not None:
            _signal(self._process.pid, signal.SIGSTOP)  # it starts no more
            self._signal_all(signal.SIGKILL)
            end(self._process, signal.SIGKILL)
            self._process = None

    def freeze(self) -> None:
        """Stop all its processes: the kernel goes on accepting connections."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, how: int) -> None:
        for pid in self.pids:
            _signal(pid, how)

    @property
    def pids(self) -> list[int]:
        """The pids of the server's processes, the first one first."""
        assert self._process is not None
        return [self._process.pid, *descendants(self._process.pid)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        try:
            self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- what a test asks

    @property
    def output(self) -> Path:
        """The file with all that the server says of itself."""
        return self.folder / "output"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def row(self, key: str, email: str, security: Security) -> str:
        """Return the row of data.csv for an account here: key,email,host,port,security,username,app_password."""
        port = self.tls_port if security is Security.TLS else self.port
        login = "," if security is Security.NONE else f"{self.user_of(email)},{PASSWORD}"
        return f"{key},{email},{self.host},{port},{security.value},{login}"

    def user_of(self, email: str) -> str:
        """Return the user name with which the account of this address logs in."""
        return USER

    def is_idle(self) -> bool:
        """Whether all that the server has answered for is in `received`."""
        return True

    def ledger(self) -> list[tuple[str, str]]:
        """Return (Message-ID, "") of every copy, for `check_ledger`, when the server is idle."""
        eventually(self.is_idle, 60, f"{self.name} to deliver what it has queued")
        return [(find_message_id(crlf(text)).decode(), "") for text in self.received()]

    def run(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program of the server in its folder, with its output in `output`."""
        with self.output.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


class Spool:
    """A folder into which a server's own code writes each message before it answers: first under a name with a dot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)

    def messages(self) -> list[bytes]:
        return [path.read_bytes() for path in self.folder.iterdir() if not path.name.startswith(".")]


def accepted_once(copies: Iterable[bytes]) -> list[bytes]:
    """Return the copies of a server that delivers, without those that it made of one message when it was killed.

    It names each message that it takes in a Received field of its own. One without is the beginning of a copy.
    """
    named = {found[0]: text for text in copies if (found := _RECEIVED.findall(text))}
    return list(named.values())


_RECEIVED = re.compile(rb"^Received: (?:.*\n)(?:[ \t].*\n)*", re.MULTILINE)


def crlf(text: bytes) -> bytes:
    """Return a message with the line ends of the wire, whatever the server stores."""
    return text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _signal(pid: int, how: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)
