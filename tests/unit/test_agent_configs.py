"""The configurations of agents in docs/logging.md: they parse, and read what the service writes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.servers.installation import ROOT

PAGE = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
# The options of Filebeat's parser of lines of JSON, and of a log of Datadog's agent.
NDJSON = {
    "target",
    "overwrite_keys",
    "expand_keys",
    "add_error_key",
    "document_id",
    "message_key",
    "ignore_decoding_error",
}
DATADOG = {"type", "path", "service", "source", "tags", "start_position", "encoding"}


def configuration(agent: str) -> Any:
    [found] = re.findall(rf"^```yaml {agent}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(found)


def test_filebeat_reads_documents_and_stores_each_once() -> None:
    found = configuration("filebeat")
    [read] = found["filebeat.inputs"]
    assert (read["type"], read["id"]) == ("filestream", "postroom")
    assert all(path.startswith("/") for path in read["paths"])
    [parser] = read["parsers"]
    assert parser.keys() == {"ndjson"}
    assert parser["ndjson"].keys() <= NDJSON
    assert parser["ndjson"]["document_id"] == "event.id"
    assert parser["ndjson"]["target"] == "", "fields stand at the root, as ECS has them"
    assert found["output.elasticsearch"]["index"] == "logs-postroom-default"
    assert all(host.startswith("https://") for host in found["output.elasticsearch"]["hosts"])


def test_datadogs_agent_reads_the_same_file() -> None:
    [read] = configuration("datadog")["logs"]
    assert read.keys() <= DATADOG
    assert (read["type"], read["service"], read["source"]) == ("file", "postroom", "postroom")
    assert read["path"] in configuration("filebeat")["filebeat.inputs"][0]["paths"]


@pytest.mark.parametrize("agent", ["filebeat", "datadog"])
def test_no_secret_stands_in_a_configuration(agent: str) -> None:
    text = yaml.safe_dump(configuration(agent))
    assert all(value.startswith("${") for value in re.findall(r"(?:api_key|password): '?([^'\n]+)", text))
