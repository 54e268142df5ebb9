"""`postroom serve` with a JSON format: each line that it writes is one document, from its start to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartScripted
from tests.process.test_canaries import codings
from tests.servers.installation import KEY as INSTALLED_KEY
from tests.servers.installation import Installation, account_rows, kill
from tests.servers.waiting import eventually
from tests.unit import ecs

CANARY = "canary-in-a-line"
WHY_IT_ENDED = "postroom: this is a fault in Postroom itself"  # a command's line, on standard error
KEY = f"{CANARY}-key-0123456789"


def rows(port: int) -> list[str]:
    return [
        "key,email,app_password,host,port,security",
        f"{KEY},me@postroom.example,{CANARY}-password,127.0.0.1,{port},none",
        f"b-{KEY},nobody@postroom.example,,127.0.0.1,9,none",
    ]


def documents(service: Installation) -> list[dict[str, Any]]:
    """Return every line that the service has written, on standard output and error."""
    said = service.log().splitlines()
    return [json.loads(line) for line in said if not line.startswith(WHY_IT_ENDED)]


def is_said(service: Installation, **fields: str) -> bool:
    return any(fields.items() <= _plain(line).items() for line in documents(service))


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that the formats have in different places."""
    event = line.get("event", line)
    own = line.get("postroom", line)
    return {"action": event.get("action"), "id": own.get("request_id"), "logger": _logger(line)}


def _logger(line: dict[str, Any]) -> str | None:
    place = line.get("log", line)
    logger = place.get("logger")
    return logger.get("name") if isinstance(logger, dict) else logger


def go_through(service: Installation, kill_a_worker: bool = True) -> list[str]:
    """Have messages accepted, deferred, sent, failed, cancelled and refused; kill a worker; ask for what is not there."""
    fields = {"subject": f"{CANARY} subject", "body": f"{CANARY} body", "key": KEY}
    sent = service.send(**fields)
    service.wait_for(sent)
    failed = service.send(**{**fields, "recipient": "gone@postroom.example"})
    service.wait_for(failed, "failed")
    waiting = service.send(**{**fields, "key": f"b-{KEY}"})
    service.command("cancel", waiting)
    service.post(**{**fields, "key": f"wrong-{KEY}"})
    if kill_a_worker:
        [worker] = service.pids("worker")
        kill(worker)
        eventually(
            lambda: is_said(service, logger="postroom.runtime.supervisor"), 20, "the death to be logged"
        )
        after = service.send(**fields)
        service.wait_for(after)
    for id_, action in (sent, "accepted"), (sent, "sent"), (failed, "failed"), (failed, "deferred"):
        eventually(lambda id_=id_, action=action: is_said(service, id=id_, action=action), 20, action)  # type: ignore[misc]
    return [sent, failed]


@pytest.fixture
def start(tmp_path: Path, scripted: StartScripted) -> Callable[..., Installation]:
    def make(**settings: str) -> Installation:
        server = scripted()
        server.on("RCPT", reply="450 4.2.1 later", times=1, match="gone@")
        server.on("RCPT", reply="550 5.1.1 no such user", match="gone@")
        return Installation(tmp_path, rows(server.port), POSTROOM_RETRY_SCHEDULE="200ms", **settings)

    return make


def test_every_line_of_ecs_is_a_document_of_the_schema(start: Callable[..., Installation]) -> None:
    service = start(POSTROOM_LOG_FORMAT="ecs", POSTROOM_LOG_LEVEL="DEBUG", POSTROOM_ACCESS_LOG="true")
    with service:
        sent, failed = go_through(service)
    lines = documents(service)
    for line in lines:
        assert not ecs.faults(line), line
    of_failed = [each for each in map(ecs.flat, lines) if each.get("postroom.request_id") == failed]
    assert [each["event.action"] for each in of_failed] == ["accepted", "deferred", "failed"]
    assert [each["event.outcome"] for each in of_failed] == ["success", "failure", "failure"]
    assert of_failed[-1]["postroom.reply"] == "550 5.1.1 no such user"
    assert of_failed[-1]["postroom.blame"] == "recipient"
    assert of_failed[-1]["postroom.attempt"] == 2
    assert all(int(str(each["event.duration"])) > 0 for each in of_failed[1:])
    requests = [each for each in map(ecs.flat, lines) if each["event.dataset"] == "postroom.access"]
    accepted = [each for each in requests if each["http.response.status_code"] == 202]
    assert {each["postroom.route"] for each in accepted} == {"/send-email"}
    assert {each["client.address"] for each in requests} == {"127.0.0.1"}
    assert {each["postroom.route"] for each in requests} >= {"/email-status/<request_id>"}
    said = [each["message"] for each in lines]
    assert any(text.startswith("serve started: Postroom ") and ", on http://" in text for text in said)
    assert said[-1] == "serve stopped: SIGTERM"
    assert f"{sent} sent" in "\n".join(said)


