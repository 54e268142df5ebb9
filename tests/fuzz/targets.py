"""What reads foreign bytes, each as a function of bytes. Whatever it raises is a fault, but for the refusals named here."""

from __future__ import annotations

import email
import tempfile
from collections.abc import Callable
from contextlib import chdir, suppress
from email import policy
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from werkzeug.exceptions import HTTPException

from postroom.accounts.csv import read_accounts
from postroom.core.address import InvalidAddress, parse_mailbox
from postroom.core.classify import explain
from postroom.core.errors import ConfigError, PostroomError
from postroom.core.replies import Circumstances, read
from postroom.core.reply_rows.row import Place
from postroom.core.text import printable
from postroom.inbox.maildrop import Maildrop
from postroom.inbox.reader import list_messages, read_message
from postroom.mime.html_to_text import html_to_text
from postroom.mime.message import Content, gate, render
from postroom.settings import load_settings
from postroom.smtp.session import Session
from postroom.smtp.stream import Wire
from postroom.web.api_request import ApiRequest
from postroom.web.head import Head
from postroom.web.schemas import read_send_request

_TYPES = ("application/json", "application/vnd.x+json", "text/plain", "")


def http_body(data: bytes) -> None:
    """A request to send: its first octet chooses a Content-Type."""
    body = data[1:]
    headers = {"content-type": _TYPES[data[0] % len(_TYPES)] if data else _TYPES[0]}
    with suppress(PostroomError, HTTPException):
        call = ApiRequest(Head("POST", "/send-email", headers, remote="192.0.2.1"), lambda: body)
        str(call.key)
        asked = read_send_request(call.take_document())
        asked.recipient.encode("utf-8", "surrogatepass")


def smtp_replies(data: bytes) -> None:
    """What a server sends, in two pieces."""
    wire = Wire()
    half = len(data) // 2
    wire.data_received(data[:half])
    wire.data_received(data[half:])
    for reply in wire._replies:
        for place in Place:
            said = explain(reply, read(reply, place, Circumstances(host="smtp.gmail.com")))
            assert printable(said) == said
            assert "\n" not in said
    if wire.broken is not None:
        assert str(wire.broken).isprintable()


def ehlo_keywords(data: bytes) -> None:
    """A server's offer."""
    wire = Wire()
    lines = data.split(b"\n")
    wire.data_received(b"".join(b"250-" + line + b"\n" for line in lines) + b"250 END\r\n")
    if not wire._replies:
        return
    learner = cast("Session", SimpleNamespace(_names_itself=[]))
    Session._learn(learner, wire._replies[0].text)
    assert all(isinstance(name, str) for name in learner._mechanisms)


def accounts_csv(data: bytes) -> None:
    found = read_accounts(data)
    for fault in found.faults:
        assert printable(fault.message) == fault.message
    assert not (found.fatal and found.rows)


def dot_env(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path(".env").write_bytes(data)
        with suppress(ConfigError):
            load_settings()


def addresses(data: bytes) -> None:
    text = data.decode("utf-8", "surrogatepass" if len(data) % 2 else "replace") if _is_text(data) else ""
    with suppress(InvalidAddress):
        mailbox = parse_mailbox(text)
        assert parse_mailbox(mailbox.path).path == mailbox.path
        assert not set("\r\n\0 ") & set(mailbox.path.rpartition("@")[2])
        assert "\r" not in mailbox.path
        assert "\n" not in mailbox.path


def html(data: bytes) -> None:
    html_to_text(data.decode("utf-8", "replace"))


def mime(data: bytes) -> None:
    """What we make of a subject, a name and a body is read again as it was given."""
    text = data.decode("utf-8", "replace").replace("\r", "")
    subject, _, rest = text.partition("\n")
    name, _, body = rest.partition("\n")
    mailbox = parse_mailbox("ann@example.com")
    subject, name = (printable(" ".join(each.split()))[:200] for each in (subject, name))
    content = Content(name, mailbox, (mailbox,), subject, body, bool(len(data) % 2), "id@x", 0, "=_boundary")
    octets = render(content)
    gate(octets, smtputf8=False)
    parsed = email.message_from_bytes(octets, policy=policy.default)
    assert parsed["From"].addresses[0].addr_spec == mailbox.path
    assert len(parsed.get_all("To", [])) == 1


def mail(data: bytes) -> None:
    """A message in the built-in inbox, from any sender."""
    with tempfile.TemporaryDirectory() as folder:
        drop = Maildrop(Path(folder))
        drop.save("a@example.com", ["b@example.com"], data)
        list_messages(Path(folder))
        found = read_message(Path(folder))
        found.text.encode("utf-8", "surrogatepass")


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (http_body, smtp_replies, ehlo_keywords, accounts_csv, dot_env, addresses, html, mime, mail)
}
SEEDS: dict[str, tuple[bytes, ...]] = {
    "http_body": (
        b'\0{"key": "k", "recipient": "a@example.com", "subject": "s", "body": "b", "is_html": false}',
        b'\0{"key": [[[[1e999, -0, null, "\\ud800"]]]], "recipient": ' + b"9" * 5000 + b"}",
    ),
    "smtp_replies": (
        b"250-x\r\n250 2.0.0 ok\r\n",
        b"550 5.7.1 \xe2\x80\xae no \xff\r\n",
        "²50 ok\r\n".encode(),
    ),
    "ehlo_keywords": (b"SIZE 1000\nAUTH PLAIN LOGIN\nAUTH=PLAIN\nPIPELINING", "SIZE ²".encode()),
    "accounts_csv": (
        b"sep=;\nkey;email;app_password\nk;a@example.com;pw\n",
        b'key,email,app_password\n"k,a@x,b\n',
    ),
    "dot_env": (b"PORT=8080\n", b"A='x\\'\nPOSTROOM_RATE_LIMIT=9/minute\n${X:-y}=1\n"),
    "addresses": (
        b"a@example.com",
        b'"a b"@[IPv6:::1]',
        "jürgen@bücher.example".encode(),
        b"<a@example.com>",
    ),
    "html": (b"<p>x<style>y</style><!-- <b hidden>&#99999999999;", b"<table><tr><td style='display:none'>"),
    "mime": ("Grüße\nAnn\nbody\n.\n".encode(), b'=?utf-8?q?x?=\n"\\\n<p>'),
    "mail": (
        b"Subject: =?utf-8?b?////?=\r\n\r\nx",
        b"Content-Type: multipart/mixed; boundary=\r\n\r\n--\r\n",
    ),
}
