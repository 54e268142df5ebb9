"""Servers that refuse, reset, swallow, half-accept or answer late, and names that do not resolve.

Rows 11, 13, 14 and 18 of the fault catalogue, seen from outside a whole installation.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from postroom.core.message import Submission
from postroom.intake.accept import accept
from postroom.store.accounts import Accounts
from postroom.store.store import open_store
from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation
from tests.servers.netns import BLACK_HOLE, NO_ERROR, NXDOMAIN, SERVFAIL, FakeResolver, in_namespace
from tests.servers.programs import free_port
from tests.servers.scripted import Held, Reset
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

HEADER = "key,email,app_password,host,port,security"
BAD = f"bad-{KEY}"
SHORTEST_WAIT_S = 0.18  # 200 ms, less what jitter takes off


def row(port: int, key: str = KEY, host: str = "127.0.0.1", password: str = "") -> str:
    return f"{key},{key[:3]}@postroom.example,{password},{host},{port},none"


# --- Row 11: one account's server is away. What it costs the others in throughput is `python -m bench --scenario fairness`


def good_mail_passes(service: Installation, count: int = 60) -> None:
    for request_id in [service.send() for _ in range(count)]:
        service.wait_for(request_id)


def check_that_tries_are_spaced(folder: Path, bad_row: str, reason: str) -> None:
    """An account that cannot connect is tried by the schedule, however much of its mail waits, and others' mail goes."""
    with (
        Sink() as sink,
        Installation(
            folder / "service",
            [HEADER, row(sink.port), bad_row],
            POSTROOM_RETRY_SCHEDULE="200ms",
            POSTROOM_SMTP_ALLOW_PLAINTEXT="true",
        ) as service,
    ):
        began = time.monotonic()
        bad = [service.send(key=BAD) for _ in range(50)]
        assert reason in service.wait_for(bad[0], "deferred")
        good_mail_passes(service)
        [[dials]] = service.query("SELECT count(DISTINCT started_at) FROM attempt WHERE outcome = 'deferred'")
        assert dials <= (time.monotonic() - began) / SHORTEST_WAIT_S + 2
        states = service.query("SELECT DISTINCT state FROM delivery WHERE reason IS NOT NULL")
        assert states == [("pending",)]


def test_a_closed_port_is_tried_by_the_schedule_and_delays_nobody_else(tmp_path: Path) -> None:
    check_that_tries_are_spaced(tmp_path, row(free_port(), BAD), "Connection refused")


