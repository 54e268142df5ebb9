"""No setting, and no backup, names a file of the installation that is another one's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from postroom.core.errors import ConfigError
from postroom.runtime.own_files import check_own_files, owner_of
from postroom.settings import load_settings

VAR = Path("var")
# Whether the file is there or will be.
OF_THE_INSTALLATION = [
    "data.csv",
    ".env",
    "var/secret.key",
    "var/postroom.db",
    "var/postroom.db-wal",
    "var/postroom.db-shm",
    "var/postroom.db-lock",
    "var/postroom.db-restoring",
    "var/database.json",
    "var/email_log.lock",
    "var/log.lock",
    "var/notices.lock",
    "var/workers/x",
    "var/inbox/mail/x",
    "secrets/key",
    "authorities.pem",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("var", "secrets"):
        (tmp_path / name).mkdir()
    (tmp_path / "secrets/key").write_text("the secret of the service")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTROOM_SECRET_KEY_FILE", "secrets/key")
    return tmp_path


def _check(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    settings = load_settings().model_copy(update={"smtp_ca_file": Path("authorities.pem")})
    check_own_files(settings, VAR)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", OF_THE_INSTALLATION)
def test_the_log_is_no_file_of_the_installation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, there: bool
) -> None:
    if there:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch() if name != ".env" else (folder / name).write_text("HOST=127.0.0.1\n")
    for path in (name, f"./var/../{name}", str(folder / name)):
        with pytest.raises(ConfigError, match="name another file") as error:
            _check(monkeypatch, "POSTROOM_EMAIL_LOG", path)
        assert error.value.variable == "POSTROOM_EMAIL_LOG"


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard", "symbolic"])
def test_nor_by_another_name_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch, link: object) -> None:
    (folder / "var/secret.key").touch()
    assert link in (os.link, os.symlink)
    (os.link if link is os.link else os.symlink)(folder / "var/secret.key", folder / "log.txt")
    with pytest.raises(ConfigError, match="the file of the secret key"):
        _check(monkeypatch, "POSTROOM_EMAIL_LOG", "log.txt")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("POSTROOM_ACCOUNTS_CSV", "var/postroom.db"),
        ("POSTROOM_ACCOUNTS_CSV", ".env"),
        ("POSTROOM_ACCOUNTS_CSV", "email_log.txt"),
        ("DATABASE_URL", "sqlite:///data.csv"),
        ("DATABASE_URL", "sqlite:///var/secret.key"),
        ("DATABASE_URL", "sqlite:///email_log.txt"),
    ],
)
def test_the_others_are_files_of_their_own_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    with pytest.raises(ConfigError, match="name another file"):  # either of the two may be named
        _check(monkeypatch, variable, value)


@pytest.mark.parametrize(
    "value", ["email_log.txt", "logs/x.txt", "var/email_log.txt", "/dev/stdout", "/dev/null"]
)
def test_any_other_file_may_be_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    _check(monkeypatch, "POSTROOM_EMAIL_LOG", value)


def test_what_cannot_be_a_name_is_left_to_whoever_opens_it(folder: Path) -> None:
    assert owner_of(Path("a\0b"), load_settings(), VAR) is None
