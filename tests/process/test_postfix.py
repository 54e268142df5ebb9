"""A whole installation against a real Postfix: what arrives in the Maildir is what was asked for."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from email.header import decode_header, make_header
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.servers.installation import KEY, Installation
from tests.servers.postfix import Postfix
from tests.servers.waiting import eventually

pytestmark = pytest.mark.postfix

MAILS, CLIENTS, BIG = 1000, 8, 12


def rows(postfix: Postfix, *, tls: bool = False, password: str | None = None) -> list[str]:
    """Return a data.csv for the first user of this Postfix."""
    user, right = next(iter(postfix.users.items()))
    port, security = (postfix.tls_port, "tls") if tls else (postfix.port, "starttls")
    return [
        "key,email,app_password,host,port,security",
        f'{KEY},{user},"{password or right}",{postfix.host},{port},{security}',
    ]


def install(
    folder: Path, postfix: Postfix, *, tls: bool = False, password: str | None = None
) -> Installation:
    return Installation(
        folder,
        rows(postfix, tls=tls, password=password),
        POSTROOM_SMTP_CA_FILE=str(postfix.ca_file),
        POSTROOM_RETRY_SCHEDULE="300ms",
    )


@dataclass(frozen=True)
class Request:
    subject: str
    recipient: str
    body: str
    is_html: bool


WORDS = [
    "Grüße",
    "日本語のテスト",
    "😀👍🏽",
    "plain",
    "a=b",
    "…",
    "naïve",
    "Ωmega",
    "tab\there",
    "  two  spaces",
    "=20",
    "From here",
]


def request(number: int, chance: random.Random) -> Request:
    """Return a request of one of the kinds that a day brings, each unlike all others."""
    words = " ".join(chance.choices([word for word in WORDS if "\t" not in word], k=6))
    subject = f"{number} {words}".strip()
    lines = [" ".join(chance.choices(WORDS, k=chance.randint(0, 30))) for _ in range(chance.randint(1, 20))]
    kind = number % 4
    if kind == 1:
        lines += [".", "..", ".hidden", "." * 70, "x" * 5000, "trailing space "]
    if kind == 2:
        lines = ["only ascii", ".starts with a dot", "", "ends"]
    body = "\n".join(lines)
    if number < BIG:
        body += "\n" + "\n".join("é" * 60 for _ in range(8700))  # 1 MB
    if kind == 3:
        body = f"<html><body><h1>{number}</h1><p>{'</p><p>'.join(lines)}</p></body></html>"
    return Request(subject, f"reader{number}@postroom.example", body, kind == 3)


def normal(text: str) -> str:
    """Line ends as the parser gives them; a mail ends with one."""
    return text.replace("\r\n", "\n").removesuffix("\n")


def check(mail: EmailMessage, asked: Request, sender: str) -> None:
    """Compare a mail that arrived with the request that it came from."""
    assert str(make_header(decode_header(_raw(mail, "Subject")))) == asked.subject
    assert mail["From"].addresses[0].addr_spec == sender
    assert mail["To"].addresses[0].addr_spec == asked.recipient
    assert mail["Message-ID"].startswith("<")
    assert not mail.defects
    if asked.is_html:
        assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
        text, html = mail.iter_parts()
        assert normal(html.get_content()) == normal(asked.body)
        assert text.get_content().strip()
    else:
        assert mail.get_content_type() == "text/plain"
        assert normal(mail.get_content()) == normal(asked.body)


def _raw(mail: EmailMessage, name: str) -> str:
    values = [str(value) for header, value in mail.raw_items() if header == name]
    return values[0].replace("\n", "").replace("\r", "")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_mixed_mails_arrive_each_equal_to_its_request(tmp_path: Path, postfix: Postfix) -> None:
    chance = random.Random(1000)
    requests = [request(number, chance) for number in range(MAILS)]
    sender = next(iter(postfix.users))
    with install(tmp_path, postfix) as service:
        ids = post_all(service, requests)
        for request_id in ids:
            service.wait_for(request_id, "sent", 120)
        mails = {mail["To"].addresses[0].addr_spec: mail for mail in postfix.messages(MAILS, 120)}
        assert len(mails) == MAILS
        for asked in requests:
            check(mails[asked.recipient], asked, sender)
        eventually(lambda: len(service.log_lines()) == MAILS, 10)
        logged = Counter(line.split(",")[0].removeprefix("Request ID: ") for line in service.log_lines())
        assert logged == Counter(ids)
        assert all(line.endswith("Status: sent") for line in service.log_lines())


def post_all(service: Installation, requests: list[Request]) -> list[str]:
    """Post with several clients at once; return the ids in the order of the requests."""
    ids: dict[int, str] = {}

    def post(first: int) -> None:
        for number in range(first, len(requests), CLIENTS):
            ids[number] = service.send(**requests[number].__dict__)

    threads = [threading.Thread(target=post, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == len(requests)
    return [ids[number] for number in range(len(requests))]


def test_tls_from_the_first_byte(tmp_path: Path, postfix: Postfix) -> None:
    with install(tmp_path, postfix, tls=True) as service:
        service.wait_for(service.send(subject="through port 465"), "sent")
        assert postfix.messages(1)[0]["Subject"] == "through port 465"


def test_a_wrong_password_fails_with_the_servers_words_and_the_fix(tmp_path: Path, postfix: Postfix) -> None:
    with install(tmp_path, postfix, password="not the password") as service:
        status = service.wait_for(service.send(), "failed")
        assert "535 5.7.8" in status
        assert "does not accept this user name and password" in status
        (tmp_path / "data.csv").write_text("\n".join(rows(postfix)) + "\n", encoding="utf-8")
        eventually(lambda: service.status(service.send(subject="again")) and len(postfix.mails()) > 0, 30)


def test_a_password_that_stops_working_keeps_the_mail_until_it_is_mended(
    tmp_path: Path, postfix: Postfix
) -> None:
    user, right = next(iter(postfix.users.items()))
    with install(tmp_path, postfix) as service:
        service.wait_for(service.send(subject="first"), "sent")
    postfix.set_password(user, "changed")
    try:
        with install(tmp_path, postfix, password=right) as service:
            kept = service.send(subject="kept")
            assert "535" in service.wait_for(kept, "deferred")
            assert service.query("SELECT state FROM account") == [("paused",)]
            (tmp_path / "data.csv").write_text(
                "\n".join(rows(postfix, password="changed")) + "\n", encoding="utf-8"
            )
            service.wait_for(kept, "sent", 30)
    finally:
        postfix.set_password(user, right)


def test_refusals_are_told_in_the_servers_words(tmp_path: Path, postfix: Postfix) -> None:
    with install(tmp_path, postfix) as service:
        refused = service.send(recipient="unknown@postroom.example")
        status = service.wait_for(refused, "failed")
        assert status.startswith("failed (550 5.")
        assert "deferred (450 4." in service.wait_for(
            service.send(recipient="defer@postroom.example"), "deferred"
        )
        eventually(lambda: len(service.log_lines()) == 1, 10)
        assert service.log_lines()[0].endswith(f"Status: {status}")


def test_addresses_beyond_ascii(tmp_path: Path, postfix: Postfix) -> None:
    with install(tmp_path, postfix) as service:
        service.wait_for(service.send(recipient="jürgen@postroom.example"), "sent")
        service.wait_for(service.send(recipient="j@bücher.example"), "sent")
        delivered = {mail["X-Original-To"] for mail in postfix.messages(2)}
        assert delivered == {"jürgen@postroom.example", "j@xn--bcher-kva.example"}


def test_a_server_that_was_away_gets_its_mail_when_it_is_back(tmp_path: Path, postfix: Postfix) -> None:
    postfix.stop()
    try:
        with install(tmp_path, postfix) as service:
            request_id = service.send()
            assert "cannot connect" in service.wait_for(request_id, "deferred")
            postfix.start()
            service.wait_for(request_id, "sent", 30)
            assert service.stop(signal.SIGTERM) == 0
    finally:
        postfix.stop()
        postfix.start()