@pytest.mark.parametrize("form", ["datadog", "json"])
def test_every_line_of_the_other_formats_is_a_document(form: str, start: Callable[..., Installation]) -> None:
    with start(POSTROOM_LOG_FORMAT=form, DD_SERVICE="mailer", DD_ENV="test") as service:
        go_through(service, kill_a_worker=False)
    lines = documents(service)
    assert {line["service"] for line in lines} == {"mailer"}
    if form == "datadog":
        assert {line["dd.env"] for line in lines} == {"test"}


def test_nothing_that_is_private_is_in_a_line(start: Callable[..., Installation]) -> None:
    service = start(
        POSTROOM_LOG_FORMAT="ecs",
        POSTROOM_LOG_ADDRESSES="hash",
        POSTROOM_ACCESS_LOG="true",
        POSTROOM_LOG_LEVEL="DEBUG",
    )
    with service:
        go_through(service, kill_a_worker=False)
        service.change("UPDATE account SET server_lacks = 'nonsense'")  # a traceback, with secrets in hand
        service.post(subject=CANARY, body=CANARY, key=KEY)
        eventually(lambda: "stack_trace" in service.log(), 20, "a traceback")
    log = service.log()
    for coding in codings(CANARY):
        assert coding not in log.encode()
    assert "@postroom.example" not in log
    flat = [ecs.flat(line) for line in documents(service)]
    accounts = {str(each["postroom.account"]) for each in flat if "postroom.account" in each}
    assert {account.partition(":")[0] for account in accounts} == {"hmac"}
    senders: list[Any] = [each["email.from.address"] for each in flat if "email.from.address" in each]
    assert {account for [account] in senders} == accounts


def test_the_web_server_and_python_write_documents_too(tmp_path: Path) -> None:
    """Granian's lines, a warning, and an exception that nobody catches; in a process of its own, for they are global."""
    program = (
        "import logging, threading, warnings\n"
        "from pathlib import Path\n"
        "from granian.log import LogLevels, configure_logging\n"
        "from postroom.core.log_options import LogFormat, LogOptions\n"
        "from postroom.runtime.web_process import _AS_OURS\n"
        "from postroom.telemetry import service_log\n"
        "service_log.start(LogOptions(LogFormat.ECS, 'INFO'), Path())\n"
        "configure_logging(LogLevels.error, _AS_OURS)\n"
        "logging.getLogger('_granian').error('of granian')\n"
        "warnings.warn('of python')\n"
        "def fail(): raise ValueError('of a thread')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "raise ValueError('of the end')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == ""
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [ecs.faults(line) for line in lines] == [[]] * 4
    assert lines[0]["message"] == "of granian"
    assert "of python" in lines[1]["message"]
    assert [line["error"]["message"] for line in lines[2:]] == ["of a thread", "of the end"]


@pytest.mark.parametrize("path", ["/dev/stdout", "/proc/self/fd/1", "log"])
def test_the_log_of_finished_messages_is_not_standard_output_too(path: str, tmp_path: Path) -> None:
    service = Installation(tmp_path, account_rows(9), POSTROOM_LOG_FORMAT="json", POSTROOM_EMAIL_LOG=path)
    with (tmp_path / "log").open("wb") as log:
        ended = subprocess.run(
            [sys.executable, "-m", "postroom", "serve"],
            cwd=tmp_path,
            env=service.environment,
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 78
    assert ended.stderr.startswith(
        "postroom: POSTROOM_EMAIL_LOG: must not be standard output while POSTROOM_LOG_FORMAT"
    )
    [line] = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["message"].startswith("serve did not start: POSTROOM_EMAIL_LOG: must not be")


def test_commands_keep_standard_output_for_data(start: Callable[..., Installation]) -> None:
    with start(POSTROOM_LOG_FORMAT="ecs") as service:
        request_id = service.send(key=KEY)
        service.wait_for(request_id)
        listed = service.command("status", request_id, "--json")
        assert json.loads(listed)["id"] == request_id
        assert service.stop(signal.SIGTERM) == 0


def test_the_lines_of_a_message_belong_to_the_trace_of_its_request(
    tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    server = scripted()
    server.on("DOT", reply="451 4.3.0 not now", times=1)
    settings = {"POSTROOM_LOG_FORMAT": "ecs", "POSTROOM_RETRY_SCHEDULE": "200ms", **database_settings}
    with Installation(tmp_path / "service", account_rows(server.port), **settings) as service:
        document = {"subject": "x", "recipient": "you@postroom.example", "body": "x", "key": INSTALLED_KEY}
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        answer = service.client.call("POST", "/send-email", document, headers)
        assert answer.status == 202
        id_ = answer.document["request_id"]
        service.wait_for(id_)
        ignored = service.client.call("POST", "/send-email", document, {"traceparent": "nonsense"})
        assert ignored.status == 202
        service.wait_for(ignored.document["request_id"])

        def traced() -> set[tuple[str, str | None]]:
            return {
                (line["event"]["action"], line.get("trace", {}).get("id"))
                for line in documents(service)
                if line.get("postroom", {}).get("request_id") == id_
            }

        wanted = {("accepted", trace), ("deferred", trace), ("sent", trace)}
        eventually(lambda: traced() == wanted, 20, "each line to name the trace")
        assert not any(
            "trace" in line
            for line in documents(service)
            if line.get("postroom", {}).get("request_id") == ignored.document["request_id"]
        )
