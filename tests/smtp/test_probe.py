"""What a look at a server finds without a log-in, and which findings the doctor makes of it."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from postroom.accounts.doctor.finding import Finding, Severity
from postroom.accounts.doctor.server import PASSWORD_MECHANISMS, about_server
from postroom.core.account import Secret, Security
from postroom.core.classify import classify_fault
from postroom.core.clock import DAY, HOUR, Instant, system_clock
from postroom.core.outcome import Deferred, Failed
from postroom.providers import Server
from postroom.smtp.endpoint import Endpoint, Timeouts, tls_context
from postroom.smtp.probe import Reach, ServerShown, look_at_server, ports_that_answer
from tests.conftest import MakeContext, StartScripted
from tests.servers.netns import BLACK_HOLE, in_namespace
from tests.servers.postfix import Postfix
from tests.servers.programs import free_port
from tests.servers.scripted import Hang
from tests.smtp import dialog
from tests.smtp.dialog import PASSWORD, USER


def to(
    port: int, security: Security = Security.NONE, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Endpoint:
    timeouts = Timeouts().capped(20.0)
    return Endpoint(host, port, security, USER, Secret(PASSWORD), tls, timeouts)


def look(endpoint: Endpoint) -> ServerShown:
    return asyncio.run(look_at_server(endpoint))


def findings(
    endpoint: Endpoint,
    shown: ServerShown,
    *,
    now: Instant | None = None,
    open_ports: tuple[int, ...] = (),
    mechanisms: tuple[str, ...] = PASSWORD_MECHANISMS,
) -> dict[str, Finding]:
    server = Server(endpoint.host, endpoint.port, endpoint.security, 1, USER)
    found = about_server(
        server, shown, system_clock() if now is None else now, mechanisms=mechanisms, open_ports=open_ports
    )
    return {finding.subject: finding for finding in found}


def the_error(found: dict[str, Finding]) -> Finding:
    (error,) = (finding for finding in found.values() if finding.severity is Severity.ERROR)
    return error


def words_of_a_message(shown: ServerShown) -> str:
    """Return what the status of a message that met this server would say."""
    assert shown.fault is not None
    outcome = classify_fault(shown.fault)
    assert isinstance(outcome, Deferred | Failed)
    return outcome.reason


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
def test_postfix_shows_all_there_is(postfix: Postfix, security: Security) -> None:
    port = postfix.port if security is Security.STARTTLS else postfix.tls_port
    endpoint = to(port, security, tls_context(str(postfix.ca_file)), host="localhost")
    shown = look(endpoint)
    assert shown.fault is None
    assert set(shown.mechanisms) >= {"PLAIN", "LOGIN"}
    found = findings(endpoint, shown)
    assert {finding.severity for finding in found.values()} == {Severity.OK}
    assert found["tls"].summary.startswith(
        "TLSv1.3; a certificate that is trusted, for localhost, 127.0.0.1, "
    )
    assert found["greeting"].summary.startswith("mail.postroom.example ESMTP")


@pytest.mark.parametrize("wrong", ["expired", "self-signed", "other-name"])
def test_postfix_with_a_certificate_that_cannot_be_trusted(
    ca: trustme.CA, tmp_path: Path, wrong: str
) -> None:
    then = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    if wrong == "expired":
        certificate = ca.issue_cert("localhost", not_before=then, not_after=then + datetime.timedelta(days=9))
    else:
        certificate = (trustme.CA() if wrong == "self-signed" else ca).issue_cert(
            "localhost" if wrong == "self-signed" else "smtp.elsewhere.example"
        )
    chain = tmp_path / "chain.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(chain))
    with Postfix(ca, settings={"smtpd_tls_chain_files": str(chain)}) as server:
        endpoint = to(server.port, Security.STARTTLS, tls_context(str(server.ca_file)), host="localhost")
        shown = look(endpoint)
        error = the_error(findings(endpoint, shown))
    assert (error.subject, error.detail) == ("tls", words_of_a_message(shown))
    assert shown.certificate is not None
    said = {
        "expired": "it ended at 2020-01-10",
        "self-signed": "POSTROOM_SMTP_CA_FILE",
        "other-name": "elsewhere",
    }
    assert said[wrong] in str(error.fix)


@pytest.mark.parametrize("library", ["asyncio", "uvloop"])
def test_both_event_loops_show_the_same(
    scripted: StartScripted, client_tls: ssl.SSLContext, library: str
) -> None:
    endpoint = to(scripted(tls=True).port, Security.STARTTLS, client_tls)
    shown = dialog.run(look_at_server(endpoint), library=library)
    assert shown.certificate is not None
    assert (shown.tls_version, shown.certificate.names) == ("TLSv1.3", ("localhost", "127.0.0.1"))
    refused = dialog.run(look_at_server(to(free_port())), library=library)
    assert refused.reach is Reach.REFUSED


def test_no_credentials_are_ever_given(scripted: StartScripted, client_tls: ssl.SSLContext) -> None:
    server = scripted(tls=True, users={USER: PASSWORD}, auth_required=True)
    look(to(server.port, Security.STARTTLS, client_tls))
    assert server.verbs == ["EHLO", "STARTTLS", "EHLO", "QUIT"]
    assert server.logins == []


def test_a_password_in_a_servers_words_is_struck(scripted: StartScripted) -> None:
    server = scripted()
    server.on("GREETING", reply=f"220 welcome {USER} with {PASSWORD}")
    server.on("EHLO", reply=f"250-me\r\n250 AUTH PLAIN {PASSWORD.replace(' ', '')}")
    shown = look(to(server.port))
    assert PASSWORD not in f"{shown}"
    assert PASSWORD.replace(" ", "") not in f"{shown}"
    assert "PLAIN" in shown.mechanisms


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ("expired", "renew the certificate of 127.0.0.1 (it ended at 2020-01-10T00:00:00.000Z)"),
        ("self-signed", "POSTROOM_SMTP_CA_FILE=FILE"),
        ("other-name", "set the account's host to smtp.elsewhere.example"),
    ],
)
@pytest.mark.parametrize("implicit", [False, True])
def test_a_certificate_that_cannot_be_trusted(
    scripted: StartScripted,
    certificates: MakeContext,
    client_tls: ssl.SSLContext,
    wrong: str,
    fix: str,
    implicit: bool,
) -> None:
    server = scripted(tls=certificates(wrong), implicit_tls=implicit)
    endpoint = to(server.port, Security.TLS if implicit else Security.STARTTLS, client_tls)
    shown = look(endpoint)
    assert shown.certificate is not None
    error = the_error(findings(endpoint, shown))
    assert error.subject == "tls"
    assert error.detail == words_of_a_message(shown)
    assert fix in str(error.fix)
    assert server.logins == []


def test_a_certificate_that_ends_soon(
    scripted: StartScripted, ca: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(
        "127.0.0.1", not_before=now - datetime.timedelta(days=80), not_after=now + datetime.timedelta(days=10)
    ).configure_cert(context)
    endpoint = to(scripted(tls=context).port, Security.STARTTLS, client_tls)
    shown = look(endpoint)
    found = findings(endpoint, shown)["tls"]
    assert (found.severity, found.summary) == (Severity.WARNING, "the certificate ends in 9 days")
    assert findings(endpoint, shown, now=system_clock() - 10 * DAY)["tls"].severity is Severity.OK


def test_a_server_without_tls(scripted: StartScripted, client_tls: ssl.SSLContext) -> None:
    server = scripted()
    endpoint = to(server.port, Security.STARTTLS, client_tls)
    error = the_error(findings(endpoint, look(endpoint)))
    assert (error.subject, "security to tls" in str(error.fix)) == ("tls", True)
    endpoint = to(server.port, Security.TLS, client_tls)
    error = the_error(findings(endpoint, look(endpoint)))
    assert (error.subject, "security to starttls" in str(error.fix)) == ("tls", True)


def test_a_server_that_says_nothing(scripted: StartScripted) -> None:
    server = scripted()
    server.on("GREETING", do=Hang())
    endpoint = replace(to(server.port), timeouts=Timeouts().capped(0.5))
    error = the_error(findings(endpoint, look(endpoint)))
    assert (error.subject, "set the account's security to tls" in str(error.fix)) == ("greeting", True)


def test_a_server_that_refuses_us(scripted: StartScripted) -> None:
    server = scripted()
    server.on("GREETING", reply="554 5.7.1 your address is blocked")
    endpoint = to(server.port)
    shown = look(endpoint)
    error = the_error(findings(endpoint, shown))
    assert (error.subject, error.detail) == ("greeting", words_of_a_message(shown))


@pytest.fixture
def full() -> Iterator[int]:
    """A port whose queue of connections is full: the kernel drops what comes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        try:
            while True:
                connecting = socket.socket()
                waiting.append(connecting)
                connecting.settimeout(0.3)
                connecting.connect(listening.getsockname())
        except TimeoutError:
            yield listening.getsockname()[1]
        finally:
            for each in waiting:
                each.close()


