"""Opening a session: greeting, EHLO, TLS, AUTH; and that no credential goes where it should not."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import errno
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

import pytest
import trustme

from postroom.core.account import Security
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Reply
from postroom.smtp.client import Connection
from postroom.smtp.connect import connect
from postroom.smtp.endpoint import Endpoint, tls_context
from tests.conftest import MakeContext, StartScripted
from tests.servers import scripted as script
from tests.servers.scripted import Also, BareHandshake, Drip, Drop, Endless, Hang, Reset, ScriptedServer
from tests.servers.waiting import eventually
from tests.smtp import dialog
from tests.smtp.dialog import PASSWORD, USER, endpoint

# Of every deadline that is not to run out, and a bound that shows that it did not.
LONG = dict.fromkeys(("connect", "greeting", "command", "data", "block", "dot", "quit"), 50.0)
SOON = 40.0


class Opened:
    """What came of an attempt to open a session, and how long it took."""

    def __init__(self, result: Connection | SMTPFault, seconds: float) -> None:
        self.result = result
        self.seconds = seconds

    @property
    def fault(self) -> SMTPFault:
        assert isinstance(self.result, SMTPFault), "the session was opened"
        return self.result

    @property
    def ok(self) -> bool:
        return self.connection is self.result

    @property
    def connection(self) -> Connection:
        assert isinstance(self.result, Connection), f"not opened: {self.result}"
        return self.result


class Open(Protocol):
    def __call__(self, where: Endpoint) -> Opened: ...


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on each of the two loops: they differ in their errors."""
    return lambda coroutine: dialog.run(coroutine, library=request.param)


@pytest.fixture
def open_session(run: Run) -> Open:
    """Open a session, say goodbye where it opened, and return what came of it. Only SMTPFault may be raised."""

    async def attempt(where: Endpoint) -> Opened:
        started = time.monotonic()
        try:
            connection = await Connection.open(where)
        except SMTPFault as fault:
            return Opened(fault, time.monotonic() - started)
        seconds = time.monotonic() - started
        await connection.quit()
        return Opened(connection, seconds)

    return lambda where: run(attempt(where))


def assert_no_credentials(server: ScriptedServer) -> None:
    """Neither AUTH nor any form of user name or password came, in the clear or in TLS."""
    eventually(lambda: server.open_connections == 0)
    assert server.logins == []
    assert "AUTH" not in server.verbs
    for text in (PASSWORD, USER):
        for form in (text.encode(), base64.b64encode(text.encode())):
            assert form not in server.plaintext
    assert not server.auth_in_plain_text


# --- the good ways


def test_starttls(scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open) -> None:
    server = scripted(tls=True, users={USER: PASSWORD}, auth_required=True)
    opened = open_session(endpoint(server, Security.STARTTLS, client_tls, password=PASSWORD))
    assert opened.connection.authenticated
    assert server.verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH", "QUIT"]
    assert [(login.accepted, login.tls) for login in server.logins] == [(True, True)]
    assert not server.auth_in_plain_text


def test_tls_from_the_start(scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open) -> None:
    server = scripted(tls=True, implicit_tls=True, users={USER: PASSWORD}, auth_required=True)
    opened = open_session(endpoint(server, Security.TLS, client_tls, password=PASSWORD))
    assert opened.connection.authenticated
    assert server.verbs == ["EHLO", "AUTH", "QUIT"]
    assert server.plaintext == b""


def test_what_was_learned_before_tls_is_forgotten(
    scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open
) -> None:
    """RFC 3207 §4.2: the list before STARTTLS may come from anybody."""
    server = scripted(tls=True, extensions=["8BITMIME"], plain_extensions=["STARTTLS", "AUTH PLAIN"])
    fault = open_session(endpoint(server, Security.STARTTLS, client_tls, password=PASSWORD)).fault
    assert (fault.kind, fault.verb) == (FaultKind.UNSUPPORTED, "AUTH")
    assert_no_credentials(server)


