"""The inbox as what it is: a process of its own that speaks SMTP."""

from __future__ import annotations

import os
import re
import resource
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from postroom.inbox.maildrop import inbox_port
from postroom.inbox.reader import list_messages, read_message
from tests.servers.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
MAIN = (
    "import sys; from pathlib import Path; from postroom.inbox.server import serve_inbox;"
    "serve_inbox(Path(sys.argv[1]), **eval(sys.argv[2]))"
)
PLAIN = b"From: alice@example.com\r\nSubject: Hello\r\n\r\nHi Bob\r\n"
SLOW = re.compile(r"^Executing <.* took [0-9.]+ seconds$")
ALICE, BOB = "alice@example.com", "bob@example.com"


class Inbox:
    """A running inbox and a client's way to it."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], stale: int | None) -> None:
        self.folder = folder
        self.process = process
        self.stale = stale
        self.port: int = eventually(self._listening, message="the port file") or 0

    def _listening(self) -> int | None:
        assert self.process.poll() is None, "the inbox ended"
        port = inbox_port(self.folder)
        return port if port != self.stale else None

    def client(self) -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", self.port, local_hostname="localhost", timeout=20)
        client.ehlo()
        return client

    def send(self, raw: bytes) -> None:
        with self.client() as client:
            assert client.sendmail(ALICE, [BOB], raw) == {}

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(50)


Start = Callable[..., Inbox]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start inboxes in `tmp_path`; each ends with the test and must have nothing to complain of."""
    with ExitStack() as stack:

        def run(pass_fds: tuple[int, ...] = (), limit: int | None = None, **options: int) -> Inbox:
            def restrict() -> None:
                if limit is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

            stale = inbox_port(tmp_path)
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "error", "-X", "dev", "-c", MAIN, str(tmp_path), repr(options)],
                    cwd=ROOT,
                    stderr=subprocess.PIPE,
                    pass_fds=pass_fds,
                    preexec_fn=restrict,
                )
            )
            stack.callback(process.kill)
            return Inbox(tmp_path, process, stale)

        yield run


def complaints(inbox: Inbox) -> str:
    """Return what an ended inbox wrote to stderr, but for asyncio's remarks on a slow machine."""
    assert inbox.process.stderr is not None
    lines = inbox.process.stderr.read().decode().splitlines(keepends=True)
    return "".join(line for line in lines if not SLOW.search(line))