def test_a_blocked_port_is_told_from_a_refused_one(full: int) -> None:
    endpoint = replace(to(full), timeouts=Timeouts().capped(0.5))
    shown = look(endpoint)
    assert shown.reach is Reach.BLOCKED
    error = the_error(findings(endpoint, shown))
    assert (error.subject, error.detail) == ("port", words_of_a_message(shown))
    assert error.summary.startswith(f"port {full} is blocked")
    assert f"have outgoing port {full} opened" in str(error.fix)
    found = findings(endpoint, shown, open_ports=(465,))
    assert "set the account's port to 465 and its security to tls" in str(the_error(found).fix)

    endpoint = to(free_port())
    shown = look(endpoint)
    assert shown.reach is Reach.REFUSED
    error = the_error(findings(endpoint, shown))
    assert (error.subject, error.detail) == ("port", words_of_a_message(shown))
    assert error.summary.startswith(f"port {endpoint.port} is closed")


@in_namespace
def test_packets_that_vanish() -> None:
    blocked = replace(to(587, host=BLACK_HOLE), timeouts=Timeouts().capped(1.0))
    assert look(blocked).reach is Reach.BLOCKED
    assert look(to(587, host="203.0.113.1")).reach is Reach.NO_ROUTE


def test_which_ports_answer(scripted: StartScripted) -> None:
    server = scripted()
    asked = (free_port(), server.port)
    assert asyncio.run(ports_that_answer("127.0.0.1", asked, 10.0)) == (server.port,)