def test_our_context_trusts_a_ca_file_and_nothing_below_tls_1_2(
    scripted: StartScripted, ca_file: object, open_session: Open
) -> None:
    context = tls_context(str(ca_file))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    server = scripted(tls=True)
    assert open_session(endpoint(server, Security.STARTTLS, context)).ok


def test_the_name_in_ehlo_is_our_address(scripted: StartScripted, open_session: Open) -> None:
    server = scripted()
    open_session(endpoint(server))
    assert server.commands[0] == "EHLO [127.0.0.1]"


def test_the_name_in_ehlo_is_our_ipv6_address(run: Run) -> None:
    async def dialogue() -> bytes:
        said = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 hello\r\n")
            said.set_result(await reader.readline())
            writer.write(b"250-hello\r\n250 8BITMIME\r\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "::1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            connection = await Connection.open(Endpoint("::1", port, Security.NONE))
            connection.abort()
            return bytes(await said)

    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    assert run(dialogue()) == b"EHLO [IPv6:::1]\r\n"


def test_a_greeting_of_several_lines(scripted: StartScripted, open_session: Open) -> None:
    server = scripted()
    server.on("GREETING", "220-mail.example\r\n220-no spam\r\n220 please")
    assert open_session(endpoint(server)).ok
    assert server.verbs == ["EHLO", "QUIT"]


def test_an_ehlo_reply_whose_first_line_is_empty(
    scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open
) -> None:
    server = scripted(tls=True)
    server.on("EHLO", "250-\r\n250 STARTTLS", tls=False)
    assert open_session(endpoint(server, Security.STARTTLS, client_tls)).ok


def test_a_reply_with_bare_line_feeds_and_no_text(scripted: StartScripted, open_session: Open) -> None:
    server = scripted()
    server.on("GREETING", b"220\n")
    server.on("EHLO", b"250-x\n250-\n250\n")
    assert open_session(endpoint(server)).ok


# --- AUTH


@pytest.mark.parametrize(
    ("offered", "used"),
    [
        (("PLAIN",), "PLAIN"),
        (("LOGIN",), "LOGIN"),
        (("LOGIN", "PLAIN"), "PLAIN"),
        (("CRAM-MD5", "LOGIN"), "LOGIN"),
    ],
)
def test_log_in(
    scripted: StartScripted,
    client_tls: ssl.SSLContext,
    open_session: Open,
    offered: tuple[str, ...],
    used: str,
) -> None:
    server = scripted(tls=True, users={USER: PASSWORD}, auth=offered)
    opened = open_session(endpoint(server, Security.STARTTLS, client_tls, password=PASSWORD))
    assert opened.connection.authenticated
    [login] = server.logins
    assert (login.mechanism, login.username, login.secret, login.accepted) == (used, USER, PASSWORD, True)


@pytest.mark.parametrize("password", ["pässwörd €", "x" * 300, " spaces  inside ", "="])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_any_password_arrives_as_it_is(
    scripted: StartScripted, open_session: Open, mechanism: str, password: str
) -> None:
    server = scripted(users={USER: password}, auth=(mechanism,))
    assert open_session(endpoint(server, password=password)).connection.authenticated


def test_without_a_password_there_is_no_auth(scripted: StartScripted, open_session: Open) -> None:
    server = scripted()
    assert not open_session(endpoint(server)).connection.authenticated
    assert server.verbs == ["EHLO", "QUIT"]


def test_no_auth_where_none_is_offered_without_tls(scripted: StartScripted, open_session: Open) -> None:
    server = scripted(auth=())
    assert not open_session(endpoint(server, password=PASSWORD)).connection.authenticated
    assert_no_credentials(server)


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
def test_a_password_for_a_server_that_asks_for_none_is_the_account_s_fault(
    scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open, security: Security
) -> None:
    """It would refuse the recipients of one who has not logged in, and they would be blamed."""
    server = scripted(tls=True, implicit_tls=security is Security.TLS, auth=())
    fault = open_session(endpoint(server, security, client_tls, password=PASSWORD)).fault
    assert (fault.kind, fault.verb) == (FaultKind.UNSUPPORTED, "AUTH")
    assert "offers no log-in" in str(fault)
    assert_no_credentials(server)


def test_log_in_methods_that_we_do_not_have(scripted: StartScripted, open_session: Open) -> None:
    server = scripted(auth=("CRAM-MD5", "GSSAPI"))
    fault = open_session(endpoint(server, password=PASSWORD)).fault
    assert (fault.kind, fault.verb) == (FaultKind.UNSUPPORTED, "AUTH")
    assert "CRAM-MD5 GSSAPI" in str(fault)
    assert_no_credentials(server)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_wrong_password(scripted: StartScripted, open_session: Open, mechanism: str) -> None:
    server = scripted(users={USER: "another"}, auth=(mechanism,))
    fault = open_session(endpoint(server, password=PASSWORD)).fault
    assert (fault.kind, fault.verb) == (FaultKind.REFUSED, "AUTH")
    assert fault.reply == Reply(535, "Authentication failed", "5.7.8")
    assert PASSWORD not in str(fault)
    assert base64.b64encode(PASSWORD.encode()).decode() not in str(fault)


def test_a_prompt_that_does_not_end_is_no_welcome(scripted: StartScripted, open_session: Open) -> None:
    server = scripted()
    server.on("AUTH", "334 ")
    fault = open_session(endpoint(server, password=PASSWORD)).fault
    assert (fault.kind, fault.verb) == (FaultKind.UNSUPPORTED, "AUTH")
    assert server.commands.count("*") == 3, "each exchange is cancelled"


def test_a_user_name_that_login_refuses_is_not_followed_by_the_password(
    scripted: StartScripted, open_session: Open
) -> None:
    server = scripted(auth=("LOGIN",))
    server.on("CHALLENGE", "535 5.7.8 no")
    fault = open_session(endpoint(server, password=PASSWORD)).fault
    assert fault.kind is FaultKind.REFUSED
    assert base64.b64encode(PASSWORD.encode()) not in server.plaintext


# --- TLS that cannot be trusted: fault 16


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("expired", "expired"),
        ("self-signed", "self-signed|unable to get local issuer"),
        ("wrong name", "mismatch"),
    ],
)
def test_a_certificate_that_cannot_be_trusted(
    scripted: StartScripted,
    client_tls: ssl.SSLContext,
    certificates: MakeContext,
    open_session: Open,
    security: Security,
    wrong: str,
    words: str,
) -> None:
    server = scripted(tls=certificates(wrong), implicit_tls=security is Security.TLS)
    fault = open_session(endpoint(server, security, client_tls, password=PASSWORD)).fault
    assert fault.kind is FaultKind.INSECURE
    assert any(word in str(fault) for word in words.split("|")), str(fault)
    assert_no_credentials(server)


