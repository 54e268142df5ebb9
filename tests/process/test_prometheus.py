"""A real Prometheus: every query of the dashboard has series, and every alert fires when what it is about happens."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.servers.installation import ROOT, Installation, account_rows
from tests.servers.programs import end, free_port, require
from tests.servers.prometheus import RULES, Prometheus
from tests.servers.sink import Sink
from tests.servers.waiting import eventually

DASHBOARD: Any = json.loads((ROOT / "deploy/grafana/postroom.json").read_text(encoding="utf-8"))
TESTS = RULES.with_name("postroom.test.yml")
QUERIES = {
    f"{panel['title']}: {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
ALERTS = {
    line.split(": ")[1] for line in RULES.read_text(encoding="utf-8").splitlines() if "- alert: " in line
}


@pytest.mark.parametrize(("action", "file"), [("check", RULES), ("test", TESTS)], ids=["check", "test"])
def test_promtool_finds_nothing_wrong_with_the_alerts(action: str, file: Path) -> None:
    [promtool] = require("promtool")
    done = subprocess.run(
        [promtool, action, "rules", file.name], cwd=file.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test_a_severity_and_a_row_in_the_documentation_and_says_what_to_do() -> None:
    documented = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert {
        line.split("`")[1] for line in documented.splitlines() if line.startswith("| `Postroom")
    } == ALERTS
    text = RULES.read_text(encoding="utf-8")
    tests = TESTS.read_text(encoding="utf-8")
    for alert in ALERTS:
        assert f'alertname="{alert}"' in tests, alert
    for part in ("severity: ", "summary: ", "description: "):
        assert text.count(part) == len(ALERTS)


def test_every_panel_has_series(tmp_path: Path) -> None:
    port = free_port()
    with (
        Sink() as sink,
        Installation(tmp_path, account_rows(sink.port), POSTROOM_METRICS_PORT=str(port)) as service,
        Prometheus([f"127.0.0.1:{port}"]) as prometheus,
    ):
        for _ in range(3):
            service.send()
        assert service.post(recipient="nobody").status == 422
        missing: list[str] = []

        def all_have() -> bool:
            service.send()  # what is counted for the first time has no rate before it is counted again
            assert service.post(recipient="nobody").status == 422
            missing[:] = [name for name, query in QUERIES.items() if not prometheus.query(_filled(query))]
            return not missing

        try:
            eventually(all_have, 30, "every query to have series", pause=0.3)
        except AssertionError as error:
            raise AssertionError(f"no series: {missing}") from error
        assert prometheus.firing() == set()


def _filled(query: str) -> str:
    """Put in what Grafana would."""
    return query.replace("$job", "postroom").replace("$__rate_interval", "1m")


TROUBLES = """
UPDATE job SET due_at = due_at - 600000000 WHERE state = 'queued';
UPDATE job SET held = 1 WHERE id = (SELECT max(id) FROM job WHERE state = 'queued' AND kind = 'delivery');
UPDATE account SET daily_limit = 10 WHERE email = 'me@postroom.example';
INSERT INTO account_usage SELECT id, CAST(strftime('%s') AS INTEGER) / 600, 10 FROM account WHERE email LIKE 'me@%';
UPDATE account SET state = 'paused', state_since = 1, state_reason = 'a test' WHERE email LIKE 'other@%';
INSERT INTO job_count SELECT id, 'failed', 100 FROM account WHERE email LIKE 'me@%';
"""


def test_every_alert_fires_when_what_it_is_about_happens(tmp_path: Path) -> None:
    port = free_port()
    settings = {
        "POSTROOM_METRICS_PORT": str(port),
        "POSTROOM_DISK_RESERVE": str(shutil.disk_usage(tmp_path).free // 2),
    }
    with Sink() as sink:
        rows = [*account_rows(sink.port), f"another-key,other@postroom.example,,127.0.0.1,{sink.port},none"]
        service = Installation(tmp_path, rows, **settings)
        with service:
            service.wait_for(service.send())
        web = service.spawn("web")  # and no worker
        try:
            with Prometheus([f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"]) as prometheus:
                eventually(lambda: prometheus.query("postroom_messages_ended_total == 1"), 30, "a scrape")
                for _ in range(2):
                    service.send()
                service.change(TROUBLES)
                last = {"PostroomDatabaseAway"}
                eventually(lambda: prometheus.firing() == ALERTS - last, 30, "the alerts to fire")
                service.change("ALTER TABLE counter RENAME TO counter_of_another")
                eventually(lambda: last <= prometheus.firing(), 30, "the last alert to fire")
        finally:
            service.client.close()
            end(web, signal.SIGKILL)
