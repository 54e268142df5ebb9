"""The servers that other tests rely on do what they say."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartScripted
from tests.servers import programs
from tests.servers.memcached import Memcached
from tests.servers.postfix import Postfix
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis
from tests.servers.scripted import (
    Action,
    Also,
    BareHandshake,
    Drip,
    Drop,
    Endless,
    Garbage,
    HalfClose,
    Hang,
    Late,
    Reply,
    Reset,
    ScriptedServer,
)
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

ALICE = "alice@postroom.example"
MAIL = b"Subject: hello\r\nMessage-ID: <1@postroom.example>\r\n\r\nFirst\r\n.dotted\r\n..twice\r\n"


def login(postfix: Postfix, client_tls: ssl.SSLContext) -> smtplib.SMTP:
    client = smtplib.SMTP(postfix.host, postfix.port, timeout=60)
    client.starttls(context=client_tls)
    client.login(ALICE, postfix.users[ALICE])
    return client


# --- Postfix


@pytest.mark.postfix
def test_postfix_takes_mail_after_starttls_and_auth(postfix: Postfix, client_tls: ssl.SSLContext) -> None:
    with login(postfix, client_tls) as client:
        client.sendmail(ALICE, ["bob@postroom.example", "carol@elsewhere.example"], MAIL)
    mails = postfix.mails(2)
    assert all(MAIL.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n") in mail for mail in mails)
    received = {(m["X-Original-To"], m["Delivered-To"], m["Return-Path"]) for m in postfix.messages(2)}
    assert received == {(to, to, f"<{ALICE}>") for to in ("bob@postroom.example", "carol@elsewhere.example")}


@pytest.mark.postfix
def test_postfix_takes_mail_over_tls_from_the_first_byte(
    postfix: Postfix, client_tls: ssl.SSLContext
) -> None:
    with smtplib.SMTP_SSL(postfix.host, postfix.tls_port, context=client_tls, timeout=60) as client:
        client.user, client.password = ALICE, postfix.users[ALICE]
        client.ehlo()
        assert client.auth("LOGIN", client.auth_login)[0] == 235
        client.sendmail(ALICE, ["bob@postroom.example"], MAIL)
    postfix.mails(1)


@pytest.mark.postfix
def test_postfix_takes_utf8_addresses(postfix: Postfix, client_tls: ssl.SSLContext) -> None:
    with login(postfix, client_tls) as client:
        client.sendmail(ALICE, ["jürgen@müller.example"], MAIL, mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    assert "Delivered-To: jürgen@müller.example".encode() in postfix.mails(1)[0]


@pytest.mark.postfix
def test_postfix_refuses_a_wrong_password(postfix: Postfix, client_tls: ssl.SSLContext) -> None:
    with smtplib.SMTP(postfix.host, postfix.port, timeout=60) as client:
        client.starttls(context=client_tls)
        with pytest.raises(smtplib.SMTPAuthenticationError) as refusal:
            client.login(ALICE, "wrong")
    assert refusal.value.smtp_code == 535


@pytest.mark.postfix
def test_postfix_offers_no_auth_and_takes_no_mail_before_tls(postfix: Postfix) -> None:
    with smtplib.SMTP(postfix.host, postfix.port, timeout=60) as client:
        client.ehlo()
        assert client.has_extn("starttls")
        assert not client.has_extn("auth")
        assert client.docmd("AUTH", "PLAIN AGFsaWNlAHNlY3JldA==")[0] in (503, 530)
        assert client.mail(ALICE)[0] == 530


@pytest.mark.postfix
def test_postfix_relays_nothing_without_auth(postfix: Postfix, client_tls: ssl.SSLContext) -> None:
    with smtplib.SMTP(postfix.host, postfix.port, timeout=60) as client:
        client.starttls(context=client_tls)
        client.ehlo()
        client.mail(ALICE)
        assert client.rcpt("bob@postroom.example")[0] == 554


@pytest.mark.postfix
@pytest.mark.parametrize(("name", "code"), [("unknown-1", 550), ("defer-1", 450), ("full-1", 452)])
def test_postfix_refuses_recipients_by_name(
    postfix: Postfix, client_tls: ssl.SSLContext, name: str, code: int
) -> None:
    with login(postfix, client_tls) as client:
        refused = client.sendmail(ALICE, [f"{name}@postroom.example", "bob@postroom.example"], MAIL)
    assert [reply[0] for reply in refused.values()] == [code]
    postfix.mails(1)


@pytest.mark.postfix
def test_postfix_refuses_a_bare_newline(postfix: Postfix, client_tls: ssl.SSLContext) -> None:
    with login(postfix, client_tls) as client:
        client.mail(ALICE)
        client.rcpt("bob@postroom.example")
        assert client.docmd("DATA")[0] == 354
        client.send(b"Subject: smuggled\r\n\r\none\n.\r\ntwo\r\n.\r\n")
        assert client.getreply()[0] >= 500
    assert postfix.mails() == []


@pytest.mark.postfix
def test_postfix_changes_a_password_and_starts_again_on_its_port(
    postfix: Postfix, client_tls: ssl.SSLContext
) -> None:
    postfix.set_password("dora@postroom.example", "first")
    postfix.set_password("dora@postroom.example", "second")
    port = postfix.port
    postfix.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    postfix.start()
    assert postfix.port == port
    with smtplib.SMTP(postfix.host, port, timeout=60) as client:
        client.starttls(context=client_tls)
        assert client.login("dora@postroom.example", "second")[0] == 235
    postfix.set_password("dora@postroom.example", "third")
    with smtplib.SMTP(postfix.host, port, timeout=60) as client:
        client.starttls(context=client_tls)
        assert client.login("dora@postroom.example", "third")[0] == 235


# --- Redis, Memcached, requirements


@pytest.mark.redis
def test_redis_answers_and_comes_back_on_its_port(redis_server: Redis) -> None:
    def ping() -> bool:
        return programs.answers(redis_server.host, redis_server.port, b"PING\r\n", b"+PONG\r\n")

    assert ping()
    assert redis_server.uri == f"redis://127.0.0.1:{redis_server.port}/0"
    redis_server.stop()
    assert not ping()
    redis_server.start()
    assert ping()


@pytest.mark.memcached
def test_memcached_answers_and_comes_back_on_its_port(memcached_server: Memcached) -> None:
    def version() -> bool:
        return programs.answers(memcached_server.host, memcached_server.port, b"version\r\n", b"VERSION 1.")

    assert version()
    assert memcached_server.uri == f"memcached://127.0.0.1:{memcached_server.port}"
    memcached_server.stop()
    assert not version()
    memcached_server.start()
    assert version()


def test_a_missing_program_is_a_skip_that_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PATH", "/nowhere")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("POSTROOM_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="Debian package missing: dovecot-core postfix"):
        programs.require("postfix", "dovecot")


@pytest.mark.parametrize("variable", ["CI", "POSTROOM_REQUIRE_SERVERS"])
def test_a_missing_program_is_a_failure_where_it_is_promised(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setattr(programs, "PATH", "/nowhere")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(pytest.fail.Exception, match="redis-server"):
        programs.require("redis-server")


def test_workers_of_xdist_take_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    taken: list[int] = []
    for number in range(3):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        assert programs.free_port() in programs.own_ports()
        taken += programs.own_ports()
    assert len(set(taken)) == len(taken) > 19_000
    assert max(taken) < 32_000


def test_postgres_takes_another_port_where_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    free = programs.free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr("tests.servers.postgres.free_port", lambda: next(ports))
        with Postgres() as server:
            assert server.port == free


def test_eventually_gives_up_with_its_message() -> None:
    with pytest.raises(AssertionError, match="in vain for the moon"):
        eventually(lambda: False, 0.05, "the moon")


# --- the scripted server


def send(server: ScriptedServer, recipients: list[str], data: bytes = MAIL) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=60) as client:
        client.sendmail(ALICE, recipients, data)


def connect(server: ScriptedServer, timeout: float = 60.0) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=timeout)


def read_all(connection: socket.socket) -> bytes:
    blocks = []
    while block := connection.recv(65536):
        blocks.append(block)
    return b"".join(blocks)


def test_scripted_behaves_by_default(scripted: StartScripted, client_tls: ssl.SSLContext) -> None:
    server = scripted(tls=True, users={ALICE: "secret"}, auth_required=True)
    with smtplib.SMTP("localhost", server.port, timeout=60) as client:
        client.starttls(context=client_tls)
        client.login(ALICE, "secret")
        client.sendmail(ALICE, ["bob@postroom.example", "carol@postroom.example"], MAIL)
    (mail,) = server.messages
    assert (mail.reverse_path, mail.forward_paths) == (
        ALICE,
        ["bob@postroom.example", "carol@postroom.example"],
    )
    assert mail.data == MAIL
    assert mail.wire == MAIL.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    assert (mail.tls, mail.username, mail.chunked) == (True, ALICE, False)
    assert server.verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
    assert [(login.mechanism, login.secret, login.accepted, login.tls) for login in server.logins] == [
        ("PLAIN", "secret", True, True)
    ]
    assert not server.auth_in_plain_text
    assert server.plaintext.endswith(b"STARTTLS\r\n")
    eventually(lambda: server.open_connections == 0)


def test_scripted_notes_credentials_in_plain_text(scripted: StartScripted) -> None:
    server = scripted(users={ALICE: "secret"}, auth=["LOGIN"])
    with smtplib.SMTP(server.host, server.port, timeout=60) as client:
        client.login(ALICE, "secret")
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(ALICE, "wrong")
    assert [login.accepted for login in server.logins] == [True, False]
    assert server.auth_in_plain_text


def test_scripted_begins_with_tls(scripted: StartScripted, client_tls: ssl.SSLContext) -> None:
    server = scripted(tls=True, implicit_tls=True)
    with smtplib.SMTP_SSL("localhost", server.port, context=client_tls, timeout=60) as client:
        client.login(ALICE, "any")
    assert server.plaintext == b""


def test_scripted_notes_that_a_client_refused_its_certificate(scripted: StartScripted) -> None:
    server = scripted(tls=True)
    with smtplib.SMTP("localhost", server.port, timeout=60) as client:
        with pytest.raises(ssl.SSLCertVerificationError):
            client.starttls(context=ssl.create_default_context())
        client.close()
    assert eventually(lambda: server.connections[0].tls_error)


def test_scripted_knows_xoauth2(scripted: StartScripted) -> None:
    server = scripted(users={ALICE: "token"}, auth=["XOAUTH2"])

    def xoauth2(token: str) -> Callable[[str | None], str]:
        def answer(challenge: str | None = None) -> str:
            return "" if challenge else f"user={ALICE}\1auth=Bearer {token}\1\1"

        return answer

    with smtplib.SMTP(server.host, server.port, timeout=60) as client:
        client.ehlo()
        assert client.auth("XOAUTH2", xoauth2("token"))[0] == 235  # type: ignore[arg-type]
        with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
            client.auth("XOAUTH2", xoauth2("old"))  # type: ignore[arg-type]


def test_scripted_takes_chunks_and_pipelines(scripted: StartScripted) -> None:
    server = scripted(chunking=True)
    with connect(server) as connection:
        connection.sendall(
            b"EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 5\r\n\r\n.\r\nBDAT 3 LAST\r\nabcQUIT\r\n"
        )
        replies = read_all(connection)
    assert b"250-CHUNKING\r\n" in replies
    assert replies.endswith(b"250 2.0.0 5 octets\r\n250 2.0.0 queued as 1\r\n221 2.0.0 Bye\r\n")
    assert server.messages[0].chunked
    assert server.messages[0].data == b"\r\n.\r\nabc"


def test_scripted_answers_by_occurrence_and_by_content(scripted: StartScripted) -> None:
    server = scripted()
    server.on("RCPT", reply="550 5.1.1 nobody", match="<bob@")
    server.on("RCPT", reply="452 4.5.3 too many", skip=1, times=1)
    with smtplib.SMTP(server.host, server.port, timeout=60) as client:
        people = [f"{name}@postroom.example" for name in ("alice", "bob", "charlie", "dora")]
        refused = client.sendmail(ALICE, people, MAIL)
    assert {name: code for name, (code, _) in refused.items()} == {people[1]: 550, people[2]: 452}
    assert server.messages[0].forward_paths == [people[0], people[3]]


def test_scripted_keeps_the_text_of_a_mail_it_refused(scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", reply="451 4.3.0 later", times=1)
    with pytest.raises(smtplib.SMTPDataError):
        send(server, ["bob@postroom.example"])
    assert [mail.accepted for mail in server.transactions] == [False]
    send(server, ["bob@postroom.example"])
    assert [mail.accepted for mail in server.transactions] == [False, True]
    assert len(server.connections) == 2


def test_scripted_drops_at_the_dot_without_or_with_its_answer(scripted: StartScripted) -> None:
    server = scripted()
    server.on("DOT", do=Drop(), times=1)
    server.on("DOT", do=Drop(None), times=1)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(server, ["bob@postroom.example"])
    with smtplib.SMTP(server.host, server.port, timeout=60) as client:
        client.sendmail(ALICE, ["bob@postroom.example"], MAIL)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()
    assert [mail.reply for mail in server.transactions] == [None, b"250 2.0.0 queued as 2\r\n"]


def test_scripted_drops_in_the_middle_of_a_mail(scripted: StartScripted) -> None:
    server = scripted()
    server.on("BODY", do=Drop("421 4.3.2 going down"), at=100_000)
    with pytest.raises((smtplib.SMTPException, OSError)):
        send(server, ["bob@postroom.example"], MAIL + b"x" * 10_000_000)
    assert server.transactions == []


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Reply("250 2.0.0 O\0K"), b"250 2.0.0 O\0K\r\n"),
        (Reply(b"220-half a rep", after=0.05), b"220-half a rep"),
        (Also("250 unasked"), b"220 scripted.example ESMTP\r\n250 unasked\r\n"),
        (Late(0.05), b"220 scripted.example ESMTP\r\n"),
        (Drip("220 slow", every=0.001), b"220 slow\r\n"),
        (Garbage(), Garbage().data),
    ],
)
def test_scripted_misbehaves_and_goes_on(scripted: StartScripted, action: Action, expected: bytes) -> None:
    server = scripted()
    server.on("GREETING", do=action)
    with connect(server) as connection:
        connection.sendall(b"QUIT\r\n")
        assert read_all(connection) == expected + b"221 2.0.0 Bye\r\n"


def test_scripted_answers_before_the_command(scripted: StartScripted) -> None:
    server = scripted()
    server.early("RCPT", "250 2.1.5 early")
    with connect(server) as connection:
        connection.sendall(b"MAIL FROM:<>\r\n")
        seen = b""
        while not seen.endswith(b"early\r\n"):
            seen += connection.recv(100)
    assert seen == b"220 scripted.example ESMTP\r\n250 2.1.0 Sender OK\r\n250 2.1.5 early\r\n"
    assert server.verbs == ["MAIL"]


def test_scripted_hangs_until_the_client_goes(scripted: StartScripted) -> None:
    server = scripted()
    server.on("MAIL", do=Hang())
    with smtplib.SMTP(server.host, server.port, timeout=0.1) as client:
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            client.sendmail(ALICE, ["bob@postroom.example"], MAIL)
        client.close()
    eventually(lambda: server.open_connections == 0)


def test_scripted_stops_reading(scripted: StartScripted) -> None:
    server = scripted(receive_buffer=4096)
    server.on("GREETING", do=Hang(None, read=False))
    with connect(server, timeout=0.2) as connection:
        assert connection.recv(100).startswith(b"220 ")
        with pytest.raises(TimeoutError):
            connection.sendall(b"x" * 50_000_000)


def test_scripted_resets(scripted: StartScripted) -> None:
    server = scripted()
    server.on("EHLO", do=Reset())
    with connect(server) as connection:
        assert connection.recv(100).startswith(b"220 ")
        connection.sendall(b"EHLO me\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(100)


def test_scripted_closes_its_half(scripted: StartScripted) -> None:
    server = scripted()
    server.on("EHLO", do=HalfClose("250 half"))
    with connect(server) as connection:
        connection.sendall(b"EHLO me\r\n")
        assert read_all(connection).endswith(b"250 half\r\n")
        connection.sendall(b"still open\r\n")
        eventually(lambda: b"still open" in server.plaintext)


def test_scripted_never_ends_a_reply(scripted: StartScripted) -> None:
    server = scripted()
    server.on("EHLO", do=Endless())
    with connect(server) as connection:
        connection.sendall(b"EHLO me\r\n")
        seen = 0
        while seen < 2_000_000:
            seen += len(connection.recv(65536))
    eventually(lambda: server.open_connections == 0)


def test_scripted_injects_a_reply_before_tls(scripted: StartScripted, client_tls: ssl.SSLContext) -> None:
    server = scripted(tls=True)
    server.on("STARTTLS", do=Reply("220 go\r\n250 injected"))
    with connect(server) as connection:
        connection.sendall(b"STARTTLS\r\n")
        seen = b""
        while not seen.endswith(b"injected\r\n"):
            seen += connection.recv(100)
        with client_tls.wrap_socket(connection, server_hostname="localhost") as secure:
            secure.sendall(b"NOOP\r\n")
            assert secure.recv(100) == b"250 2.0.0 OK\r\n"


def test_scripted_speaks_no_tls_after_its_220(scripted: StartScripted, client_tls: ssl.SSLContext) -> None:
    server = scripted(tls=True)
    server.on("STARTTLS", do=BareHandshake())
    with smtplib.SMTP("localhost", server.port, timeout=60) as client:
        with pytest.raises(ssl.SSLError):
            client.starttls(context=client_tls)
        client.close()


def test_scripted_comes_back_on_its_port_and_stops_with_open_connections(scripted: StartScripted) -> None:
    server = scripted()
    port = server.port
    with connect(server) as connection:
        assert connection.recv(100).startswith(b"220 ")
        server.stop()
        assert connection.recv(100) == b""
    server.start()
    assert server.port == port
    send(server, ["bob@postroom.example"])
    assert len(server.wait_for(1)) == 1


# --- the sink


def test_the_sink_writes_its_ledger_before_it_answers(sink: Sink) -> None:
    with smtplib.SMTP(sink.host, sink.port, timeout=60) as client:
        client.sendmail(ALICE, ["bob@postroom.example", "carol@postroom.example"], MAIL)
        assert sink.ledger() == [
            ("<1@postroom.example>", "bob@postroom.example"),
            ("<1@postroom.example>", "carol@postroom.example"),
        ]
    assert sink.count() == 1


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_the_sink_takes_pipelined_mail_cut_anywhere(tmp_path: Path, size: int) -> None:
    head = b"EHLO me\r\n"
    mail = (
        b'MAIL FROM:<a@b.example> SIZE=1\r\nRCPT TO:<"x y"@d.example>\r\nRCPT TO:<%d@d.example>\r\nDATA\r\n'
        b"message-id:\r\n <%d>\r\nX: 1\r\n\r\nMessage-ID: <wrong>\r\n..\r\n.\r\n"
    )
    empty = b"MAIL FROM:<>\r\nRCPT TO:<e@d.example>\r\nDATA\r\n.\r\n"
    chunks = (
        b"MAIL FROM:<>\r\nRCPT TO:<f@d.example>\r\nBDAT 14\r\nMessage-ID: <cBDAT 9 LAST\r\n>\r\n\r\n.\r\n\r"
    )
    text = head + b"".join(mail % (n, n) for n in range(5)) + empty + chunks + b"\nRSET\r\nQUIT\r\n"
    with Sink(tmp_path / "ledger", chunking=True) as sink:
        with socket.create_connection((sink.host, sink.port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(text), size):
                connection.sendall(text[start : start + size])
            replies = read_all(connection)
        assert replies.count(b"354 ") == 6
        assert replies.endswith(b"221 2.0.0 Bye\r\n")
        assert b"250 CHUNKING\r\n" in replies
        assert sink.count() == 7
        expected = [(f"<{n}>", to) for n in range(5) for to in ('"x y"@d.example', f"{n}@d.example")]
        assert sink.ledger() == [*expected, ("-", "e@d.example"), ("<c>", "f@d.example")]


def test_the_sink_counts_without_a_ledger() -> None:
    with Sink() as sink, smtplib.SMTP(sink.host, sink.port, timeout=60) as client:
        for _ in range(20):
            client.sendmail(ALICE, ["bob@postroom.example"], MAIL)
        assert sink.count() == 20


def test_a_killed_sink_comes_back_with_its_ledger(sink: Sink) -> None:
    assert sink.ledger_file is not None
    sink.ledger_file.write_bytes(b"<0@x> a@b\n<1@x> half")
    port = sink.port
    sink.stop(9)
    sink.start()
    assert sink.port == port
    assert sink.ledger() == [("<0@x>", "a@b")]
    with smtplib.SMTP(sink.host, sink.port, timeout=60) as client:
        client.sendmail(ALICE, ["bob@postroom.example"], MAIL)
    assert sink.wait_for(2)[-1] == ("<1@postroom.example>", "bob@postroom.example")