def test_a_good_certificate_for_another_name_of_the_same_machine(
    scripted: StartScripted, client_tls: ssl.SSLContext, ca: trustme.CA, open_session: Open
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    server = scripted(tls=context)
    good = endpoint(server, Security.STARTTLS, client_tls, host="localhost")
    assert open_session(good).ok
    assert open_session(endpoint(server, Security.STARTTLS, client_tls)).fault.kind is FaultKind.INSECURE


@pytest.mark.parametrize("extensions", [(), ("8BITMIME", "AUTH PLAIN"), ("XXXXXXXX",)])
def test_starttls_missing_or_stripped(
    scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open, extensions: tuple[str, ...]
) -> None:
    server = scripted()
    server.on("EHLO", "\r\n".join([*(f"250-{name}" for name in ("x", *extensions)), "250 HELP"]))
    fault = open_session(endpoint(server, Security.STARTTLS, client_tls, password=PASSWORD)).fault
    assert (fault.kind, fault.verb) == (FaultKind.INSECURE, "STARTTLS")
    assert_no_credentials(server)


@pytest.mark.parametrize("injected", ["250 injected", "235 2.7.0 welcome", b"25", "220 again"])
def test_plain_text_injected_after_220(
    scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open, injected: str | bytes
) -> None:
    """CVE-2021-33515 and its kin: what came in the clear must not be read as if it had come in TLS."""
    server = scripted(tls=True)
    server.on("STARTTLS", do=Also(injected))
    fault = open_session(endpoint(server, Security.STARTTLS, client_tls, password=PASSWORD)).fault
    assert (fault.kind, fault.verb) == (FaultKind.INSECURE, "STARTTLS")
    assert "tampering" in str(fault)
    assert_no_credentials(server)


def test_plain_text_in_place_of_the_handshake(
    scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open
) -> None:
    server = scripted(tls=True)
    server.on("STARTTLS", do=BareHandshake(b"250 this is not TLS\r\n"))
    fault = open_session(endpoint(server, Security.STARTTLS, client_tls, password=PASSWORD)).fault
    assert fault.kind is FaultKind.INSECURE
    assert_no_credentials(server)


def test_a_server_that_speaks_smtp_where_tls_was_meant(
    scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open
) -> None:
    server = scripted()
    fault = open_session(endpoint(server, Security.TLS, client_tls, password=PASSWORD)).fault
    assert fault.kind is FaultKind.INSECURE
    assert_no_credentials(server)


@pytest.mark.parametrize(
    "code", ["454 4.7.0 TLS not available", "501 5.5.4 what", "250 OK but no", "334 go on"]
)
def test_starttls_refused(
    scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open, code: str
) -> None:
    server = scripted(tls=True)
    server.on("STARTTLS", code)
    where = endpoint(server, Security.STARTTLS, client_tls, password=PASSWORD, deadlines={"connect": 2.0})
    fault = open_session(where).fault
    assert fault.verb == "STARTTLS"
    assert_no_credentials(server)


@pytest.mark.parametrize("action", [Drop(None), Drop(), Reset(), Hang(None)])
@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
def test_a_handshake_that_breaks_off_is_not_the_accounts_fault(
    scripted: StartScripted,
    client_tls: ssl.SSLContext,
    open_session: Open,
    action: script.Action,
    security: Security,
) -> None:
    server = scripted(tls=security is Security.STARTTLS)
    if security is Security.STARTTLS:
        server.on("STARTTLS", do=action)
    else:
        server.on("GREETING", do=Drop(b"") if isinstance(action, Drop) else _silent(action))
    deadlines = LONG | ({"connect": 2.0} if isinstance(action, Hang) else {})
    opened = open_session(endpoint(server, security, client_tls, password=PASSWORD, deadlines=deadlines))
    assert opened.fault.kind in (FaultKind.DISCONNECTED, FaultKind.TIMEOUT)
    assert opened.seconds < SOON
    assert_no_credentials(server)


def test_a_connection_lost_before_the_handshake_begins(run: Run, client_tls: ssl.SSLContext) -> None:
    """Asyncio would wait for a handshake that nobody begins."""

    async def dialogue() -> SMTPFault:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            wire = await connect("127.0.0.1", port, 30)
            while wire.broken is None:
                await asyncio.sleep(0)
            with pytest.raises(SMTPFault) as caught:
                await wire.start_tls(client_tls, "127.0.0.1", "the server", 30)
        return caught.value

    fault = run(dialogue())
    assert (fault.kind, fault.verb) == (FaultKind.DISCONNECTED, "STARTTLS")


def test_plain_text_that_arrives_while_tls_begins(run: Run, client_tls: ssl.SSLContext) -> None:
    """What the loop has not yet read when TLS begins belongs to TLS, where it is no record."""

    async def dialogue() -> tuple[SMTPFault, bool]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            wire = await connect("127.0.0.1", listener.getsockname()[1], 30)
            server, _ = listener.accept()
            with server:
                server.sendall(b"250 injected\r\n")
                with pytest.raises(SMTPFault) as caught:
                    await wire.start_tls(client_tls, "127.0.0.1", "the server", 30)
                wire.abort()
        return caught.value, wire.has_unread

    fault, unread = run(dialogue())
    assert fault.kind is FaultKind.INSECURE
    assert not unread


def _silent(action: script.Action) -> script.Action:
    return Hang(b"") if isinstance(action, Hang) else action


# --- connecting


def test_connection_refused(free_address: tuple[str, int], open_session: Open) -> None:
    fault = open_session(Endpoint(*free_address, Security.NONE)).fault
    assert (fault.kind, fault.verb) == (FaultKind.DISCONNECTED, "connect")
    assert "refused" in str(fault).lower()


@pytest.fixture
def free_address() -> Iterator[tuple[str, int]]:
    """An address that nobody else can take and nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()


@contextlib.contextmanager
def mute(ip: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that answers no SYN, as the kernel does while the queue of those that wait to be accepted is full."""
    with socket.socket() as listener:
        listener.bind((ip, port))
        listener.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        try:
            for each in crowd:
                each.setblocking(False)
                assert each.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
            yield int(listener.getsockname()[1])
        finally:
            for each in crowd:
                each.close()


def test_connect_that_nobody_answers(open_session: Open) -> None:
    with mute() as port:
        opened = open_session(endpoint_with_connect(Endpoint("127.0.0.1", port, Security.NONE), 0.3))
    assert (opened.fault.kind, opened.fault.verb) == (FaultKind.TIMEOUT, "connect")
    assert opened.seconds < SOON


def endpoint_with_connect(where: Endpoint, seconds: float) -> Endpoint:
    return Endpoint(where.host, where.port, where.security, timeouts=where.timeouts.capped(seconds))


def lookup_that(behave: Callable[[], Any]) -> Callable[..., Any]:
    def getaddrinfo(*_: object, **__: object) -> Any:
        return behave()

    return getaddrinfo


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (socket.EAI_NONAME, FaultKind.NO_SUCH_HOST),
        (socket.EAI_AGAIN, FaultKind.UNRESOLVED),
        (socket.EAI_FAIL, FaultKind.UNRESOLVED),
    ],
)
def test_lookups_that_fail(
    monkeypatch: pytest.MonkeyPatch, open_session: Open, code: int, kind: FaultKind
) -> None:
    def fail() -> None:
        raise socket.gaierror(code, "as the resolver says")

    monkeypatch.setattr(socket, "getaddrinfo", lookup_that(fail))
    fault = open_session(Endpoint("smtp.example", 587, Security.NONE)).fault
    assert (fault.kind, fault.verb) == (kind, "connect")
    assert "smtp.example" in str(fault)


