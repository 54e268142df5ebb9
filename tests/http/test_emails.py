"""`GET /v1/emails/{id}` through both runners: who may read it, and what it says of each kind of end."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from postroom.core.clock import SECOND, system_clock
from postroom.core.decide import decision_of
from postroom.core.dialogue import AttemptRecord
from postroom.core.message import InDoubtPolicy
from postroom.core.outcome import Blame, Deferred, Failed, Outcome, Reply, Sent
from postroom.runtime.installation import Service
from postroom.store.attempts import Attempts
from postroom.store.holds import Holds
from postroom.store.queue import Queue
from postroom.store.workers import Workers
from tests.http.admin import Admin
from tests.http.conftest import ALICE, BOB

pytestmark = pytest.mark.usefixtures("admin_token")

NO_ID = "01a20592-c517-410c-bfea-853adb5ce9ed"
MAIL = {"subject": "Hello", "recipient": "you@example.com", "body": "It works."}
REFUSED = Failed(
    "550 5.1.1 no such user [there is no such mailbox; check the address]",
    Blame.RECIPIENT,
    Reply(550, "no such user", "5.1.1"),
)
LATER = Deferred("451 4.3.0 later", Blame.MESSAGE, Reply(451, "later", "4.3.0"))
AWAY = Deferred("no answer to MAIL within 5 s", Blame.CONNECTION)


@pytest.fixture
def alice(client: FlaskClient) -> Admin:
    return Admin(client, ALICE)


def accepted(whose: Admin) -> str:
    id_: str = whose.done("POST", "/send-email", MAIL, 202)["request_id"]
    return id_


def read(whose: Admin, id_: str) -> Any:
    return whose.done("GET", f"/v1/emails/{id_}")


def end(service: Service, outcome: Outcome, record: AttemptRecord, *, later: int = 60 * SECOND) -> None:
    """Have the only message that is due end an attempt so."""
    now, store = system_clock(), service.store
    worker = store.write(
        Workers.register, host="here", pid=1, lock_file="none.lock", now=now, lease_until=now + 60 * SECOND
    )
    [job] = store.write(
        Queue.claim,
        account_id=1,
        worker_id=worker,
        most=10,
        most_bytes=1_000_000,
        first_bytes=1_000_000,
        now=now,
        daily_limit=None,
        paced=False,
        probing=False,
    )
    outcomes = {job.deliveries[0].id: outcome}
    decision = decision_of(job, outcomes, InDoubtPolicy.RETRY, now=now, due_at=now + later)
    finish = {"worker_id": worker, "started_at": now - SECOND, "now": now}
    store.write(Attempts.finish, job, decision, **finish, record=record)


RECORD = AttemptRecord(
    "RCPT", "0 *: CONNECT mx.example.com:25\n12 C: RCPT TO:<you@example.com>\n15 S: 550 5.1.1 no such user"
)


def test_a_message_that_waits_has_neither_attempts_nor_a_reason(alice: Admin) -> None:
    id_ = accepted(alice)
    found = read(alice, id_.upper())
    assert {
        name: found[name] for name in ("id", "status", "reason", "waits_for", "from", "subject", "test")
    } == {
        "id": id_,
        "status": "queued",
        "reason": None,
        "waits_for": None,
        "from": "alice@example.com",
        "subject": "Hello",
        "test": False,
    }
    assert found["to"] == [
        {
            "address": "you@example.com",
            "status": "queued",
            "reason": None,
            "reply": None,
            "possible_duplicate": False,
            "finished_at": None,
        }
    ]
    assert found["attempts"] == []
    assert [event["event"] for event in found["events"]] == ["accepted"]


def test_a_failed_one_says_where_why_and_what_was_said(service: Service, alice: Admin) -> None:
    id_ = accepted(alice)
    end(service, REFUSED, RECORD)
    found = read(alice, id_)
    assert (found["status"], found["reason"]) == ("failed", REFUSED.reason)
    assert found["to"][0]["status"] == "failed"
    [attempt] = found["attempts"]
    assert attempt["duration"] == 1.0
    assert {
        name: attempt[name] for name in ("number", "phase", "outcome", "blame", "reply", "explanation")
    } == {
        "number": 1,
        "phase": "RCPT",
        "outcome": "failed",
        "blame": "recipient",
        "reply": {"code": 550, "enhanced": "5.1.1", "text": "no such user"},
        "explanation": "there is no such mailbox; check the address",
    }
    assert attempt["dialogue"] == [
        {"ms": 0, "from": "note", "text": "CONNECT mx.example.com:25"},
        {"ms": 12, "from": "client", "text": "RCPT TO:<you@example.com>"},
        {"ms": 15, "from": "server", "text": "550 5.1.1 no such user"},
    ]
    status = alice.done("GET", f"/email-status/{id_}")
    assert status["status"] == f"failed ({REFUSED.reason})", "the original call is as before"


def test_each_attempt_of_one_that_was_deferred_is_there(service: Service, alice: Admin) -> None:
    id_ = accepted(alice)
    end(service, LATER, AttemptRecord("DATA"), later=0)
    end(service, AWAY, AttemptRecord("MAIL"))
    found = read(alice, id_)
    assert found["status"] == found["to"][0]["status"] == "deferred"
    assert found["reason"] == AWAY.reason
    assert found["waits_for"].startswith("its next try at ")
    assert found["will_send_at"] in found["waits_for"]
    told = [(each["number"], each["phase"], each["blame"], each["explanation"]) for each in found["attempts"]]
    first = "the server has a fault of its own; it is tried again by itself; if that does not help: "
    doctor = "if that does not help: postroom doctor EMAIL"
    assert told == [
        (1, "DATA", "message", first + "send the message again later"),
        (
            2,
            "MAIL",
            "connection",
            f"{AWAY.reason}; the server or the network is at fault; it is tried again by itself; {doctor}",
        ),
    ]
    assert [each["dialogue"] for each in found["attempts"]] == [None, None]


def test_what_waits_is_cancelled_by_its_owner_once(client: FlaskClient, alice: Admin) -> None:
    admin = Admin(client)
    accounts = {each["email"]: each["id"] for each in admin.done("GET", "/v1/accounts")["data"]}
    keys = {
        email: admin.as_key(admin.issue(accounts[email], scopes=["read", "manage"])["key"])
        for email in ("alice@example.com", "bob@example.org")
    }
    id_ = accepted(alice)
    path = f"/v1/emails/{id_}/cancel"
    assert alice.call("POST", path).status_code == 403, "keys of the file do not manage"
    foreign = keys["bob@example.org"].call("POST", path)
    unknown = keys["bob@example.org"].call("POST", f"/v1/emails/{NO_ID}/cancel")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.get_json() == unknown.get_json()
    assert read(alice, id_)["status"] == "queued"
    done = keys["alice@example.com"].done("POST", path)
    assert (done["status"], done["to"][0]["status"], done["events"][-1]["event"]) == ("cancelled",) * 3
    assert done == read(alice, id_)
    again = keys["alice@example.com"].call("POST", path)
    assert again.status_code == 409
    assert again.get_json()["detail"] == f"only a message that waits can be cancelled: {id_} is cancelled"
    entries = [each for each in admin.done("GET", "/v1/audit")["data"] if each["action"] == "message.cancel"]
    assert [(each["target"], each["refused"]) for each in entries] == [(id_, False)]


def test_a_sent_one_has_the_servers_answer(service: Service, alice: Admin) -> None:
    id_ = accepted(alice)
    end(service, Sent(Reply(250, "queued as \x1b[31m42", "2.0.0")), AttemptRecord("DATA end", "0 C: ."))
    found = read(alice, id_)
    assert (found["status"], found["reason"], found["waits_for"]) == ("sent", None, None)
    assert found["finished_at"] == found["to"][0]["finished_at"] is not None
    [attempt] = found["attempts"]
    assert attempt["reply"]["text"] == "queued as \\x1b[31m42"
    assert (attempt["explanation"], attempt["blame"], attempt["phase"]) == (None, None, "DATA end")


def test_a_held_and_a_cancelled_one_say_so(service: Service, alice: Admin) -> None:
    held, cancelled = accepted(alice), accepted(alice)
    now = system_clock()
    service.store.write(Holds.cancel, cancelled, now)
    service.store.write(Holds.hold_queued, now, until=now + SECOND, claimed=False)
    assert read(alice, held)["status"] == "held"
    assert "postroom release" in read(alice, held)["waits_for"]
    assert read(alice, cancelled)["status"] == read(alice, cancelled)["to"][0]["status"] == "cancelled"


def test_rows_of_an_earlier_version_have_no_phase(service: Service, alice: Admin) -> None:
    id_ = accepted(alice)
    end(service, REFUSED, AttemptRecord())
    [attempt] = read(alice, id_)["attempts"]
    assert (attempt["phase"], attempt["dialogue"]) == (None, None)


def test_who_may_read_it(client: FlaskClient, alice: Admin) -> None:
    id_, admin = accepted(alice), Admin(client)
    foreign = admin.as_key(BOB).call("GET", f"/v1/emails/{id_}")
    unknown = admin.as_key(BOB).call("GET", f"/v1/emails/{NO_ID}")
    assert foreign.status_code == 404
    assert foreign.get_data() == unknown.get_data()
    assert read(admin, id_)["id"] == id_, "the admin token reads everything"
    sends = admin.as_key(admin.issue(scopes=["send"])["key"])
    assert sends.call("GET", f"/v1/emails/{id_}").status_code == 403
    assert client.get(f"/v1/emails/{id_}").status_code == 401
