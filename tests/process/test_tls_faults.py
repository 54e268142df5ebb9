"""Servers whose TLS cannot be trusted, and servers that stop reading or writing: rows 15 and 16, through an installation."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.conftest import MakeContext, StartScripted
from tests.servers.installation import KEY, Installation
from tests.servers.scripted import Also, BareHandshake, Drop, HalfClose, Hang, ScriptedServer
from tests.servers.waiting import eventually

USER, PASSWORD = "me@postroom.example", "correct-horse-battery"


def install(folder: Path, server: ScriptedServer, security: str, **settings: str) -> Installation:
    rows = [
        "key,email,app_password,host,port,security",
        f"{KEY},{USER},{PASSWORD},127.0.0.1,{server.port},{security}",
    ]
    return Installation(folder, rows, POSTROOM_RETRY_SCHEDULE="300ms", **settings)


def check_refused(service: Installation, server: ScriptedServer, reason: str) -> None:
    """The mail fails with the reason, which the account shows too, and the server has learned nothing of us."""
    assert reason in service.wait_for(service.send(), "failed")
    [[shown]] = service.query("SELECT reason FROM delivery")
    assert reason in shown
    eventually(lambda: server.open_connections == 0)
    assert server.logins == []
    for secret in (PASSWORD, USER):
        for form in (secret.encode(), base64.b64encode(secret.encode())):
            assert form not in server.plaintext
    assert not server.auth_in_plain_text
    assert server.transactions == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize(
    ("wrong", "reason"), [("expired", "expired"), ("self-signed", "certificate"), ("wrong name", "mismatch")]
)
def test_a_certificate_that_cannot_be_trusted(
    tmp_path: Path,
    scripted: StartScripted,
    certificates: MakeContext,
    ca_file: Path,
    security: str,
    wrong: str,
    reason: str,
) -> None:
    server = scripted(tls=certificates(wrong), implicit_tls=security == "tls", users={USER: PASSWORD})
    with install(tmp_path, server, security, POSTROOM_SMTP_CA_FILE=str(ca_file)) as service:
        check_refused(service, server, reason)


def test_starttls_that_is_missing_or_was_stripped(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted(users={USER: PASSWORD})
    server.on("EHLO", "250-x\r\n250-AUTH PLAIN\r\n250 HELP")
    with install(tmp_path, server, "starttls") as service:
        check_refused(service, server, "does not offer STARTTLS")


def test_plain_text_injected_after_220(tmp_path: Path, scripted: StartScripted, ca_file: Path) -> None:
    server = scripted(tls=True, users={USER: PASSWORD})
    server.on("STARTTLS", do=Also("235 2.7.0 welcome"))
    with install(tmp_path, server, "starttls", POSTROOM_SMTP_CA_FILE=str(ca_file)) as service:
        check_refused(service, server, "tampering")


def test_plain_text_in_place_of_the_handshake(tmp_path: Path, scripted: StartScripted, ca_file: Path) -> None:
    server = scripted(tls=True, users={USER: PASSWORD})
    server.on("STARTTLS", do=BareHandshake(b"250 this is not TLS\r\n"))
    with install(tmp_path, server, "starttls", POSTROOM_SMTP_CA_FILE=str(ca_file)) as service:
        check_refused(service, server, "TLS")


def test_an_account_that_worked_keeps_its_mail_until_the_certificate_is_good_again(
    tmp_path: Path, scripted: StartScripted, certificates: MakeContext, ca_file: Path
) -> None:
    server = scripted(tls=True, users={USER: PASSWORD})
    good = server.tls
    with install(tmp_path, server, "starttls", POSTROOM_SMTP_CA_FILE=str(ca_file)) as service:
        service.wait_for(service.send())
        server.tls = certificates("expired")
        server.on("MAIL", do=Drop("421 4.3.2 restarting"), times=1)
        kept = service.send()
        eventually(lambda: "expired" in service.status(kept), message="the account to be set aside")
        assert service.status(kept).startswith("deferred")
        logins = len(server.logins)
        server.tls = good
        service.command("accounts", "resume", USER)
        service.wait_for(kept, timeout=30)
        assert len(server.messages) == 2
        assert logins == 1


def test_a_server_that_stops_reading_costs_its_deadline_and_is_no_doubt(
    tmp_path: Path, scripted: StartScripted
) -> None:
    """A zero window: the text does not leave us, so that there is nothing to be in doubt of."""
    # Without groups of commands: silence after one is asked about once more.
    server = scripted(users={USER: PASSWORD}, extensions=["8BITMIME", "AUTH PLAIN"])
    server.on("DATA", do=Hang(None, read=False), times=1)
    # The second try has to be over in this time on a busy machine too.
    settings = {"POSTROOM_SMTP_TIMEOUT": "5s", "POSTROOM_SMTP_ALLOW_PLAINTEXT": "true"}
    with install(tmp_path, server, "none", **settings) as service:
        request_id = service.send(body="x" * 16_000_000)
        service.wait_for(request_id, "deferred", timeout=30)
        service.wait_for(request_id, timeout=30)
        answer = service.client.call("GET", f"/email-status/{request_id}").document
        assert answer == {"request_id": request_id, "status": "sent"}
        outcomes = service.query("SELECT outcome FROM attempt ORDER BY id")
        assert outcomes == [("deferred",), ("sent",)]


def test_a_server_that_closes_its_half_is_tried_again(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted(users={USER: PASSWORD})
    server.on("DATA", do=HalfClose(), times=1)
    with install(tmp_path, server, "none", POSTROOM_SMTP_ALLOW_PLAINTEXT="true") as service:
        request_id = service.send()
        service.wait_for(request_id)
        answer = service.client.call("GET", f"/email-status/{request_id}").document
        assert answer == {"request_id": request_id, "status": "sent"}
        assert len(server.messages) == 1
