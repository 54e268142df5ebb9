"""To which server a password goes: one that somebody has named, or that serves the mailbox's domain."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.rcode
import pytest
import trustme

from postroom.cli.accounts import _row
from postroom.core.clock import SECOND
from postroom.core.message import MessageState
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.worker.mail.connect import _timeouts
from tests.conftest import StartScripted
from tests.process.test_delivery import InProcess
from tests.servers.dns import NameServer
from tests.servers.scripted import ScriptedServer
from tests.servers.waiting import eventually

PASSWORD = "abcdefghijklmnop"
ROW = f"key,ann@corp.example,{PASSWORD},,,"
GOOGLE, FILTER = ["1 aspmx.l.google.com."], ["10 mx.filter.example."]


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """The name server that the worker asks for MX."""
    with NameServer(corp_example=GOOGLE) as server:
        monkeypatch.setattr("postroom.smtp.exchangers.system_resolver", server.resolver)
        yield server


@pytest.fixture
def gmail(scripted: StartScripted, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """Stands in for smtp.gmail.com; no other name can be looked up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("smtp.gmail.com").configure_cert(context)
    server = scripted(tls=context, users={"ann@corp.example": PASSWORD}, auth_required=True)

    def getaddrinfo(host: str, *_: object, **__: object) -> list[Any]:
        if host != "smtp.gmail.com":
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]

    monkeypatch.setattr("postroom.smtp.connect.socket.getaddrinfo", getaddrinfo)
    return server


@pytest.fixture
def installed(
    tmp_path: Path, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., InProcess]]:
    made: list[InProcess] = []

    def make(row: str = ROW, **settings: str) -> InProcess:
        monkeypatch.setenv("POSTROOM_SMTP_CA_FILE", str(ca_file))
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        made.append(InProcess(tmp_path, [row], monkeypatch))
        return made[-1]

    yield make
    for installation in made:
        installation.service.store.close()


def state_of(installation: InProcess, request_id: str) -> MessageState:
    return installation.status(request_id).state


def account(installation: InProcess) -> Any:
    return installation.service.store.read(Accounts.all)[0].account


def shown_server(installation: InProcess) -> object:
    """Return what `postroom accounts` shows as the account's server."""
    [stored] = installation.service.store.read(Accounts.all)
    return _row(installation.service, stored, {stored.account.id}, {})["server"]


def test_the_mx_decides_and_an_account_that_has_worked_keeps_its_server(
    installed: Callable[..., InProcess], name_server: NameServer, gmail: ScriptedServer
) -> None:
    installation = installed()
    assert shown_server(installation) == "by the MX of corp.example"
    assert name_server.asked == [], "not while data.csv is read or an account is shown"
    installation.send_a_mail()
    assert [login.accepted for login in gmail.logins] == [True]
    eventually(lambda: account(installation).worked_with == "smtp.gmail.com")
    assert shown_server(installation) == "smtp.gmail.com:587"
    name_server.mx["corp.example"] = FILTER
    second = installation.accept("you@x.example")
    installation.run_until(lambda: installation.is_sent(second))
    assert name_server.asked == ["corp.example"], "another worker does not ask for a server that has worked"


def test_the_advice_is_that_of_the_provider_that_the_mx_names(
    installed: Callable[..., InProcess], name_server: NameServer, gmail: ScriptedServer
) -> None:
    gmail.on("AUTH", "534 5.7.9 Application-specific password required.")
    installation = installed()
    request_id = installation.accept("you@x.example")
    installation.run_until(lambda: state_of(installation, request_id) is MessageState.FAILED)
    assert "Google wants an app password" in str(installation.status(request_id))


def test_where_a_filter_stands_before_it_the_row_is_at_fault_and_no_password_leaves(
    installed: Callable[..., InProcess], name_server: NameServer, gmail: ScriptedServer
) -> None:
    name_server.mx["corp.example"] = FILTER
    installation = installed()
    request_id = installation.accept("you@x.example")
    installation.run_until(lambda: state_of(installation, request_id) is MessageState.FAILED)
    reason = str(installation.status(request_id))
    assert "mx.filter.example" in reason
    assert "column host" in reason
    assert gmail.connections == []


def test_a_name_server_that_is_ill_defers(
    installed: Callable[..., InProcess], name_server: NameServer, gmail: ScriptedServer
) -> None:
    name_server.rcode = dns.rcode.SERVFAIL
    installation = installed()
    request_id = installation.accept("you@x.example")
    installation.run_until(lambda: state_of(installation, request_id) is MessageState.DEFERRED)
    assert "cannot ask for the MX of corp.example" in str(installation.status(request_id))
    assert gmail.connections == []
    name_server.rcode = None
    installation.run_until(lambda: installation.is_sent(request_id))


def test_an_account_that_worked_before_the_update_is_sent_through_gmail_as_before(
    installed: Callable[..., InProcess], name_server: NameServer, gmail: ScriptedServer
) -> None:
    installation = installed()
    store, id_ = installation.service.store, account(installation).id
    store.write(Accounts.note_worked, id_, 1, "")  # as the migration leaves it
    name_server.mx["corp.example"] = FILTER
    installation.send_a_mail()
    assert name_server.asked == []
    assert account(installation).worked_with == "smtp.gmail.com"


def test_a_named_host_is_asked_for_no_mx(
    installed: Callable[..., InProcess], name_server: NameServer, scripted: StartScripted
) -> None:
    server = scripted()
    installation = installed(
        POSTROOM_SMTP_HOST="127.0.0.1", POSTROOM_SMTP_PORT=str(server.port), POSTROOM_SMTP_SECURITY="none"
    )
    installation.send_a_mail()
    assert name_server.asked == []
    assert account(installation).worked_with is None


@pytest.mark.parametrize("row", ["key,ann@gmail.com,secret,,,", "key,ann@x.example,secret,smtp.gmail.com,,"])
def test_a_provider_s_name_that_does_not_exist_is_the_machine_s_fault(
    installed: Callable[..., InProcess], monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    def nothing(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr("postroom.smtp.connect.socket.getaddrinfo", nothing)
    installation = installed(row)
    request_id = installation.accept("you@x.example")
    installation.run_until(lambda: state_of(installation, request_id) is MessageState.DEFERRED)
    assert "this machine's name server" in str(installation.status(request_id))


def test_the_settings_of_the_conversation_reach_it(
    installed: Callable[..., InProcess], scripted: StartScripted
) -> None:
    server = scripted()
    installation = installed(
        f"key,ann@x.example,secret,127.0.0.1,{server.port},none", POSTROOM_EHLO_NAME="mail.example.com"
    )
    installation.send_a_mail()
    assert server.commands[0] == "EHLO mail.example.com"
    assert _timeouts(Settings(smtp_timeout=2 * SECOND)).dot == 600.0
    assert _timeouts(Settings(smtp_timeout=2 * SECOND, smtp_dot_timeout=7 * SECOND)).dot == 7.0