def test_a_server_that_resets_is_tried_by_the_schedule_and_delays_nobody_else(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    server.on("GREETING", do=Reset())
    check_that_tries_are_spaced(tmp_path, row(server.port, BAD), "Connection reset by peer")


@in_namespace
def test_a_black_hole_delays_nobody_else(tmp_path: Path) -> None:
    """All the others' mail goes out while the first connection into the hole is still being tried."""
    with (
        Sink() as sink,
        Installation(
            tmp_path,
            [HEADER, row(sink.port), row(25, BAD, BLACK_HOLE)],
            POSTROOM_SMTP_TIMEOUT="120s",
            POSTROOM_SMTP_ALLOW_PLAINTEXT="true",
        ) as service,
    ):
        bad = [service.send(key=BAD) for _ in range(50)]
        service.wait_for(bad[0], "sending")
        good_mail_passes(service)
        assert service.status(bad[0]) == "sending"
        assert service.query("SELECT count(*) FROM attempt WHERE outcome <> 'sent'") == [(0,)]


@in_namespace
def test_a_black_hole_is_a_deferral(tmp_path: Path) -> None:
    settings = {"POSTROOM_SMTP_TIMEOUT": "1s", "POSTROOM_SMTP_ALLOW_PLAINTEXT": "true"}
    with Installation(tmp_path, [HEADER, row(25, host=BLACK_HOLE)], **settings) as service:
        assert "no answer within 1 s" in service.wait_for(service.send(), "deferred")


# --- Rows 13 and 14: late answers and partial recipients


def test_an_answer_after_our_time_out_is_in_doubt_and_no_other_mail_s(
    tmp_path: Path, scripted: StartScripted
) -> None:
    server = scripted()
    given_up = threading.Event()
    server.on("DOT", do=Held(given_up), times=1)
    server.on("DOT", reply="554 5.6.0 not this one", times=1)
    # One command at a time: a refusal in a group is asked about once more.
    rows = [HEADER + ",connections,pipelining", row(server.port) + ",1,no"]
    settings = {"POSTROOM_RETRY_SCHEDULE": "15s", "POSTROOM_SMTP_DOT_TIMEOUT": "2s"}
    with Installation(tmp_path, rows, **settings) as service:
        late = service.send()
        assert "did not say whether it took the message" in service.wait_for(late, "deferred")
        refused = service.send()
        assert "554 5.6.0 not this one" in service.wait_for(refused, "failed")
        given_up.set()
        eventually(lambda: len(server.messages) >= 1, message="the late answer")
        service.wait_for(late, timeout=40)
        answer = service.client.call("GET", f"/email-status/{late}").document
        assert answer == {"request_id": late, "status": "sent", "possible_duplicate": True}
        assert "possible_duplicate" not in service.client.call("GET", f"/email-status/{refused}").document
        assert service.query("SELECT kind FROM event WHERE message_id = 1 ORDER BY id") == [
            ("accepted",),
            ("in_doubt",),
            ("possible_duplicate",),
            ("sent",),
        ]
        copies = [each.data for each in server.transactions]
        assert copies[0] == copies[2] != copies[1]
        numbers = [bool(each.transactions) for each in server.connections]
        assert numbers.count(True) >= 2, "the connection that owed an answer was not used again"


def test_each_recipient_has_a_fate_of_its_own(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    server.on("RCPT", reply="550 5.1.1 no such user", match="second@")
    server.on("RCPT", reply="452 4.2.2 mailbox full", match="third@", times=1)
    with Installation(tmp_path, [HEADER, row(server.port)], POSTROOM_RETRY_SCHEDULE="1s") as service:
        request_id = accept_for(service, "first@x.example", "second@x.example", "third@x.example")
        assert "452 4.2.2 mailbox full" in service.wait_for(request_id, "deferred")
        states = "SELECT forward_path, state, reply_code FROM delivery ORDER BY id"
        assert service.query(states) == [
            ("first@x.example", "sent", 250),
            ("second@x.example", "failed", 550),
            ("third@x.example", "pending", 452),
        ]
        status = service.wait_for(request_id, "failed")
        assert "second@x.example: 550 5.1.1 no such user" in status
        assert [state for _, state, _ in service.query(states)] == ["sent", "failed", "sent"]
        assert [each.forward_paths for each in server.transactions] == [
            ["first@x.example"],
            ["third@x.example"],
        ]
        tried = [line for line in server.commands if line.startswith("RCPT")]
        assert len(tried) == 4, "only the third was tried again"
        assert server.transactions[0].data == server.transactions[1].data


def accept_for(service: Installation, *recipients: str) -> str:
    """Accept one mail for several recipients, which the seed's HTTP call has no field for."""
    store = open_store(f"sqlite:///{service.folder / 'var/postroom.db'}", create=False)
    try:
        submission = Submission(store.read(Accounts.all)[0].account, recipients, "A subject", "A body")
        return accept(store, submission, most_bytes=10_000).request_id
    finally:
        store.close()


# --- Row 18: names


def dns_installation(folder: Path, port: int, *names: str) -> Installation:
    rows = [HEADER, *(row(port, f"{name[:3]}-{KEY}", name, "secret") for name in names)]
    settings = {
        "POSTROOM_RETRY_SCHEDULE": "300ms",
        "POSTROOM_SMTP_TIMEOUT": "10s",
        "POSTROOM_SMTP_ALLOW_PLAINTEXT": "true",
    }
    return Installation(folder, rows, **settings)


@in_namespace
def test_a_resolver_in_trouble_only_delays(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    answers: dict[str, int | None] = {"ill.example": SERVFAIL, "dumb.example": None, "good.example": NO_ERROR}
    with (
        FakeResolver(answers) as resolver,
        dns_installation(tmp_path, server.port, *answers) as service,
    ):
        ill = service.send(key=f"ill-{KEY}")
        dumb = service.send(key=f"dum-{KEY}")
        service.wait_for(service.send(key=f"goo-{KEY}"))
        assert "cannot look up the server ill.example" in service.wait_for(ill, "deferred")
        assert "look" in service.wait_for(dumb, "deferred", 30)
        assert len(server.messages) == 1
        resolver.answers = dict.fromkeys(answers, NO_ERROR)
        service.wait_for(ill)
        service.wait_for(dumb, timeout=30)
        assert service.query("SELECT DISTINCT state FROM account") == [("active",)]


@in_namespace
def test_names_whose_dns_is_dead_keep_no_other_account_waiting(
    tmp_path: Path, scripted: StartScripted
) -> None:
    """However many names and connections: one look-up each, in nobody else's way."""
    server = scripted()
    dead = [f"{number:03}.example" for number in range(8)]
    answers: dict[str, int | None] = {**dict.fromkeys(dead), "good.example": NO_ERROR}
    with (
        FakeResolver(answers) as resolver,
        dns_installation(tmp_path, server.port, *answers) as service,
    ):
        bad = [service.send(key=f"{name[:3]}-{KEY}") for name in dead for _ in range(8)]
        eventually(lambda: resolver.asked, message="the first look-up")
        service.wait_for(service.send(key=f"goo-{KEY}"))
        assert "look" in service.wait_for(bad[-1], "deferred", 30)
        assert len(server.messages) == 1
        tries = f"SELECT outcome FROM attempt JOIN job ON job.id = job_id WHERE message_id = {len(bad) + 1}"
        assert service.query(tries) == [("sent",)], "its look-up came in time"


@in_namespace
def test_a_name_that_does_not_exist_is_the_account_s_fault(tmp_path: Path, scripted: StartScripted) -> None:
    server = scripted()
    answers: dict[str, int | None] = {"gone.example": NXDOMAIN, "once.example": NO_ERROR}
    with (
        FakeResolver(answers) as resolver,
        dns_installation(tmp_path, server.port, *answers) as service,
    ):
        never = service.send(key=f"gon-{KEY}")
        assert "there is no such host" in service.wait_for(never, "failed")
        service.wait_for(service.send(key=f"onc-{KEY}"))
        server.on("DOT", reply="421 4.3.2 closing", times=1)  # the next mail needs a new connection
        kept = service.send(key=f"onc-{KEY}")
        resolver.answers = {}
        service.wait_for(kept, "deferred")
        eventually(
            lambda: service.query("SELECT state FROM account WHERE host = 'once.example'") == [("paused",)]
        )
        eventually(lambda: "there is no such host" in service.status(kept), message="the reason")
        assert service.query("SELECT state FROM job WHERE kind = 'delivery' ORDER BY id DESC LIMIT 1") == [
            ("queued",)
        ]
