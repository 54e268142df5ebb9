"""The inbox's store and reader, without a server."""

from __future__ import annotations

import os
import smtplib
import socket
import threading
from email.message import EmailMessage
from pathlib import Path
from unicodedata import bidirectional, category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.errors import NotFound
from postroom.inbox import maildrop, reader
from postroom.inbox.maildrop import Maildrop, inbox_port
from postroom.inbox.reader import list_messages, printable, read_message
from postroom.inbox.server import serve_inbox
from tests.servers.waiting import eventually

PLAIN = b"From: alice@example.com\r\nSubject: Hello\r\n\r\nHi Bob\r\n"
T0 = 1_700_000_000_000_000


def mail_files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "mail").iterdir())


def keep(folder: Path, raw: bytes) -> reader.CapturedMessage:
    """Store one mail and read it back."""
    return read_message(folder, Maildrop(folder).save("alice@example.com", ["bob@example.com"], raw))


def test_a_mail_reads_back_as_it_was_saved(tmp_path: Path) -> None:
    drop = Maildrop(tmp_path, clock=lambda: T0)
    mail_id = drop.save("alice@example.com", ["bob@example.com", "zoë@exämple.org"], PLAIN)
    mail = read_message(tmp_path)
    assert (mail.id, mail.received, mail.raw, mail.size) == (mail_id, T0, PLAIN, len(PLAIN))
    assert mail.envelope_from == "alice@example.com"
    assert mail.envelope_to == ("bob@example.com", "zoë@exämple.org")
    assert (mail.subject, mail.sender) == ("Hello", "alice@example.com")
    assert (mail.text, mail.html, mail.attachments) == ("Hi Bob\n", None, ())


def test_the_file_is_private_and_shows_its_envelope(tmp_path: Path) -> None:
    Maildrop(tmp_path, clock=lambda: T0).save("", ["bob@example.com"], PLAIN)
    (path,) = (tmp_path / "mail").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == (
        b"X-Postroom-Envelope-From: <>\r\n"
        b"X-Postroom-Envelope-To: <bob@example.com>\r\n"
        b"X-Postroom-Received: 2023-11-14T22:13:20.000000Z\r\n" + PLAIN
    )
    assert read_message(tmp_path).envelope_from == ""


def test_a_mail_cannot_forge_its_envelope(tmp_path: Path) -> None:
    forged = b"X-Postroom-Envelope-To: <eve@example.com>\r\nX-Postroom-Received: never\r\n" + PLAIN
    mail = keep(tmp_path, forged)
    assert (mail.envelope_to, mail.raw) == (("bob@example.com",), forged)


def test_newest_first_even_when_the_clock_stands_still(tmp_path: Path) -> None:
    drop = Maildrop(tmp_path, clock=lambda: T0)
    ids = [drop.save("a@example.com", ["b@example.com"], PLAIN) for _ in range(5)]
    assert [mail.id for mail in list_messages(tmp_path)] == ids[::-1]
    assert [mail.id for mail in list_messages(tmp_path, limit=2)] == [ids[4], ids[3]]
    assert read_message(tmp_path, "latest").id == ids[-1]


def test_a_listing_says_what_the_whole_mail_says(tmp_path: Path) -> None:
    mail = keep(tmp_path, PLAIN)
    (summary,) = list_messages(tmp_path)
    for name in ("id", "received", "envelope_from", "envelope_to", "subject", "sender", "size"):
        assert getattr(summary, name) == getattr(mail, name)


def test_a_mail_is_found_by_the_start_of_its_id(tmp_path: Path) -> None:
    drop = Maildrop(tmp_path)
    ids = [drop.save("a@example.com", ["b@example.com"], PLAIN) for _ in range(17)]  # 16 first digits
    assert read_message(tmp_path, ids[0].upper()).id == ids[0]
    assert read_message(tmp_path, ids[0][:7]).id == ids[0]
    twice = next(mail_id[0] for mail_id in ids if sum(other[0] == mail_id[0] for other in ids) > 1)
    with pytest.raises(NotFound, match="give more of it"):
        read_message(tmp_path, twice)


@pytest.mark.parametrize("which", ["", "zzzz", "../../etc/passwd", "\x1b[31m"])
def test_no_such_mail(tmp_path: Path, which: str) -> None:
    keep(tmp_path, PLAIN)
    with pytest.raises(NotFound) as refusal:
        read_message(tmp_path, which)
    assert "\x1b" not in str(refusal.value)


def test_no_inbox_at_all(tmp_path: Path) -> None:
    assert list_messages(tmp_path / "nowhere") == []
    with pytest.raises(NotFound, match="no message in the inbox yet"):
        read_message(tmp_path / "nowhere")


