"""Every way to end has a sentence; a traceback is for faults of ours, with an incident that it is found by."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from postroom import cli
from postroom.config import Settings
from postroom.errors import ConfigError, NotFound, StoreDamaged, StoreUnavailable
from postroom.store import open_store
from postroom.web.errors import answer_to


def end_of(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit status of a command that fails so."""

    def fail(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "var/x"), 75, "var/x: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "var/x"), 1, "var/x: Read-only file system"),
        (
            PermissionError(errno.EACCES, "Permission denied", "var/inbox"),
            78,
            "var/inbox: permission denied: ",
        ),
        (OSError("something"), 1, "something"),
    ],
    ids=["full", "read-only", "another user's", "without a number"],
)
def test_a_failing_system_call_ends_with_a_sentence(
    error: OSError,
    status: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert end_of(error, monkeypatch) == status
    said = capsys.readouterr().err
    assert said.startswith(f"postroom: {sentence}")
    assert len(said.splitlines()) == 1


def test_a_fault_of_ours_is_named_by_its_incident(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert end_of(KeyError("surprise"), monkeypatch) == 70
    said = capsys.readouterr().err
    [incident] = re.findall(r"postroom: this is a fault in Postroom itself \(incident ([0-9a-f]{8}),", said)
    assert f"incident {incident}" in caplog.text
    assert "KeyError: 'surprise'" in caplog.text


def test_a_request_that_fails_by_our_fault_names_its_incident(caplog: pytest.LogCaptureFixture) -> None:
    answer = answer_to(KeyError("surprise"))
    assert answer.status_code == 500
    [incident] = re.findall(r"under incident ([0-9a-f]{8})", answer.get_json()["detail"])
    assert f"incident {incident}" in caplog.text
    assert "KeyError: 'surprise'" in caplog.text
    assert "surprise" not in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("PORT", "must be one"), 78),
        (StoreDamaged("damaged"), 78),
        (StoreUnavailable("away"), 75),
        (NotFound("unknown"), 1),
    ],
    ids=["setting", "damaged", "away", "unknown"],
)
def test_what_we_refuse_ends_with_a_sentence(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(error, monkeypatch) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a directory"])
def test_a_database_that_is_no_file_is_named(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "postroom.db"
    match kind:
        case "a FIFO":
            os.mkfifo(place)
        case "a device":
            place = Path("/dev/zero")
        case "a directory":
            place.mkdir()
    url = Settings(database_url=f"sqlite:///{place}").database_url
    with pytest.raises(ConfigError, match=f"DATABASE_URL.*is {kind}"):
        open_store(url)
