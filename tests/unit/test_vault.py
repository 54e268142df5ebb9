"""Secrets at rest: the key file, rotation, tampering, and nothing shown."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.core.account import Secret
from postroom.core.errors import ConfigError
from postroom.settings import Settings

OLD = Secret("canary-old-passphrase")
NEW = Secret("canary-new-passphrase")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("POSTROOM_SECRET_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


def _with_key(*keys: Secret) -> Settings:
    return Settings(secret_key=Secret(",".join(key.reveal() for key in keys)))


class TestSecrets:
    @given(st.text())
    def test_come_back_as_they_went_in(self, text: str) -> None:
        vault = Vault((NEW,))
        assert vault.decrypt(vault.encrypt(text)) == Secret(text)

    def test_look_different_each_time(self) -> None:
        vault = Vault((NEW,))
        assert vault.encrypt("x") != vault.encrypt("x")

    def test_altered_in_any_byte_are_refused(self) -> None:
        vault = Vault((NEW,))
        token = vault.encrypt("canary")
        for at in range(len(token) - 2):  # the last letters of base64 may hold unused bits
            altered = token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
            with pytest.raises(UndecryptableSecret):
                vault.decrypt(altered)

    @given(st.binary())
    def test_that_are_none_are_refused(self, token: bytes) -> None:
        with pytest.raises(UndecryptableSecret):
            Vault((NEW,)).decrypt(token)


class TestRotation:
    def test_first_key_encrypts_and_all_decrypt(self) -> None:
        before, during, after = Vault((OLD,)), Vault((NEW, OLD)), Vault((NEW,))
        assert during.decrypt(before.encrypt("x")) == Secret("x")
        assert after.decrypt(during.encrypt("x")) == Secret("x")
        with pytest.raises(UndecryptableSecret):
            after.decrypt(before.encrypt("x"))

    def test_digests_are_those_of_each_key(self) -> None:
        old, new = Vault((OLD,)).digest("api-key"), Vault((NEW,)).digest("api-key")
        both = Vault((NEW, OLD))
        assert both.digests("api-key") == (new, old)
        assert both.digest("api-key") == new != old
        assert len(new) == 32

    def test_fingerprint_is_the_primary_keys(self) -> None:
        assert Vault((NEW, OLD)).fingerprint == Vault((NEW,)).fingerprint != Vault((OLD,)).fingerprint

    def test_settings_carry_all_keys(self, tmp_path: Path) -> None:
        vault = Vault.open(_with_key(NEW, OLD), tmp_path)
        assert vault.fingerprint == Vault((NEW,)).fingerprint
        assert vault.decrypt(Vault((OLD,)).encrypt("x")) == Secret("x")
        assert list(tmp_path.iterdir()) == []


@given(st.text(st.characters(categories=None)))
def test_any_text_at_all_has_a_digest(key: str) -> None:
    assert len(Vault((NEW,)).digest(key)) == 32


def test_uses_have_keys_of_their_own() -> None:
    vault = Vault((NEW,))
    assert vault.fingerprint not in vault.digest("").hex()
    assert Vault((NEW,)).digest("k") != Vault((OLD,)).digest("k") != Vault((OLD,)).digest("l")


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class TestKeyFile:
    @pytest.mark.parametrize("mask", [0o000, 0o022, 0o377])
    def test_is_made_for_its_owner_alone(self, tmp_path: Path, mask: int) -> None:
        folder = tmp_path / "var"
        folder.mkdir()
        with _umask(mask):
            Vault.open(Settings(), folder)
        assert stat.S_IMODE((folder / "secret.key").stat().st_mode) == 0o600
        assert [path.name for path in folder.iterdir()] == ["secret.key"]

    def test_and_its_folder_are_made_and_used_again(self, tmp_path: Path) -> None:
        first = Vault.open(Settings(), tmp_path / "a" / "var")
        again = Vault.open(Settings(), tmp_path / "a" / "var")
        assert again.decrypt(first.encrypt("x")) == Secret("x")
        assert stat.S_IMODE((tmp_path / "a" / "var").stat().st_mode) == 0o700

    def test_content_moves_into_the_variable(self, tmp_path: Path) -> None:
        vault = Vault.open(Settings(), tmp_path)
        text = (tmp_path / "secret.key").read_text().strip()
        assert Vault.open(_with_key(NEW, Secret(text)), tmp_path / "x").decrypt(vault.encrypt("x"))

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
    def test_open_to_others_is_refused_with_the_fix(self, tmp_path: Path, mode: int) -> None:
        Vault.open(Settings(), tmp_path)
        (tmp_path / "secret.key").chmod(mode)
        with pytest.raises(ConfigError, match=r"chmod 600 .*secret\.key") as caught:
            Vault.open(Settings(), tmp_path)
        assert caught.value.variable == "POSTROOM_SECRET_KEY"

    @pytest.mark.parametrize("content", [b"", b"\n", b"canary-short", b"\xff" * 40])
    def test_without_a_key_is_refused_and_left_alone(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "secret.key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            Vault.open(Settings(), tmp_path)
        assert "canary" not in str(caught.value)
        assert path.read_bytes() == content

    def test_that_is_a_folder_a_pipe_or_a_broken_link_is_refused(self, tmp_path: Path) -> None:
        for name, make in (
            ("folder", lambda path: path.mkdir()),
            ("pipe", lambda path: os.mkfifo(path, 0o600)),
            ("link", lambda path: path.symlink_to("nowhere")),
        ):
            var_dir = tmp_path / name
            var_dir.mkdir()
            make(var_dir / "secret.key")
            with pytest.raises(ConfigError):
                Vault.open(Settings(), var_dir)

    def test_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "var").write_text("a file, not a folder")
        with pytest.raises(ConfigError, match=r"POSTROOM_SECRET_KEY: .* cannot be made or read"):
            Vault.open(Settings(), tmp_path / "var")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        Vault.open(Settings(), tmp_path)
        (tmp_path / "secret.key").chmod(0)
        with pytest.raises(ConfigError, match="Permission denied"):
            Vault.open(Settings(), tmp_path)

    def test_is_one_for_processes_that_start_together(self, tmp_path: Path) -> None:
        assert len(_race(tmp_path / "var", processes=8)) == 1
        assert [path.name for path in (tmp_path / "var").iterdir()] == ["secret.key"]


_RACERS = """
import os, sys
from pathlib import Path
from postroom.settings import Settings
from postroom.accounts.vault import Vault

