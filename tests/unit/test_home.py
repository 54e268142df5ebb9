"""Commands find the installation that they are to work on, or say where they looked."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from postroom.cli import main
from postroom.runtime import accounts_file, installation
from postroom.store.keys import Keys
from postroom.store.store import open_store
from tests.servers.programs import free_port


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> ApiRequest:
    monkeypatch.delenv("POSTROOM_HOME", raising=False)
    monkeypatch.setenv("POSTROOM_LOG_LEVEL", "ERROR")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return ApiRequest(monkeypatch, capfd)


class ApiRequest:
    """Run a command in this process as the shell would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *words: str) -> tuple[int | str | None, str]:
        self._monkeypatch.setattr("sys.argv", ["postroom", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return ended.value.code, self._capfd.readouterr().err


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An installation without accounts."""
    folder = tmp_path / "home"
    store = open_store(f"sqlite:///{folder}/var/postroom.db")
    store.migrate()
    store.close()
    return folder


@pytest.mark.parametrize(
    "words", [["accounts"], ["status", "x"], ["inbox"], ["inbox", "show", "latest"], ["worker"], ["web"]]
)
def test_a_folder_without_an_installation_is_named(
    call: ApiRequest, words: list[str], tmp_path: Path
) -> None:
    status, said = call(*words)
    assert status == 78
    assert f"{tmp_path}/elsewhere" in said
    assert "--home DIR" in said


def test_home_is_entered_for_every_command(call: ApiRequest, home: Path) -> None:
    assert call("--home", str(home), "accounts") == (
        0,
        "there are no accounts; add one: postroom accounts add EMAIL, or a row of data.csv\n",
    )
    assert os.environ.pop("POSTROOM_HOME") == str(Path.cwd()) == str(home)


def test_postroom_home_is_entered_and_processes_that_follow_find_it_too(
    call: ApiRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTROOM_HOME", "../home")
    assert call("inbox") == (0, "the inbox is empty\n")
    assert os.environ["POSTROOM_HOME"] == str(home)


def test_a_home_that_is_not_there_is_named(call: ApiRequest) -> None:
    status, said = call("--home", "nowhere", "accounts")
    assert (status, said.partition(":")[0]) == (78, "postroom")
    assert "cannot enter nowhere: No such file or directory" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_home_that_may_not_be_entered_is_named_with_its_owner(call: ApiRequest, home: Path) -> None:
    home.chmod(0o700)
    try:
        os.seteuid(65534)
        status, said = call("--home", str(home), "accounts")
    finally:
        os.seteuid(0)
    assert status == 78
    assert re.search(r"Permission denied: \S+ belongs to root:root with mode 0700, and we are nobody\n", said)


def test_accounts_in_a_folder_that_is_not_there_end_with_78(
    call: ApiRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTROOM_ACCOUNTS_CSV", str(tmp_path / "nowhere/data.csv"))
    monkeypatch.setenv("PORT", str(free_port()))
    status, said = call("serve")
    assert status == 78
    assert f"there is no folder {tmp_path}/nowhere" in said


def test_no_first_data_csv_takes_the_place_of_one_that_has_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All keys would end with it."""
    monkeypatch.chdir(tmp_path)
    service = installation.open_service(migrate=True)
    try:
        assert accounts_file.write_demo_accounts(service) is not None
        assert accounts_file.read_accounts_file(service) is not None
        keys = service.store.read(Keys.active)
        Path("data.csv").unlink()
        assert accounts_file.write_demo_accounts(service) is None
        found = accounts_file.read_accounts_file(service)
        assert found is not None
        assert "is not there" in found.faults[0].message
        assert service.store.read(Keys.active) == keys != {}
    finally:
        service.store.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("words", [["accounts"], ["inbox"], ["status", "x"]])
def test_another_user_gets_a_sentence(
    call: ApiRequest, home: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (home / "var").chmod(0o700)
    try:
        os.seteuid(65534)
        status, said = call(*words)
    finally:
        os.seteuid(0)
    assert status == 78
    assert "Traceback" not in said
    assert said.count("\n") == 1
