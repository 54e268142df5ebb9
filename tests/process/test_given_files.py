"""A service whose files are replaced by what may hang goes on, says so, and ends in time."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.servers.installation import KEY, Installation
from tests.servers.waiting import eventually

ROWS = ["key,email,app_password,host", f"{KEY},me@x.example,,inbox"]


def test_a_log_on_standard_output_and_accounts_that_are_a_fifo(tmp_path: Path) -> None:
    """The inbox cannot run at first either: what is sent to it waits."""
    inbox = tmp_path / "var/inbox"
    inbox.parent.mkdir(mode=0o700)
    os.mkfifo(inbox)
    settings = {"POSTROOM_EMAIL_LOG": "/dev/stdout", "POSTROOM_RETRY_SCHEDULE": "500ms"}
    with Installation(tmp_path, ROWS, **settings) as service:
        deferred = service.send()
        service.wait_for(deferred, "deferred")
        eventually(lambda: "cannot run (var/inbox: it is a FIFO, not a folder)" in service.log(), 20)
        inbox.unlink()
        service.wait_for(deferred)
        assert "Traceback" not in service.log()
        sent = [service.send() for _ in range(3)]
        for request_id in sent:
            service.wait_for(request_id)
        accounts = service.folder / "data.csv"
        accounts.unlink()
        os.mkfifo(accounts)
        eventually(
            lambda: "cannot be read: it is a FIFO, not a plain file" in service.log(), 20, "a sentence"
        )
        sent.append(service.send())
        service.wait_for(sent[-1])
        assert service.stop() == 0
        lines = re.findall(r"^Request ID: (\S+), .*Status: sent$", service.log(), re.MULTILINE)
        assert sorted(lines) == sorted([deferred, *sent]), "each line once"


def test_a_log_that_is_a_fifo_without_a_reader(tmp_path: Path) -> None:
    with Installation(tmp_path, ROWS) as service:
        fifo = service.folder / "email_log.txt"
        os.mkfifo(fifo)
        request_id = service.send()
        service.wait_for(request_id)
        eventually(lambda: "nobody reads from it" in service.log(), 20, "a sentence")
        assert service.stop() == 0
    with (
        open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader,
        Installation(tmp_path, ROWS) as service,
    ):
        eventually(lambda: request_id.encode() in (reader.read(65536) or b""), 20, "the line")
        assert service.stop() == 0