def test_the_oldest_are_deleted(tmp_path: Path) -> None:
    drop = Maildrop(tmp_path, keep=3)
    ids = [drop.save("a@example.com", ["b@example.com"], PLAIN) for _ in range(10)]
    assert [mail.id for mail in list_messages(tmp_path)] == ids[:-4:-1]
    Maildrop(tmp_path, keep=2)  # counts what an earlier server kept
    assert [mail.id for mail in list_messages(tmp_path)] == ids[:-3:-1]


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    drop = Maildrop(tmp_path)
    kept: list[str] = []

    def save_some() -> None:
        kept.extend([drop.save("a@example.com", ["b@example.com"], PLAIN) for _ in range(10)])

    threads = [threading.Thread(target=save_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kept) == sorted(mail.id for mail in list_messages(tmp_path, limit=None))
    assert len(kept) == 80


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Maildrop(tmp_path)

    def broken(_folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(maildrop, "sync", broken)
    with pytest.raises(OSError, match="Input/output"):
        drop.save("a@example.com", ["b@example.com"], PLAIN)
    assert mail_files(tmp_path) == []


def test_unfinished_and_foreign_files_are_not_mails(tmp_path: Path) -> None:
    Maildrop(tmp_path)
    for name in (".20231114T221320.000000Z-12345678.eml.tmp", "notes.txt", "x.eml"):
        (tmp_path / "mail" / name).write_bytes(PLAIN)
    assert list_messages(tmp_path) == []
    Maildrop(tmp_path, clock=lambda: 4_000_000_000_000_000)  # long after
    assert mail_files(tmp_path) == ["notes.txt", "x.eml"]


def test_text_html_and_attachments(tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message["From"] = "Zoë <zoe@example.com>"
    message.set_content("plain ✓\n")
    message.add_alternative("<p>rich ✓</p>\n", subtype="html")
    message.add_attachment(b"\x00\xff", maintype="application", subtype="x-blob", filename="blöb.bin")
    mail = keep(tmp_path, message.as_bytes().replace(b"\n", b"\r\n"))
    assert (mail.subject, mail.sender) == ("Grüße", "Zoë <zoe@example.com>")
    assert (mail.text, mail.html) == ("plain ✓\n", "<p>rich ✓</p>\n")
    (blob,) = mail.attachments
    assert (blob.filename, blob.content_type, blob.content) == (
        "blöb.bin",
        "application/x-blob",
        b"\x00\xff",
    )


def test_html_alone(tmp_path: Path) -> None:
    mail = keep(tmp_path, b"Subject: x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>\xc3\xa9</p>\r\n")
    assert (mail.text, mail.html) == ("", "<p>é</p>\n")


def test_raw_utf8_headers(tmp_path: Path) -> None:
    mail = keep(tmp_path, "From: zoë@exämple.org\r\nSubject: Grüße ✓\r\n\r\n".encode())
    assert (mail.subject, mail.sender) == ("Grüße ✓", "zoë@exämple.org")


def test_a_subject_stays_on_its_line(tmp_path: Path) -> None:
    mail = keep(tmp_path, b"Subject: =?utf-8?q?one=0D=0Atwo?=\r\n\tthree\r\n\r\n")
    assert "\n" not in mail.subject
    assert "\r" not in mail.subject
    assert mail.subject.startswith("one two")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"\x00\xff\xfe",
        b"no header at all",
        b"Content-Type: text/plain; charset=klingon\r\n\r\nqapla'",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x",
        b"Content-Type: multipart/alternative\r\n\r\nnot really",
        b"Content-Type: message/rfc822\r\n\r\n",
        b"From: " + b"(" * 5000 + b"\r\nSubject: " + b"=?utf-8?q?=ff?= " * 5000 + b"\r\n\r\n",
        b"From: <\r\nSubject: =?x?q?\r\nTo: @\r\n\r\n",
        b"Content-Type: ;;;=\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!!",
        b"Content-Type: text/plain; charset*=utf-8''%ff\r\n\r\nx",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" * 300 + b"--x--",
    ],
)
def test_hostile_mails_can_be_listed_and_read(tmp_path: Path, raw: bytes) -> None:
    mail = keep(tmp_path, raw)
    assert mail.raw == raw
    assert list_messages(tmp_path)[0].id == mail.id


def test_an_unknown_charset_is_shown_all_the_same(tmp_path: Path) -> None:
    raw = b"Content-Type: text/plain; charset=klingon\r\n\r\nqapla' \xe2\x9c\x93\r\n"
    assert keep(tmp_path, raw).text == "qapla' ✓\n"


@given(st.binary(max_size=2000))
def test_any_bytes_can_be_parsed(raw: bytes) -> None:
    message = reader._parse(raw)
    reader._header(message, "subject")
    reader._bodies(message, raw)
    reader._attachments(message)


def test_printable_takes_the_teeth_out_of_escape_sequences() -> None:
    assert printable("\x1b[2J\x1b]0;pwned\x07") == "␛[2J␛]0;pwned␇"
    assert printable("\x9b31mred\x9c\x7f") == "\ufffd31mred\ufffd␡"
    assert printable("moc.\u202egnp.exe\u2066") == "moc.\ufffdgnp.exe\ufffd"
    assert printable("over\rwritten\r\nnext\ttab\n") == "over␍written\nnext\ttab\n"
    assert printable("\udcff") == "\ufffd"
    assert printable("Grüße ✓ 👋🏽 한국어 עברית") == "Grüße ✓ 👋🏽 한국어 עברית"


@given(st.text())
def test_printable_leaves_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert not [char for char in shown if category(char) in ("Cc", "Cs") and char not in "\n\t"]
    embeddings = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    assert not [char for char in shown if bidirectional(char) in embeddings]
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "-1", "²", "é", "9" * 5000])
def test_a_damaged_port_file_is_no_port(tmp_path: Path, text: str) -> None:
    (tmp_path / "port").write_text(text, encoding="utf-8")
    assert inbox_port(tmp_path) is None