def test_one_address_without_a_route_and_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a host with an address of IPv6 too, on a machine without it."""
    port = free_port()
    addresses = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    monkeypatch.setattr("postroom.smtp.connect.socket.getaddrinfo", lambda *_, **__: addresses)
    shown = look(to(port, host="two.example"))
    assert shown.reach is Reach.REFUSED, shown


def test_a_name_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr("postroom.smtp.connect.socket.getaddrinfo", getaddrinfo)
    endpoint = to(587, host="smtp.gone.example")
    shown = look(endpoint)
    assert shown.reach is Reach.NO_SUCH_HOST
    error = the_error(findings(endpoint, shown))
    assert (error.subject, error.detail) == ("host", words_of_a_message(shown))


@pytest.mark.parametrize(
    ("offered", "usable", "severity"),
    [
        ("PLAIN LOGIN XOAUTH2", ("PLAIN", "LOGIN"), Severity.OK),
        ("XOAUTH2", ("PLAIN", "LOGIN"), Severity.ERROR),
        ("XOAUTH2", ("XOAUTH2",), Severity.OK),
        ("CRAM-MD5", ("PLAIN", "LOGIN"), Severity.ERROR),
        ("", ("PLAIN", "LOGIN"), Severity.ERROR),
        ("", (), Severity.OK),
        ("PLAIN", (), Severity.NOTE),
    ],
)
def test_log_ins_that_are_offered(
    scripted: StartScripted, offered: str, usable: tuple[str, ...], severity: Severity
) -> None:
    server = scripted()
    server.on("EHLO", reply=f"250-me\r\n250-AUTH {offered}\r\n250 SIZE 1000" if offered else "250 me")
    endpoint = to(server.port)
    found = findings(endpoint, look(endpoint), mechanisms=usable)["auth"]
    assert found.severity is severity
    assert (found.fix is not None) is (severity is Severity.ERROR)


@pytest.mark.parametrize(
    ("off", "severity"), [(0, Severity.OK), (HOUR, Severity.WARNING), (-HOUR, Severity.WARNING)]
)
def test_a_greeting_that_says_the_time(scripted: StartScripted, off: int, severity: Severity) -> None:
    server, said = scripted(), datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
    server.on("GREETING", reply=f"220 mail.example ESMTP Exim 4.96 {said}")
    endpoint = to(server.port)
    found = findings(endpoint, look(endpoint), now=system_clock() + off)["clock"]
    assert found.severity is severity
    if off:
        assert ("ahead of" if off > 0 else "behind") in found.summary
