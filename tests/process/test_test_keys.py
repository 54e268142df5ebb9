"""Messages of test keys in a whole service: no server, no state of the account, and no kill stops or doubles them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from postroom.core.failpoint import VARIABLE
from tests.servers.installation import Installation, account_rows
from tests.servers.keys import issue_key
from tests.servers.programs import free_port
from tests.servers.waiting import eventually

ME = "me@postroom.example"


def test_a_test_message_is_in_the_inbox_of_an_account_whose_server_is_dead(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    rows = account_rows(free_port())
    with Installation(
        tmp_path / "service", rows, POSTROOM_RETRY_SCHEDULE="1h", **database_settings
    ) as service:
        key = issue_key(service, ME, is_test=True)
        live = service.send(subject="A live one")
        service.wait_for(live, "deferred")
        test = service.send(subject="A test", body="For nobody", key=key)
        service.wait_for(test)
        answer = service.client.call("GET", f"/email-status/{test}").document
        assert answer == {"request_id": test, "status": "sent", "test": True}
        assert service.status(live).startswith("deferred")

        [listed] = json.loads(service.command("inbox", "--json"))
        assert (listed["id"], listed["subject"], listed["test"]) == (test, "A test", True)
        assert test[:18] in service.run("inbox").stdout
        shown = service.command("inbox", "show", "latest")
        assert "For nobody" in shown
        assert "Test:" in shown
        assert f"Message-ID: <{test}@" in service.command("inbox", "show", test, "--raw")
        marked = [json.loads(line).get("test") for line in service.command("list", "--json").splitlines()]
        assert marked == [False, True]
        assert json.loads(service.command("status", test, "--json"))["test"] is True
        assert "sent (test)" in service.command("status", test)
        eventually(lambda: f"{test} sent (test): from {ME}" in service.log(), message="the line of the log")
        eventually(lambda: any(test in line for line in service.log_lines()), message="email_log.txt")


def test_a_paused_account_does_not_hold_its_test_messages(tmp_path: Path) -> None:
    with Installation(tmp_path / "service", account_rows(free_port())) as service:
        key = issue_key(service, ME, is_test=True)
        service.change(
            "UPDATE account SET state = 'paused', state_since = 1, state_reason = 'x', paused_by = 'person'"
        )
        service.wait_for(service.send(key=key))


@pytest.mark.parametrize("point", ["capture.inside", "capture.committed"])
@pytest.mark.timeout(180)
def test_a_worker_that_is_killed_ends_each_once(
    tmp_path: Path, database_settings: dict[str, str], point: str
) -> None:
    deaths = tmp_path / "deaths"
    settings = {VARIABLE: f"{point}:1:{deaths}", **database_settings}
    with Installation(tmp_path / "service", account_rows(free_port()), **settings) as service:
        key = issue_key(service, ME, is_test=True)
        ids = [service.send(key=key) for _ in range(20)]
        eventually(lambda: deaths.exists(), 60, "a worker's death")
        deaths.with_name("deaths.over").touch()
        for request_id in ids:
            service.wait_for(request_id, timeout=60)
        eventually(lambda: len(service.log_lines()) == len(ids), 20, "a line in the log for each")
        assert service.query("SELECT count(*) FROM event WHERE kind = 'sent'") == [(len(ids),)]
        assert service.query("SELECT DISTINCT state, attempt, crashes FROM job WHERE kind = 'capture'") == [
            ("done", 1, 0)
        ]
