"""What each process logs of its start and its stop, and of a start that fails, in every format."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.servers.installation import Installation, account_rows
from tests.servers.programs import end, free_port
from tests.servers.receiver import Receiver
from tests.servers.waiting import eventually

TOLD = re.compile(r"(?:INFO|ERROR) postroom\.process: (.*)")
START = r"{} started: Postroom \S+, process {}{}"


Prepare = Callable[..., Installation]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    Installation(tmp_path, account_rows(9)).command("migrate")
    return partial(Installation, tmp_path, account_rows(9))


def told(folder: Path, form: str) -> list[tuple[str, str, str]]:
    """Return the lines of starts and stops: the event, its outcome and the words; of text the words alone."""
    log = (folder / "spawned.log").read_text(encoding="utf-8")
    if form == "text":
        return [("", "", found) for found in TOLD.findall(log)]
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines()]
    return [
        (line["action"], line["outcome"], line["message"])
        for line in lines
        if line.get("logger") == "postroom.process"
    ]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("word", ["web", "worker"])
def test_a_process_alone_logs_its_start_and_its_stop_once(prepare: Prepare, word: str, form: str) -> None:
    port = str(free_port())
    prepared = prepare(POSTROOM_LOG_FORMAT=form, PORT=port)
    process = prepared.spawn(word)
    try:
        eventually(lambda: told(prepared.folder, form), 30, "the start")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        end(process)
    (started, _, words), (stopped, outcome, reason) = told(prepared.folder, form)
    where = f", on http://127.0.0.1:{port}" if word == "web" else ""
    assert re.fullmatch(START.format(word, process.pid, where), words)
    assert reason == f"{word} stopped: SIGTERM"
    if form == "json":
        assert (started, stopped, outcome) == ("start", "stop", "success")


def test_the_service_logs_each_of_its_processes(tmp_path: Path) -> None:
    with Receiver() as receiver:
        service = Installation(tmp_path, account_rows(9), POSTROOM_NOTIFY=receiver.url)
        with service:
            eventually(lambda: "notify run started" in service.log(), 30)
    said = TOLD.findall(service.log())
    assert sorted(line.partition(" started")[0] for line in said if " started: " in line) == [
        *("notify run", "serve", "web", "worker")
    ]
    assert {line for line in said if " stopped: " in line} == {
        f"{name} stopped: SIGTERM" for name in ("notify run", "serve", "web", "worker")
    }


@pytest.mark.parametrize(
    ("words", "settings", "status", "cause"),
    [
        (
            ("serve",),
            {"POSTROOM_KEEP_BODIES": "soon"},
            78,
            "serve did not start: POSTROOM_KEEP_BODIES: must be",
        ),
        (("serve",), {"DD_API_KEY_FILE": "/nosuch"}, 78, "DD_API_KEY_FILE: /nosuch cannot be read"),
        (("serve",), {"POSTROOM_LOG_SHIP": "datadog:"}, 78, "DD_API_KEY: must be set"),
        (("serve",), {"POSTROOM_NOTIFY": "nosuch://h"}, 78, "POSTROOM_NOTIFY: the URL 1 (nosuch)"),
        (("web",), {"DATABASE_URL": "postgresql://p@127.0.0.1:1/n"}, 75, "web did not start: the database"),
        (
            ("worker",),
            {"DATABASE_URL": "postgresql://p@127.0.0.1:1/n"},
            75,
            "worker did not start: the database",
        ),
        (("notify", "run"), {}, 78, "notify run did not start: POSTROOM_NOTIFY: is empty"),
        (("web", "--nosuch"), {}, 2, "web did not start: No such option"),
    ],
)
def test_a_start_that_fails_is_a_line_on_standard_output_too(
    prepare: Prepare, words: tuple[str, ...], settings: dict[str, str], status: int, cause: str
) -> None:
    given = {"POSTROOM_LOG_FORMAT": "json", "PORT": str(free_port()), **settings}
    ended = prepare(**given).run(*words)
    assert ended.returncode == status, ended
    [line] = [each for each in map(json.loads, ended.stdout.splitlines()) if each.get("action")]
    assert (line["action"], line["outcome"], line["level"]) == ("start", "failure", "error")
    assert cause in line["message"]
    assert ended.stderr.startswith("postroom: ")
    assert ended.stderr.count("\n") == 1


def test_the_format_of_a_start_that_fails_is_read_from_the_file_too(prepare: Prepare) -> None:
    prepared = prepare()
    (prepared.folder / ".env").write_text("POSTROOM_LOG_FORMAT=ecs\nthis is nothing\n", encoding="utf-8")
    ended = prepared.run("serve")
    assert ended.returncode == 78, ended
    assert json.loads(ended.stdout)["event"]["outcome"] == "failure"


def test_as_text_a_start_that_fails_is_one_line_on_standard_error(prepare: Prepare) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ended = prepare(PORT=str(other.getsockname()[1])).run("web")
    assert (ended.returncode, ended.stdout) == (75, "")
    assert ended.stderr.count("\n") == 1
