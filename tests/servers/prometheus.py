"""A Prometheus of our own, which scrapes every second and evaluates our alerts without their waits."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.installation import ROOT
from tests.servers.programs import Daemon

RULES = ROOT / "deploy/prometheus/postroom.rules.yml"
_CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: postroom
    static_configs: [{{targets: {targets}}}]
"""


class Prometheus(Daemon):
    """`with Prometheus(["127.0.0.1:9464"]) as prometheus: prometheus.query("up")`."""

    program = "prometheus"

    def __init__(self, targets: Sequence[str]) -> None:
        super().__init__(timeout=60)
        self._targets = targets

    def command(self, folder: Path) -> list[str]:
        rules = re.sub(r"^ +for: .*\n", "", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (folder / "rules.yml").write_text(rules, encoding="utf-8")
        config = _CONFIG.format(targets=json.dumps(list(self._targets)))
        (folder / "prometheus.yml").write_text(config, encoding="utf-8")
        return [
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.host}:{self.port}",
            "--log.level=warn",
        ]

    def ready(self, pid: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.port}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> list[Mapping[str, Any]]:
        """Return the series that an expression has now."""
        query = urllib.parse.urlencode({"query": expression})
        url = f"http://{self.host}:{self.port}/api/v1/query?{query}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        found: list[Mapping[str, Any]] = document["data"]["result"]
        return found

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {each["metric"]["alertname"] for each in self.query('ALERTS{alertstate="firing"}')}