def test_a_lookup_that_hangs(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, open_session: Open
) -> None:
    """Each loop asks for a name of its own: a look-up under way is shared, and the first loop's ends after its test."""
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lookup_that(lambda: answered.wait(10) and []))
    host = f"hangs-{request.node.callspec.id}.example"
    try:
        opened = open_session(endpoint_with_connect(Endpoint(host, 587, Security.NONE), 0.2))
    finally:
        answered.set()
    assert opened.fault.kind is FaultKind.UNRESOLVED
    assert "took too long" in str(opened.fault)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", ".example"])
def test_a_name_that_cannot_exist(open_session: Open, host: str) -> None:
    fault = open_session(Endpoint(host, 587, Security.NONE)).fault
    assert fault.kind in (FaultKind.NO_SUCH_HOST, FaultKind.UNRESOLVED)


def test_names_whose_dns_is_dead_keep_no_other_waiting(
    scripted: StartScripted, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has one look-up under way, however many connections ask for it, and those given up do not count."""
    server = scripted()
    answered, asked = threading.Event(), collections.Counter[str]()

    lookup = socket.getaddrinfo

    def getaddrinfo(host: str, *given: Any, **named: Any) -> list[Any]:
        if not host.endswith(".example"):  # of another thread
            return lookup(host, *given, **named)
        asked[host] += 1
        if host != "good.example" and not answered.wait(10):
            raise socket.gaierror(socket.EAI_AGAIN, "at last")
        return found("127.0.0.1", port=server.port)

    async def dialogue() -> None:
        bad = [f"bad-{number}.example" for number in range(20)] * 2
        dead = [endpoint_with_connect(Endpoint(name, 587, Security.NONE), 0.1) for name in bad]
        for _ in range(2):
            faults = await asyncio.gather(*map(Connection.open, dead), return_exceptions=True)
            kinds = {fault.kind for fault in faults if isinstance(fault, SMTPFault)}
            assert (len(faults), kinds) == (40, {FaultKind.UNRESOLVED})
        connection = await Connection.open(endpoint(server, host="good.example"))
        await connection.quit()
        answered.set()

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    run(dialogue())
    assert asked == dict.fromkeys(asked, 1)
    assert len(asked) == 21


def found(*addresses: str, port: int) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]


def test_the_next_address_is_tried(
    scripted: StartScripted, monkeypatch: pytest.MonkeyPatch, open_session: Open
) -> None:
    server = scripted()
    addresses = found("127.0.0.9", "127.0.0.1", port=server.port)
    monkeypatch.setattr(socket, "getaddrinfo", lookup_that(lambda: addresses))
    assert open_session(endpoint(server, host="smtp.example")).ok
    assert server.verbs == ["EHLO", "QUIT"]


def test_the_addresses_of_a_name_share_one_deadline(
    scripted: StartScripted, monkeypatch: pytest.MonkeyPatch, open_session: Open
) -> None:
    """So that many which do not answer take no longer than one, and the last still gets its try."""
    server = scripted()
    addresses = found("127.0.0.2", "127.0.0.3", "127.0.0.1", port=server.port)
    monkeypatch.setattr(socket, "getaddrinfo", lookup_that(lambda: addresses))
    with mute("127.0.0.2", server.port), mute("127.0.0.3", server.port):
        opened = open_session(endpoint(server, host="smtp.example", deadlines={"connect": 30.0}))
    assert opened.ok
    assert opened.seconds < 30, "each with all of it would take 60 s"


# --- a server that does not behave


@pytest.mark.parametrize("security", [Security.NONE, Security.STARTTLS])
def test_a_black_hole(
    scripted: StartScripted, client_tls: ssl.SSLContext, open_session: Open, security: Security
) -> None:
    server = scripted(tls=True)
    server.on("GREETING", do=Hang())
    opened = open_session(endpoint(server, security, client_tls, deadlines=LONG | {"greeting": 0.3}))
    assert (opened.fault.kind, opened.fault.verb) == (FaultKind.TIMEOUT, "greeting")
    assert "no greeting within 0.3 s" in str(opened.fault)
    assert 0.25 < opened.seconds < SOON


@pytest.mark.parametrize("verb", ["GREETING", "EHLO"])
def test_the_deadline_is_for_the_whole_reply(scripted: StartScripted, open_session: Open, verb: str) -> None:
    """Each byte comes in time, the reply does not."""
    server = scripted()
    server.on(verb, do=Drip("220 " + "x" * 10_000, every=0.03))
    short = {"greeting" if verb == "GREETING" else "command": 0.4}
    opened = open_session(endpoint(server, deadlines=LONG | short))
    assert opened.fault.kind is FaultKind.TIMEOUT
    assert 0.35 < opened.seconds < SOON


def test_a_slow_reply_within_the_deadline_is_fine(scripted: StartScripted, open_session: Open) -> None:
    server = scripted()
    server.on("GREETING", do=Drip("220 slowly", every=0.01))
    assert open_session(endpoint(server, deadlines={"greeting": 10.0})).ok


@pytest.mark.parametrize("line", [b"220-and more\r\n", b"x", b"220-\0\r\n", b"220 again\r\n", b"220\r\n"])
def test_a_reply_that_never_ends_is_given_up_soon(
    scripted: StartScripted, open_session: Open, line: bytes
) -> None:
    server = scripted()
    server.on("GREETING", do=Endless(line))
    tracemalloc.start()
    try:
        opened = open_session(endpoint(server, deadlines=LONG))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert opened.fault.kind is FaultKind.GARBLED
    assert opened.seconds < SOON
    assert peak < 5_000_000


@pytest.mark.parametrize(("size", "fits"), [(60_000, True), (70_000, False)])
@pytest.mark.parametrize("last", [b"220 end\r\n", b"220-more\r\n"])
def test_the_largest_reply(
    scripted: StartScripted, open_session: Open, size: int, fits: bool, last: bytes
) -> None:
    server = scripted()
    lines = b"220-" + b"x" * 94 + b"\r\n"
    server.on("GREETING", lines * (size // len(lines)) + last)
    if not fits:
        assert open_session(endpoint(server)).fault.kind is FaultKind.GARBLED
    elif last.startswith(b"220 "):
        assert open_session(endpoint(server)).ok
    else:
        late = open_session(endpoint(server, deadlines={"greeting": 0.2})).fault
        assert late.kind is FaultKind.TIMEOUT


def test_replies_that_nobody_asked_for_are_bounded(scripted: StartScripted, run: Run) -> None:
    """A server may also talk on while the connection is idle."""
    server = scripted()
    server.on("NOOP", do=Endless(b"250 " + b"x" * 100 + b"\r\n"))

    async def dialogue() -> None:
        connection = await Connection.open(endpoint(server))
        await connection._wire.write(b"NOOP\r\n", "NOOP", 1)
        while connection._wire.broken is None:
            await asyncio.sleep(0)
        assert len(connection._wire._replies) < 10_000
        assert connection._wire.broken.kind is FaultKind.GARBLED
        assert not connection.usable

    run(dialogue())


@pytest.mark.parametrize(
    "answer",
    [
        b"\x80\xff\x00\x1b[2J\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"22\r\n",
        b"2200 hello\r\n",
        b"220x hello\r\n",
        b"\r\n",
        b"\n",
        b"120 hello\r\n",
        b"620 hello\r\n",
        b"000 hello\r\n",
        b"220-hello\r\n250 hello\r\n",
        b"220 he\0llo\r\n",
        "２２０ hello\r\n".encode(),
        b" 220 hello\r\n",
        b"-220 hello\r\n",
    ],
)
def test_words_that_are_no_reply(scripted: StartScripted, open_session: Open, answer: bytes) -> None:
    server = scripted()
    server.on("GREETING", answer)
    fault = open_session(endpoint(server)).fault
    assert (fault.kind, fault.verb) == (FaultKind.GARBLED, "greeting")
    assert str(fault).isprintable()


@pytest.mark.parametrize("text", ["554 5.7.1 go away", "421 4.7.0 later", "450 busy", "354 what"])
def test_a_greeting_that_refuses(scripted: StartScripted, open_session: Open, text: str) -> None:
    server = scripted()
    server.on("GREETING", text)
    fault = open_session(endpoint(server)).fault
    assert (fault.kind, fault.verb) == (FaultKind.REFUSED, "greeting")
    assert str(fault.reply) == text


@pytest.mark.parametrize(
    "action", [Drop(), Drop(b"220 hel"), Reset(), script.HalfClose(), Drop(b"220-hello\r\n")]
)
def test_a_connection_that_is_closed_at_once(
    scripted: StartScripted, open_session: Open, action: script.Action
) -> None:
    server = scripted()
    server.on("GREETING", do=action)
    fault = open_session(endpoint(server)).fault
    assert fault.kind is FaultKind.DISCONNECTED
    assert fault.verb in ("connect", "greeting")  # a reset may overtake us


def test_cancelling_closes_the_socket(scripted: StartScripted, run: Run) -> None:
    server = scripted()
    server.on("EHLO", do=Hang())

    async def dialogue() -> None:
        opening = asyncio.create_task(Connection.open(endpoint(server)))
        while "EHLO" not in server.verbs:
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    run(dialogue())
    eventually(lambda: server.open_connections == 0)


# --- QUIT


@pytest.mark.parametrize(
    "action", [Hang(), Drop(), Reset(), script.Garbage(), script.Reply("500 what"), Endless(), Drip()]
)
def test_goodbye_never_raises_and_is_brief(scripted: StartScripted, run: Run, action: script.Action) -> None:
    server = scripted()
    server.on("QUIT", do=action)

    async def dialogue() -> float:
        connection = await Connection.open(endpoint(server, deadlines=LONG | {"quit": 0.2}))
        started = time.monotonic()
        await connection.quit()
        assert not connection.usable
        await connection.quit()
        return time.monotonic() - started

    assert run(dialogue()) < SOON
    eventually(lambda: server.open_connections == 0)