def test_what_was_sent_can_be_read(start: Start) -> None:
    inbox = start()
    inbox.send(PLAIN)
    mail = read_message(inbox.folder)
    assert (mail.raw, mail.envelope_from, mail.envelope_to) == (PLAIN, ALICE, (BOB,))
    assert abs(mail.received - time.time_ns() // 1000) < 60_000_000
    inbox.end()
    assert complaints(inbox) == ""


def test_the_reply_names_the_mail(start: Start) -> None:
    inbox = start()
    with inbox.client() as client:
        client.mail(ALICE)
        client.rcpt(BOB)
        code, text = client.data(PLAIN)
    assert code == 250
    assert text.decode() == f"2.0.0 Kept as {list_messages(inbox.folder)[0].id}"


def test_offers(start: Start) -> None:
    with start().client() as client:
        assert {"8bitmime", "smtputf8", "pipelining", "auth"} <= set(client.esmtp_features)
        assert client.esmtp_features["size"] == "36700160"


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_any_credentials_will_do(start: Start, mechanism: str) -> None:
    inbox = start()
    with inbox.client() as client:
        client.user, client.password = "alice", "wrong but welcome"
        method = client.auth_plain if mechanism == "PLAIN" else client.auth_login
        assert client.auth(mechanism, method)[0] == 235
        client.sendmail(ALICE, [BOB], PLAIN)
    assert read_message(inbox.folder).raw == PLAIN
    inbox.end()
    assert complaints(inbox) == ""


def test_non_ascii_everywhere(start: Start) -> None:
    inbox = start()
    head = "From: zoë@exämple.org\r\nSubject: Grüße ✓\r\nContent-Type: text/plain; charset=utf-8\r\n"
    raw = f"{head}\r\nÜber 한국어\r\n".encode()
    with inbox.client() as client:
        refused = client.sendmail(
            "zoë@exämple.org", ["bjørn@exämple.org"], raw, ["SMTPUTF8", "BODY=8BITMIME"]
        )
    assert refused == {}
    mail = read_message(inbox.folder)
    assert (mail.envelope_from, mail.envelope_to) == ("zoë@exämple.org", ("bjørn@exämple.org",))
    assert (mail.raw, mail.subject, mail.text) == (raw, "Grüße ✓", "Über 한국어\n")


def test_a_non_ascii_address_needs_smtputf8(start: Start) -> None:
    with start().client() as client:
        client.putcmd("MAIL FROM:<alice@example.com>")
        assert client.getreply()[0] == 250
        client.command_encoding = "utf-8"
        client.putcmd("RCPT TO:<bjørn@example.com>")
        assert client.getreply() == (553, b"5.6.7 This address needs SMTPUTF8")


def test_several_recipients_and_the_null_path(start: Start) -> None:
    inbox = start()
    everyone = [f"user{number}@example.com" for number in range(100)]
    with inbox.client() as client:
        assert client.sendmail("", everyone, PLAIN) == {}
    mail = read_message(inbox.folder)
    assert (mail.envelope_from, mail.envelope_to) == ("", tuple(everyone))


def test_too_many_recipients(start: Start) -> None:
    with start().client() as client:
        client.mail(ALICE)
        client.sock.sendall(b"RCPT TO:<bob@example.com>\r\n" * 1001)  # type: ignore[union-attr]
        codes = [client.getreply()[0] for _ in range(1001)]
    assert codes == [250] * 1000 + [452]


def test_dots_and_long_lines(start: Start) -> None:
    inbox = start()
    raw = PLAIN + b".\r\n..\r\n.leading\r\n" + b"." * 20_000 + b"\r\n...end\r\n"
    inbox.send(raw)
    assert read_message(inbox.folder).raw == raw


def test_a_megabyte(start: Start) -> None:
    inbox = start()
    raw = PLAIN + b"".join(b"%070d\r\n" % number for number in range(15_000))
    inbox.send(raw)
    assert read_message(inbox.folder).raw == raw


def test_too_large(start: Start) -> None:
    inbox = start()
    with inbox.client() as client:
        assert client.mail(ALICE, ["SIZE=36700161"])[0] == 552
    assert list_messages(inbox.folder) == []


def test_pipelined_mails_on_one_connection(start: Start) -> None:
    inbox = start()
    one = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
    with (
        socket.create_connection(("127.0.0.1", inbox.port), timeout=20) as client,
        client.makefile("rb") as replies,
    ):
        client.sendall(b"EHLO localhost\r\n" + one + (PLAIN + b".\r\n" + one) * 20 + PLAIN + b".\r\nQUIT\r\n")
        last = replies.read().splitlines()[-1]
    assert last.startswith(b"221")
    assert [mail.size for mail in list_messages(inbox.folder)] == [len(PLAIN)] * 21


@pytest.mark.parametrize(
    "command",
    [
        b"MAIL FROM:<",
        b'MAIL FROM:<"a\rb"@example.com>',
        b'MAIL FROM:<"a\x00b"@example.com>',
        b"MAIL FROM:<\xff\xfe@example.com> SMTPUTF8",
        b"NOSUCH \xff",
        b"\xff\xff",
        b"MAIL FROM:<a@example.com> " + b"X" * 100_000,
    ],
)
def test_hostile_commands_are_refused_and_the_session_goes_on(start: Start, command: bytes) -> None:
    inbox = start()
    with inbox.client() as client:
        client.sock.sendall(command + b"\r\n")  # type: ignore[union-attr]
        assert 500 <= client.getreply()[0] < 600
        client.sendmail(ALICE, [BOB], PLAIN)
    assert read_message(inbox.folder).raw == PLAIN
    inbox.end()
    assert complaints(inbox) == ""


def test_a_client_that_vanishes_leaves_no_mail_and_no_trace(start: Start) -> None:
    inbox = start()
    client = inbox.client()
    client.mail(ALICE)
    client.rcpt(BOB)
    client.docmd("DATA")
    client.sock.sendall(PLAIN)  # type: ignore[union-attr]
    client.close()
    inbox.send(PLAIN + b"second\r\n")
    assert [mail.size for mail in list_messages(inbox.folder)] == [len(PLAIN) + 8]
    inbox.end()
    assert complaints(inbox) == ""


def test_kill_right_after_the_250_loses_nothing(start: Start) -> None:
    inbox = start()
    client = inbox.client()
    for _ in range(20):
        client.sendmail(ALICE, [BOB], PLAIN)
    assert inbox.end(signal.SIGKILL) == -signal.SIGKILL
    client.close()
    assert [mail.size for mail in list_messages(inbox.folder)] == [len(PLAIN)] * 20


def test_a_second_start_after_a_kill(start: Start) -> None:
    first = start()
    first.send(PLAIN)
    first.end(signal.SIGKILL)
    assert inbox_port(first.folder) == first.port  # nobody was there to remove it
    (first.folder / "port").write_text("1\n", encoding="ascii")  # surely not the next one
    second = start()
    second.send(PLAIN)
    assert len(list_messages(second.folder)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_though_clients_are_connected(start: Start, number: signal.Signals) -> None:
    inbox = start()
    with inbox.client() as idle:
        assert inbox.end(number) == 0, "it did not wait for the client, which is still there"
        idle.close()
    assert not (inbox.folder / "port").exists()
    assert complaints(inbox) == ""


def test_leaves_the_port_file_of_its_successor(start: Start) -> None:
    inbox = start()
    (inbox.folder / "port").write_text("2525\n", encoding="ascii")
    inbox.end()
    assert inbox_port(inbox.folder) == 2525


def test_ends_with_its_parent(start: Start) -> None:
    theirs, ours = os.pipe()
    try:
        inbox = start(pass_fds=(theirs,), lifeline=theirs)
        inbox.send(PLAIN)
    finally:
        os.close(ours)
        os.close(theirs)
    assert inbox.process.wait(5) == 0
    assert not (inbox.folder / "port").exists()


def test_a_full_disk_is_a_452_and_not_a_lost_mail(start: Start) -> None:
    inbox = start(limit=100_000)
    with inbox.client() as client:
        client.mail(ALICE)
        client.rcpt(BOB)
        assert client.data(PLAIN + b"x" * 60_000 + b"\r\n" + b"y" * 60_000 + b"\r\n")[0] == 452
        client.sendmail(ALICE, [BOB], PLAIN)
    assert [mail.size for mail in list_messages(inbox.folder)] == [len(PLAIN)]
    assert len(list((inbox.folder / "mail").iterdir())) == 1
    inbox.end()
    assert "could not keep a message" in complaints(inbox)


def test_only_the_newest_are_kept(start: Start) -> None:
    inbox = start(keep=3)
    with inbox.client() as client:
        for number in range(6):
            client.sendmail(ALICE, [BOB], PLAIN + b"%d\r\n" % number)
    kept = [read_message(inbox.folder, mail.id).text[-2] for mail in list_messages(inbox.folder)]
    assert kept == ["5", "4", "3"]


def test_listens_on_loopback_only(start: Start) -> None:
    inbox = start()
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            socket.create_connection((str(address), inbox.port), timeout=2)
