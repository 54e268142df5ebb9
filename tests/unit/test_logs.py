"""Lines of the log: each complete, and with their priority where systemd's journal reads them."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from postroom.telemetry.log import LineFormatter, is_journal, is_kept_log


def _record(message: str, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("postroom.x", level, "", 0, message, arguments, None)


def test_each_line_of_a_message_has_its_own_head() -> None:
    head, first, second = (
        LineFormatter().format(_record("%s", "one\ntwo")).partition(" INFO postroom.x: one\n")
    )
    assert first
    assert second == f"{head} INFO postroom.x: two"


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
        (logging.WARNING + 5, 4),
    ],
)
def test_the_journal_gets_priorities_instead_of_times(level: int, priority: int) -> None:
    text = LineFormatter(for_journal=True).format(_record("a\nb", level=level))
    name = logging.getLevelName(level)
    assert text == f"<{priority}>{name} postroom.x: a\n<{priority}>{name} postroom.x: b"


def test_every_line_of_a_traceback_has_the_priority_of_its_record() -> None:
    record = _record("broken", level=logging.ERROR)
    try:
        raise ValueError("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    lines = LineFormatter(for_journal=True).format(record).splitlines()
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)
    assert lines[-1] == "<3>ValueError: why"


def test_only_the_stream_that_systemd_named_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("wb") as stream, (tmp_path / "redirected").open("wb") as other:
        found = os.fstat(stream.fileno())
        environment = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(stream.fileno(), environment)
        assert not is_journal(other.fileno(), environment), "standard error was redirected to a file"
        assert not is_journal(stream.fileno(), {})
        closed = stream.fileno()
    assert not is_journal(closed, environment)


def test_the_log_of_a_container_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("wb") as file:
        assert not is_kept_log(file.fileno())
        monkeypatch.setattr(os, "getpid", lambda: 1)
        assert is_kept_log(file.fileno())
        monkeypatch.setattr(os, "isatty", lambda fd: True)
        assert not is_kept_log(file.fileno()), "a person looks on"