settings = Settings()
ready, go = os.pipe()
children = []
for _ in range(int(sys.argv[2])):
    if (child := os.fork()) == 0:
        os.close(go)
        os.read(ready, 1)  # until the last one has closed its end
        fingerprint = Vault.open(settings, Path(sys.argv[1])).fingerprint
        os.write(1, f"{fingerprint}\\n".encode())
        os._exit(0)
    children.append(child)
os.close(go)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
"""


def _race(var_dir: Path, processes: int) -> set[str]:
    """Let processes open the vault at the same moment; return their fingerprints."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", _RACERS, str(var_dir), str(processes)],
        env={"PYTHONPATH": root, "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
    )
    fingerprints = done.stdout.split()
    assert len(fingerprints) == processes
    return set(fingerprints)


def test_nothing_shows_a_secret() -> None:
    vault = Vault((NEW, OLD))
    shown = [
        repr(vault),
        str(vault),
        f"{vault!r}",
        vault.fingerprint,
        repr(vault.decrypt(vault.encrypt("canary"))),
    ]
    for token in (Vault((Secret("another-canary-key"),)).encrypt("canary"), b"canary"):
        with pytest.raises(UndecryptableSecret) as caught:
            vault.decrypt(token)
        shown += [repr(caught.value), *traceback.format_exception_only(caught.value)]
        assert caught.value.__suppress_context__
    assert "canary" not in " ".join(shown)


def test_a_vault_needs_a_key() -> None:
    with pytest.raises(ValueError, match="needs a key"):
        Vault(())