def test_the_port_file(tmp_path: Path) -> None:
    assert inbox_port(tmp_path) is None
    (tmp_path / "port").write_text("2525\n", encoding="ascii")
    assert inbox_port(tmp_path) == 2525


def test_serving_inside_a_process_ends_on_stop(tmp_path: Path) -> None:
    stop, ready, ports = threading.Event(), threading.Event(), list[int]()

    def note(port: int) -> None:
        ports.append(port)
        ready.set()

    server = threading.Thread(target=serve_inbox, args=(tmp_path,), kwargs={"ready": note, "stop": stop})
    server.start()
    try:
        assert ready.wait(60)
        assert inbox_port(tmp_path) == ports[0]
    finally:
        stop.set()
        server.join(60)
    assert not server.is_alive()
    assert inbox_port(tmp_path) is None


def test_a_start_that_fails_says_so_and_leaves_no_stale_port(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("2525\n", encoding="ascii")
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        serve_inbox(tmp_path, port=other.getsockname()[1])
    assert inbox_port(tmp_path) is None


def spoil(path: Path, how: str) -> None:
    """Put something in the place of a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match how:
        case "a file":
            path.touch()
        case "a FIFO":
            os.mkfifo(path)
        case "a link to nothing":
            path.symlink_to("nowhere")


@pytest.mark.parametrize("name", ["inbox", "inbox/mail"])
@pytest.mark.parametrize("how", ["a file", "a FIFO", "a link to nothing"])
def test_an_inbox_that_cannot_run_says_why_and_runs_as_soon_as_it_can(
    tmp_path: Path, how: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    stop, folder, place = threading.Event(), tmp_path / "inbox", tmp_path / name
    spoil(place, how)
    options = {"stop": stop, "try_again_s": 0.01}
    server = threading.Thread(target=serve_inbox, args=(folder,), kwargs=options)
    server.start()
    try:
        eventually(lambda: caplog.records, message="a sentence")
        assert f"cannot run ({place}: it is {how}, not a folder)" in caplog.records[0].getMessage()
        assert inbox_port(folder) is None
        place.unlink()
        eventually(lambda: inbox_port(folder), message="the inbox to run")
    finally:
        stop.set()
        server.join(60)
    assert [record.exc_info for record in caplog.records] == [None, None], "one sentence for each state"


def test_an_inbox_that_cannot_run_ends_on_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    spoil(tmp_path / "mail", "a file")
    options = {"stop": stop, "try_again_s": 3600.0}
    server = threading.Thread(target=serve_inbox, args=(tmp_path,), kwargs=options)
    server.start()
    eventually(lambda: caplog.records, message="a sentence")
    stop.set()
    server.join(60)
    assert not server.is_alive()


def test_a_mail_under_way_is_answered_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, writing, disk, answers = threading.Event(), threading.Event(), threading.Event(), list[int]()
    save = Maildrop.save

    def save_slowly(drop: Maildrop, reverse_path: str, forward_paths: list[str], content: bytes) -> str:
        writing.set()
        disk.wait(60)
        return save(drop, reverse_path, forward_paths, content)

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", port, "localhost", timeout=60) as client:
            client.ehlo()
            client.mail("alice@example.com")
            client.rcpt("bob@example.com")
            answers.append(client.data(PLAIN)[0])

    monkeypatch.setattr(Maildrop, "save", save_slowly)
    server = threading.Thread(target=serve_inbox, args=(tmp_path,), kwargs={"stop": stop})
    sender = threading.Thread(target=send)
    server.start()
    try:
        port = eventually(lambda: inbox_port(tmp_path)) or 0
        sender.start()
        assert writing.wait(60)
        stop.set()
        eventually(lambda: inbox_port(tmp_path) is None)  # it is ending
    finally:
        stop.set()
        disk.set()
        server.join(60)
    sender.join(60)
    assert answers == [250]
    assert read_message(tmp_path).raw == PLAIN
