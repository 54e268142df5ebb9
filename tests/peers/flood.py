"""Many messages at once through an installation, and what has become of them afterwards."""

from __future__ import annotations

import contextlib
import random
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from pathlib import Path

from postroom.core.account import Security
from tests.servers.installation import Installation
from tests.servers.ledger import all_ended, check_ledger, copies_at
from tests.servers.peers.peer import PASSWORD, USER, Limit, Peer, crlf
from tests.servers.waiting import eventually

CLIENTS = 4
_BEYOND = 25  # connections, and then messages, with which a limit is tried
_WORDS = [
    "Grüße",
    "日本語のテスト",
    "😀👍🏽",
    "plain",
    "a=b",
    "…",
    "naïve",
    "  two  spaces",
    "=20",
    "From here",
    "\ttab",
]
_AWKWARD = [
    ".",
    "..",
    ".hidden",
    "." * 70,
    "x" * 5000,
    "é" * 3000,
    "trailing space ",
    "",
    "",
    "From here",
    "--",
    "-- ",
]


@dataclass(frozen=True)
class Request:
    """What is asked for over HTTP."""

    subject: str
    recipient: str
    body: str
    is_html: bool


def requests(count: int) -> list[Request]:
    """Return requests of several kinds, each unlike all others, the same at each call."""
    chance = random.Random(count)
    return [_request(number, chance) for number in range(count)]


def _request(number: int, chance: random.Random) -> Request:
    lines = [" ".join(chance.choices(_WORDS, k=chance.randint(0, 30))) for _ in range(chance.randint(1, 12))]
    kind = number % 4
    if kind == 1:
        lines = [*lines, *_AWKWARD, "the end"]
    elif kind == 2:
        lines = ["", "only ascii", ".starts with a dot", ".", "", "ends", "", ""]
    if number < 4:
        lines += ["é" * 60] * 2500  # 300 kB
    body = "\n".join(lines)
    if kind == 3:
        body = f"<html><body><h1>{number}</h1><p>{'</p><p>'.join(lines)}</p></body></html>"
    words = " ".join(chance.choices([word.strip() for word in _WORDS], k=6))
    return Request(f"{number} {words}", f"reader{number}@other.example", body, kind == 3)


def key_for(security: Security) -> str:
    return f"the-key-for-{security.value}-0123456789"


def address_for(security: Security) -> str:
    return f"{security.value}@postroom.example"


def install(
    folder: Path, peer: Peer, securities: Sequence[Security], connections: int | None = None, **settings: str
) -> Installation:
    """Return an installation with an account at the server for each of the securities."""
    rows = [peer.row(key_for(security), address_for(security), security) for security in securities]
    rows = ["key,email,host,port,security,username,app_password,connections"] + [
        f"{row},{connections or ''}" for row in rows
    ]
    return Installation(folder, rows, POSTROOM_SMTP_CA_FILE=str(peer.ca_file), **settings)


def post_all(service: Installation, asked: Sequence[Request], security: Security) -> dict[str, Request]:
    """Post with several clients at once; return the requests by their ids."""
    ids: dict[str, Request] = {}
    errors: list[BaseException] = []

    def post(first: int) -> None:
        try:
            for request in asked[first::CLIENTS]:
                ids[service.send(key=key_for(security), **asdict(request))] = request
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=post, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(ids) == len(asked)
    return ids


def check_is_in_force(peer: Peer, low: Limit) -> None:
    """The server does refuse with the words of the limit, when another client goes beyond it."""
    said: list[str] = []
    with ExitStack() as stack:
        clients = []
        for _ in range(_BEYOND):
            client = smtplib.SMTP(timeout=30)
            stack.callback(client.close)
            with _noting(said):
                _open(client, peer, low.securities[0])
                said.append(str(client.docmd("MAIL", f"FROM:<{USER}>")))
                client.rset()
                clients.append(client)
            if low.words in "".join(said):
                return
        for number in range(_BEYOND):
            with _noting(said):
                clients[-1].sendmail(USER, ["beyond@other.example"], f"Subject: {number}\r\n\r\nBeyond.\r\n")
    assert low.words in "".join(said), f"{peer.name} has no limit of {low}: {said[-3:]}"


@contextlib.contextmanager
def _noting(said: list[str]) -> Iterator[None]:
    try:
        yield
    except (smtplib.SMTPException, OSError) as error:
        said.append(str(error))


