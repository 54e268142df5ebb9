"""Pools in a whole service: mail flows by the members that can send, once each, and the key sees its own messages alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from postroom.core.clock import SECOND, system_clock
from postroom.core.failpoint import VARIABLE
from tests.servers.installation import Installation
from tests.servers.keys import issue_key, issue_pool_key, make_pool
from tests.servers.ledger import all_ended, check_ledger
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

ANNA, BEN = "anna@postroom.example", "ben@postroom.example"


def rows(port: int, *, limit: str = "") -> list[str]:
    """Anna's account, with a daily limit, and Ben's."""
    return [
        "key,email,app_password,host,port,security,daily_limit",
        f"a-key-for-anna-alone-here,{ANNA},,127.0.0.1,{port},none,{limit}",
        f"a-key-for-ben-alone-in-here,{BEN},,127.0.0.1,{port},none,",
    ]


def senders(service: Installation) -> Counter[str]:
    return Counter(row[0] for row in service.query("SELECT reverse_path FROM message"))


def status(service: Installation, request_id: str, key: str) -> Any:
    headers = {"Authorization": f"Bearer {key}"}
    return service.client.call("GET", f"/email-status/{request_id}", headers=headers)


def test_mail_flows_by_the_other_when_one_is_out_of_quota(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", rows(sink.port, limit="5"), **database_settings) as service,
    ):
        key = issue_pool_key(service, make_pool(service, {ANNA: 3, BEN: 1}))
        sent = [service.send(key=key) for _ in range(40)]
        eventually(lambda: all_ended(service), 60, "all to be sent")
        assert check_ledger(service, sink, sent) == set()
        found = senders(service)
        assert 0 < found[ANNA] <= 5
        assert found[BEN] == 40 - found[ANNA]


def test_a_key_of_a_pool_sees_what_was_sent_with_it_and_by_whom(tmp_path: Path) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", rows(sink.port)) as service,
    ):
        pool = make_pool(service, {ANNA: 1, BEN: 1})
        key, another, annas = (
            issue_pool_key(service, pool),
            issue_pool_key(service, pool),
            issue_key(service, ANNA),
        )
        mine = [service.send(key=key) for _ in range(2)]
        theirs = [service.send(key=other) for other in (another, annas)]
        for request_id in (*mine, *theirs):
            service.wait_for(request_id)
        documents = [status(service, request_id, key).document for request_id in mine]
        assert sorted(document["sender"] for document in documents) == [ANNA, BEN]
        assert [status(service, request_id, key).status for request_id in theirs] == [404, 404]
        assert "sender" not in status(service, theirs[1], annas).document


def test_a_repeated_request_is_the_same_message_whoever_would_send_it(tmp_path: Path) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", rows(sink.port)) as service,
    ):
        key = issue_pool_key(service, make_pool(service, {ANNA: 1, BEN: 1}))
        document = {"subject": "Once", "recipient": "you@postroom.example", "body": "x", "key": key}
        ids = {
            service.client.call("POST", "/send-email", document, {"Idempotency-Key": "an order"}).document[
                "request_id"
            ]
            for _ in range(6)
        }
        assert len(ids) == 1
        changed = service.client.call(
            "POST", "/send-email", document | {"body": "y"}, {"Idempotency-Key": "an order"}
        )
        assert changed.status == 422


def test_a_pool_whose_accounts_are_all_paused_accepts_and_waits(tmp_path: Path) -> None:
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", rows(sink.port)) as service,
    ):
        key = issue_pool_key(service, make_pool(service, {ANNA: 1, BEN: 1}))
        paused = (
            "UPDATE account SET state = 'paused', state_since = 1, state_reason = 'x', paused_by = 'breaker'"
        )
        service.change(paused)
        waiting = service.send(key=key)
        assert service.status(waiting) == "deferred (account paused: x)"
        service.command("accounts", "resume", ANNA)
        service.command("accounts", "resume", BEN)
        service.wait_for(waiting)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", ["pool_move.inside", "pool_move.committed", ""])
def test_what_waits_for_a_parked_account_is_sent_by_the_other_once(
    tmp_path: Path, database_settings: dict[str, str], point: str
) -> None:
    deaths = tmp_path / "deaths"
    armed = {VARIABLE: f"{point}:2:{deaths}"} if point else {}
    with (
        Sink(ledger=tmp_path / "ledger") as sink,
        Installation(tmp_path / "service", rows(sink.port), **database_settings, **armed) as service,
    ):
        key = issue_pool_key(service, make_pool(service, {ANNA: 1, BEN: 1}))
        until = system_clock() + 3600 * SECOND
        service.change(
            "UPDATE account SET state = 'parked', state_since = 1, state_reason = 'its limit is reached', "
            f"resume_at = CASE WHEN email = '{ANNA}' THEN {until} ELSE {until + 1} END"
        )
        sent = [service.send(key=key) for _ in range(30)]
        assert senders(service) == {ANNA: 30}
        service.command("accounts", "resume", BEN)
        if point:
            eventually(lambda: deaths.exists(), 60, "a worker's death")
            deaths.with_name("deaths.over").touch()
        eventually(lambda: all_ended(service), 90, "all to be sent")
        assert check_ledger(service, sink, sent) == set()
        assert senders(service) == {BEN: 30}
        assert all(text.startswith(f"From: {BEN}\r\n".encode()) for text in service.contents().values())
        assert status(service, sent[0], key).document["sender"] == BEN
        assert "moved" in service.command("status", sent[0])
