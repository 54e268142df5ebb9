"""Every way to end has a sentence; a traceback is for faults of ours, with an incident that it is found by."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from postroom.accounts.vault import Vault
from postroom.cli import main
from postroom.core.errors import ConfigError, NotFound, StoreDamaged, StoreUnavailable
from postroom.inbox.maildrop import Maildrop
from postroom.runtime.accounts_file import write_demo_accounts
from postroom.runtime.installation import Service
from postroom.settings import Settings
from postroom.store.store import open_store
from postroom.web.problems import answer_to
from tests.servers.programs import free_port


def end_of(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit status of a command that fails so."""

    def fail(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(main.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main.main()
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
    assert answer.status == 500
    [incident] = re.findall(r"under incident ([0-9a-f]{8})", json.loads(answer.body)["detail"])
    assert f"incident {incident}" in caplog.text
    assert "KeyError: 'surprise'" in caplog.text
    assert "surprise" not in answer.body.decode()


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


def status_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line in this process; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["postroom", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation whose inbox holds a message that few encodings can show."""
    monkeypatch.chdir(tmp_path)
    text = "Subject: ✓ 한\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n✓ text".encode()
    Maildrop(tmp_path / "var/inbox").save("a@x.example", ["b@x.example"], text)


@pytest.mark.usefixtures("captured")
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("words", [["inbox"], ["inbox", "show"]], ids=" ".join)
def test_what_an_encoding_lacks_is_shown_escaped(
    words: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for ASCII alone, in place of which click takes UTF-8."""
    with io.TextIOWrapper(io.BytesIO(), encoding=encoding) as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert status_of(monkeypatch, *words) == 0
        out.flush()
        shown = out.buffer.getvalue()
    assert any(form in shown for form in (b"\\u2713", "✓".encode()))


@pytest.mark.usefixtures("captured")
def test_standard_output_that_is_closed_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdout", None)
        assert status_of(closed, "inbox", "show", "--raw") == 1
    assert capsys.readouterr().err == "postroom: standard output is closed\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["migrate-store", "\udcff", "postgresql://x/y"], 2, "SQLITE is not UTF-8 text"),
        (["migrate-store", "--cancel", "\udcff"], 2, "SQLITE is not UTF-8 text"),
        (["migrate-store", "x", "postgresql://\udcff/y"], 2, "POSTGRES is not UTF-8 text"),
        (["migrate-store", "x\u202ey", "postgresql://x/y"], 78, r"there is no database at x\u202ey"),
        (["--home", "x\u202ey\udcff", "list"], 78, r"cannot enter x\u202ey\udcff: No such file"),
    ],
    ids=["source", "cancel", "target", "reversed", "home"],
)
def test_an_argument_is_shown_escaped(
    words: list[str],
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status_of(monkeypatch, *words) == status
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes none, and it stands in the database with each worker's lock."""
    folder = tmp_path / "\udcff"
    folder.mkdir()
    with pytest.raises(ConfigError, match="names in UTF-8 alone"):
        open_store(f"sqlite:///{folder}/postroom.db")
    assert not list(folder.iterdir())


def test_a_python_that_cannot_be_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", str(free_port()))
    monkeypatch.setattr(sys, "executable", str(tmp_path))
    monkeypatch.setattr("postroom.runtime.installation.start_logging", lambda _: None)
    monkeypatch.setattr("postroom.runtime.supervisor.ignore_stray_signals", lambda: None)
    assert status_of(monkeypatch, "serve") == 78
    assert f"postroom: PYTHON: cannot run {tmp_path}: Permission denied" in capsys.readouterr().err


def test_accounts_that_cannot_be_written_name_their_setting(tmp_path: Path) -> None:
    """As where the folder is a file since the settings were read."""
    store = open_store(f"sqlite:///{tmp_path}/postroom.db")
    try:
        store.migrate()
        settings = Settings(accounts_csv=tmp_path / "postroom.db" / "data.csv")
        service = Service(settings, store, Vault.open(settings, tmp_path))
        with pytest.raises(ConfigError, match=r"^POSTROOM_ACCOUNTS_CSV: cannot write .*Not a directory"):
            write_demo_accounts(service)
    finally:
        store.close()