def _open(client: smtplib.SMTP, peer: Peer, security: Security) -> None:
    context = ssl.create_default_context(cafile=str(peer.ca_file))
    if security is Security.TLS:
        client.sock = context.wrap_socket(
            socket.create_connection((peer.host, peer.tls_port), 30), server_hostname=peer.host
        )
        client.getreply()
    else:
        code, words = client.connect(peer.host, peer.port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, words)
    client.ehlo()
    if security is Security.STARTTLS and client.has_extn("starttls"):
        client._host = peer.host  # type: ignore[attr-defined]  # the name that it checks
        client.starttls(context=context)
        client.ehlo()
    if security is not Security.NONE and client.has_extn("auth"):
        client.user, client.password = peer.user_of(address_for(security)), PASSWORD
        client.auth("PLAIN", client.auth_plain)  # `login` would try another mechanism after 421


def wait_until_ended(service: Installation, timeout: float) -> None:
    """Wait until no message waits for anything; raise AssertionError with what the others wait for."""
    try:
        eventually(lambda: all_ended(service), timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{report(service)}") from None


def report(service: Installation) -> str:
    """Return what the database says of the messages, in some lines."""
    jobs = service.query(
        "SELECT job.state, job.attempt, delivery.state, delivery.reason, count(*) FROM job "
        "JOIN delivery ON delivery.message_id = job.message_id GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC LIMIT 12"
    )
    accounts = service.query("SELECT email, state, state_reason FROM account")
    attempts = service.query(
        "SELECT outcome, reply_code, reply_text, count(*) FROM attempt GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 8"
    )
    return "\n".join(str(row) for row in [*accounts, *jobs, *attempts])


def check_all_sent(service: Installation, peer: Peer, ids: Sequence[str], *, refused: int = 0) -> None:
    """Every message was sent, at the first try that counts, once; the server said no `refused` times at most."""
    found = report(service)
    assert check_ledger(service, peer, ids) == set(), found
    assert copies_at(peer) == dict.fromkeys(ids, 1), found
    states = service.query("SELECT state, attempt, count(*) FROM job WHERE kind = 'delivery' GROUP BY 1, 2")
    assert states == [("done", 1, len(ids))], found
    assert service.query("SELECT count(*) FROM delivery WHERE possible_duplicate = 1") == [(0,)], found
    [[tries]] = service.query("SELECT count(*) FROM attempt WHERE outcome <> 'sent'")
    assert tries <= refused, found
    assert service.query("SELECT DISTINCT state FROM account") == [("active",)], found


def check_contents(service: Installation, peer: Peer, asked: dict[str, Request], sender: str) -> None:
    """Each message has arrived as it was asked for, and octet for octet as it is in the database."""
    sent = service.contents()
    arrived = {}
    for text in map(crlf, peer.received()):
        message = message_from_bytes(text, policy=policy.default)
        arrived[str(message["Message-ID"]).strip("<>").partition("@")[0]] = text, message
    for id_, request in asked.items():
        text, message = arrived[id_]
        _check_message(message, request, sender)
        mime = sent[id_]
        assert _body(text) == _body(mime), f"{peer.name} has another body of {id_}"
        assert _fields(mime) <= _fields(text), f"{peer.name} has other header fields of {id_}"


def _body(text: bytes) -> bytes:
    return text.partition(b"\r\n\r\n")[2]


def _fields(text: bytes) -> set[bytes]:
    """Return the header fields, unfolded: some servers fold anew."""
    head = text.partition(b"\r\n\r\n")[0]
    return set(head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n"))


def _check_message(message: EmailMessage, request: Request, sender: str) -> None:
    raw = next(str(value) for name, value in message.raw_items() if name == "Subject")
    assert str(make_header(decode_header(raw.replace("\r", "").replace("\n", "")))) == request.subject
    assert message["From"].addresses[0].addr_spec == sender
    assert message["To"].addresses[0].addr_spec == request.recipient
    assert len(message.get_all("Message-ID", [])) == len(message.get_all("Date", [])) == 1
    assert not message.defects
    if request.is_html:
        assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
        plain, html = message.iter_parts()
        assert plain.get_content().strip()
        assert _lines(html.get_content()) == _lines(request.body)
    else:
        assert message.get_content_type() == "text/plain"
        assert _lines(message.get_content()) == _lines(request.body)


def _lines(text: str) -> str:
    """Line ends as the parser gives them; a message ends with one."""
    return text.replace("\r\n", "\n").removesuffix("\n")
