"""Against a real Postfix with Dovecot's SASL, as people run it."""

from __future__ import annotations

import base64
import ssl

import pytest

from postroom.core.account import Secret, Security
from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Blame, Deferred, Failed, Sent
from postroom.smtp.client import Connection
from postroom.smtp.deliver import outcome_of
from postroom.smtp.endpoint import Endpoint
from postroom.smtp.tape import Tape
from postroom.smtp.transcript import Envelope
from tests.servers.postfix import Postfix
from tests.smtp.dialog import BOB, USER, body_of, envelope, nothing, run, verdict

pytestmark = pytest.mark.postfix


def at(
    postfix: Postfix,
    security: Security,
    tls: ssl.SSLContext,
    password: str = "",
    *,
    pipelining: bool = True,
    chunking: bool = True,
) -> Endpoint:
    return Endpoint(
        host=postfix.host,
        port=postfix.tls_port if security is Security.TLS else postfix.port,
        security=security,
        username=USER,
        password=Secret(password or postfix.users[USER]),
        tls=tls,
        pipelining=pipelining,
        chunking=chunking,
    )


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
def test_ten_mails_over_one_connection(
    postfix: Postfix, client_tls: ssl.SSLContext, security: Security
) -> None:
    mimes = [f"Subject: {n}\r\n\r\n.\r\n..\r\n.{n}\r\n".encode() for n in range(10)]

    async def dialogue() -> None:
        connection = await Connection.open(at(postfix, security, client_tls))
        assert connection.authenticated
        for mime in mimes:
            transcript = await connection.transact(envelope(mime=mime), nothing)
            assert verdict(outcome_of(transcript, BOB)) == (Sent, None)
            assert connection.usable
        await connection.quit()

    run(dialogue())
    arrived = postfix.mails(expected=10)
    assert sorted(mail.partition(b"\n\n")[2] for mail in arrived) == sorted(
        mime.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n") for mime in mimes
    )


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("chunking", [True, False])
def test_mail_follows_mail_by_every_way(
    postfix: Postfix, client_tls: ssl.SSLContext, pipelining: bool, chunking: bool
) -> None:
    subjects = [f"{n} {pipelining} {chunking}" for n in range(20)]
    sizes = [20, 70_000, 20, 400_000, 20]
    texts = [
        f"Subject: {subject}\r\n\r\n.\r\n".encode() + body_of(sizes[n % 5])
        for n, subject in enumerate(subjects)
    ]

    async def dialogue() -> None:
        where = at(postfix, Security.STARTTLS, client_tls, pipelining=pipelining, chunking=chunking)
        connection = await Connection.open(where)
        for text in texts:
            transcript = await connection.transact(envelope(mime=text), nothing)
            assert verdict(outcome_of(transcript, BOB)) == (Sent, None)
            assert (transcript.data is None) == chunking
            assert connection.usable
        await connection.quit()

    run(dialogue())
    arrived = {str(message["Subject"]): message for message in postfix.messages(expected=20)}
    assert sorted(arrived) == sorted(subjects)
    raw = sorted(mail.partition(b"\n\n")[2] for mail in postfix.mails(expected=20))
    assert raw == sorted(text.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n") for text in texts)


def test_recipients_that_postfix_refuses(postfix: Postfix, client_tls: ssl.SSLContext) -> None:
    unknown, defer, full = (f"{name}@x.example" for name in ("unknown", "defer", "full"))

    async def dialogue() -> None:
        connection = await Connection.open(at(postfix, Security.STARTTLS, client_tls))
        some = await connection.transact(envelope(unknown, defer, full, BOB), nothing)
        assert verdict(outcome_of(some, unknown)) == (Failed, Blame.RECIPIENT)
        assert verdict(outcome_of(some, defer)) == (Deferred, Blame.RECIPIENT)
        assert verdict(outcome_of(some, full)) == (Deferred, Blame.RECIPIENT)
        assert verdict(outcome_of(some, BOB)) == (Sent, None)
        none = await connection.transact(envelope(unknown, defer), nothing)
        assert verdict(outcome_of(none, unknown)) == (Failed, Blame.RECIPIENT)
        assert connection.usable
        again = await connection.transact(Envelope(USER, (BOB,), b"Subject: again\r\n\r\n"), nothing)
        assert verdict(outcome_of(again, BOB)) == (Sent, None)
        await connection.quit()

    run(dialogue())
    assert len(postfix.mails(expected=2)) == 2


def test_a_wrong_password(postfix: Postfix, client_tls: ssl.SSLContext) -> None:
    async def dialogue() -> SMTPFault:
        with pytest.raises(SMTPFault) as caught:
            await Connection.open(at(postfix, Security.STARTTLS, client_tls, "wrong"))
        return caught.value

    fault = run(dialogue())
    assert (fault.kind, fault.verb) == (FaultKind.REFUSED, "AUTH")
    assert fault.reply is not None
    assert fault.reply.code == 535


def test_a_ca_that_is_not_ours(postfix: Postfix) -> None:
    async def dialogue() -> SMTPFault:
        with pytest.raises(SMTPFault) as caught:
            await Connection.open(at(postfix, Security.STARTTLS, ssl.create_default_context()))
        return caught.value

    assert run(dialogue()).kind is FaultKind.INSECURE


def test_nothing_that_was_logged_in_with_is_in_a_dialogue(
    postfix: Postfix, client_tls: ssl.SSLContext
) -> None:
    async def dialogue() -> tuple[str, str]:
        connection = await Connection.open(at(postfix, Security.STARTTLS, client_tls))
        await connection.transact(envelope(), nothing)
        sent = connection.tape.take()
        await connection.quit()
        refused = Tape()
        with pytest.raises(SMTPFault):
            await Connection.open(at(postfix, Security.STARTTLS, client_tls, "wrong secret"), refused)
        return sent.dialogue or "", refused.take().dialogue or ""

    sent, refused = run(dialogue())
    password = at(postfix, Security.STARTTLS, client_tls).password.reveal()
    for text, secret in ((sent, password), (refused, "wrong secret")):
        assert "C: AUTH PLAIN [struck]" in text
        assert secret not in text
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in text
        assert "*: TLSv1." in text
    assert "S: 250-STARTTLS" in sent
    assert "LAST" in sent
    assert "Hello." not in sent
    assert "S: 535 5.7.8" in refused
