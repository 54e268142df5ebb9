"""Servers that want no more than so many messages of a connection, or so many connections: no message is charged for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation
from tests.servers.scripted import Drop, ScriptedServer
from tests.servers.waiting import eventually

MESSAGES = 60


def servers(scripted: StartScripted) -> dict[str, ScriptedServer]:
    """Return them by the names of their accounts."""
    opensmtpd = scripted(spent=(5, "452 4.5.3 Too many recipients: Too many messages sent"))
    nodemailer = scripted(spent=(7, "451 4.7.0 Too many messages in this session"), chunking=True)
    exim = scripted(spent=(5, "421 Too many messages in this connection"))
    permanent = scripted(spent=(5, "550 5.7.0 Too many messages in this connection"))
    leaves = (
        scripted()
    )  # without CHUNKING: a machine that is slow enough would have its messages leave in one write
    leaves.on("DOT", do=Drop(None), skip=2)
    return {
        "opensmtpd": opensmtpd,
        "nodemailer": nodemailer,
        "exim": exim,
        "permanent": permanent,
        "leaves": leaves,
        "sendmail": scripted(most_at_once=3, tls=True),
    }


def test_all_is_sent_with_one_try_each(tmp_path: Path, scripted: StartScripted, ca_file: Path) -> None:
    there = servers(scripted)
    rows = ["key,email,app_password,host,port,security"]
    rows += [
        f"key-{name},{name}@postroom.example,secret,localhost,{each.port},{'starttls' if each.tls else 'none'}"
        for name, each in there.items()
    ]
    # So few connections that each of them is spent, and one more than Sendmail gives.
    settings = {"POSTROOM_SMTP_CA_FILE": str(ca_file), "POSTROOM_SMTP_CONNECTIONS": "4"}
    with Installation(tmp_path, rows, **settings) as service:
        for name in there:  # one account after the other, so that no connection idles until it is closed
            for number in range(MESSAGES):
                service.post(key=f"key-{name}", subject=f"message {number}")
        sent = "SELECT count(*) FROM job WHERE kind = 'delivery' AND state = 'done'"
        eventually(lambda: service.query(sent) == [(MESSAGES * len(there),)], 100, "all to be sent")
        tried_again = service.query(
            "SELECT delivery.forward_path, event.kind, event.detail FROM job JOIN event USING (message_id) "
            "JOIN delivery USING (message_id) WHERE job.attempt > 1"
        )
        assert not tried_again, "no try was counted"
        kinds = service.query("SELECT DISTINCT kind FROM event ORDER BY kind")
        assert kinds == [("accepted",), ("sent",)]
        assert service.query("SELECT DISTINCT state FROM account") == [("active",)]
        said = [line for line in service.log().splitlines() if "account exim@" in line]
        assert "421 Too many messages in this connection" in "".join(said)
        assert len(said) == 1, "what repeats is said once a minute"
    for name, server in there.items():
        subjects = Counter(each.data.split(b"\r\n\r\n")[0] for each in server.messages)
        assert (len(subjects), set(subjects.values())) == (MESSAGES, {1}), name
    assert not there["sendmail"].auth_in_plain_text


def test_what_a_fresh_connection_says_too_is_believed(tmp_path: Path, scripted: StartScripted) -> None:
    """The others do not wait for it, nor are their connections given up for it."""
    server = scripted()
    server.on("MAIL", "550 5.7.1 not this one", match="SIZE=90")  # a text of some 90,000 octets
    rows = ["key,email,app_password,host,port,security,connections"]
    rows += [f"{KEY},me@postroom.example,secret,localhost,{server.port},none,2"]
    with Installation(tmp_path, rows) as service:
        service.wait_for(service.send())
        ids = [service.send(body="x\n" * (30_000 if number == 5 else 1500)) for number in range(20)]
        for number, request_id in enumerate(ids):
            service.wait_for(request_id, "failed" if number == 5 else "sent")
        assert service.query("SELECT DISTINCT attempt FROM job WHERE kind = 'delivery'") == [(1,)]
    assert len(server.messages) == 20
    assert len(server.connections) <= 4


def test_an_account_that_has_not_worked_yet_waits_while_its_server_is_full(
    tmp_path: Path, scripted: StartScripted, ca_file: Path
) -> None:
    server = scripted(most_at_once=0, tls=True)
    rows = ["key,email,app_password,host,port,security"]
    rows += [f"{KEY},me@postroom.example,secret,localhost,{server.port},starttls"]
    settings = {"POSTROOM_SMTP_CA_FILE": str(ca_file), "POSTROOM_RETRY_SCHEDULE": "300ms"}
    with Installation(tmp_path, rows, **settings) as service:
        request_id = service.send()
        service.wait_for(request_id, "deferred")
        assert "452 4.3.2 Too many open connections." in service.status(request_id)
        assert service.query("SELECT state FROM account") == [("active",)]
        server.most_at_once = None
        service.wait_for(request_id)
