"""Files that we are given: whatever stands in their place, nothing hangs, and a sentence says what it is."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from postroom.config import load_settings
from postroom.errors import ConfigError
from postroom.plainfile import MEBIBYTE, NotPlain, read_plain
from postroom.vault import Vault

Put = Callable[[Path], None]
KINDS = {
    "FIFO": "a FIFO",
    "zero": "a device",
    "null": "a device",
    "folder": "a directory",
    "socket": "a socket",
    "endless": "more than",
}


@pytest.fixture(params=sorted(KINDS))
def obstacle(request: pytest.FixtureRequest) -> Iterator[tuple[Put, str]]:
    """Something that is no plain file, to be put somewhere, and what is said of it."""
    with ExitStack() as stack:

        def put(path: Path) -> None:
            match request.param:
                case "FIFO":
                    os.mkfifo(path, 0o600)
                case "zero" | "null":
                    path.symlink_to(f"/dev/{request.param}")
                case "folder":
                    path.mkdir()
                case "socket":
                    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                    listener.bind(os.path.relpath(path))
                case "endless":
                    with path.open("wb") as file:
                        file.truncate(1 << 40)
                    path.chmod(0o600)

        yield put, KINDS[request.param]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_no_plain_file_is_named(obstacle: tuple[Put, str], tmp_path: Path) -> None:
    put, said = obstacle
    put(tmp_path / "it")
    with pytest.raises(NotPlain, match=said):
        read_plain(tmp_path / "it", MEBIBYTE)


def test_what_is_larger_than_the_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"x" * MEBIBYTE)
    assert len(read_plain(tmp_path / "it", MEBIBYTE)) == MEBIBYTE
    (tmp_path / "it").write_bytes(b"x" * (MEBIBYTE + 1))
    with pytest.raises(NotPlain, match="more than 1 MiB"):
        read_plain(tmp_path / "it", MEBIBYTE)


def test_a_file_that_is_exchanged_for_a_fifo_meanwhile_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fifo = tmp_path / "plain", tmp_path / "fifo"
    plain.write_text("x")
    os.mkfifo(fifo)
    mode = plain.stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: mode)
    with pytest.raises(NotPlain, match="a FIFO"):
        read_plain(fifo, MEBIBYTE)


def test_dot_env_is_refused(obstacle: tuple[Put, str], tmp_path: Path) -> None:
    put, said = obstacle
    put(tmp_path / ".env")
    with pytest.raises(ConfigError, match=rf"\.env.*cannot be read \(it (is|has) {said}"):
        load_settings()


def test_a_file_of_authorities_is_refused(
    obstacle: tuple[Put, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, said = obstacle
    put(tmp_path / "ca.pem")
    monkeypatch.setenv("POSTROOM_SMTP_CA_FILE", "ca.pem")
    with pytest.raises(ConfigError, match=f"POSTROOM_SMTP_CA_FILE.*{said}"):
        load_settings()


def test_a_secret_key_is_refused(obstacle: tuple[Put, str], tmp_path: Path) -> None:
    put, said = obstacle
    (tmp_path / "var").mkdir()
    put(tmp_path / "var/secret.key")
    with pytest.raises(ConfigError, match=f"POSTROOM_SECRET_KEY.*{said}"):
        Vault.open(load_settings(), tmp_path / "var")
