"""The admin token: given, or made once; in a file of the host that made it; replaced by another one."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.accounts.admin_token import FILE, ensure_admin_token, find_admin_token, renew_admin_token
from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.keys import ApiKeys
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.api_key import Scope
from postroom.core.errors import ConfigError, NotAuthenticated
from postroom.settings import Settings
from postroom.store.store import Store, open_store

FIRST, SECOND = Secret("first-" + "a" * 32), Secret("second-" + "b" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = open_store(f"sqlite:///{tmp_path}/postroom.db")
    found.migrate()
    yield found
    found.close()


@pytest.fixture
def vault(store: Store) -> Vault:
    made = Vault((Secret("a secret of sixteen characters"),))
    adopt_digest_key(store, made, create=True)
    return made


def works(store: Store, vault: Vault, token: Secret) -> bool:
    keys = ApiKeys(store, vault)
    keys.refresh()
    try:
        found = keys.authenticate(token.reveal())
    except NotAuthenticated:
        return False
    return found.key.scopes == {Scope.ADMIN} and found.key.is_of_installation


def host(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    return folder


def test_it_is_made_once_and_only_its_host_has_it(store: Store, vault: Vault, tmp_path: Path) -> None:
    one, other = host(tmp_path, "one"), host(tmp_path, "other")
    for var in one, other, one:
        ensure_admin_token(store, vault, Settings(), var)
    assert not (other / FILE).exists()
    assert stat.S_IMODE((one / FILE).stat().st_mode) == 0o600
    found = find_admin_token(store, vault, Settings(), one)
    assert found.token is not None
    assert works(store, vault, found.token)
    elsewhere = find_admin_token(store, vault, Settings(), other)
    assert elsewhere.token is None
    assert str(one / FILE) in elsewhere.place


def test_a_file_whose_token_was_not_stored_yet_is_taken(store: Store, vault: Vault, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(f"{FIRST.reveal()}\n")
    (tmp_path / FILE).chmod(0o600)
    ensure_admin_token(store, vault, Settings(), tmp_path)
    assert works(store, vault, FIRST)


def test_a_given_token_replaces_the_one_before_and_may_come_back(
    store: Store, vault: Vault, tmp_path: Path
) -> None:
    for given, ended in (FIRST, SECOND), (SECOND, FIRST), (FIRST, SECOND):
        settings = Settings(admin_token=given)
        ensure_admin_token(store, vault, settings, tmp_path)
        assert works(store, vault, given)
        assert not works(store, vault, ended)
        assert find_admin_token(store, vault, settings, tmp_path).token == given
    assert not (tmp_path / FILE).exists()
    assert find_admin_token(store, vault, Settings(), tmp_path).token is None


def test_a_new_one_ends_the_one_before(store: Store, vault: Vault, tmp_path: Path) -> None:
    ensure_admin_token(store, vault, Settings(), tmp_path)
    before = find_admin_token(store, vault, Settings(), tmp_path).token
    renew_admin_token(store, vault, tmp_path)
    after = find_admin_token(store, vault, Settings(), tmp_path).token
    assert before
    assert after
    assert before != after
    assert works(store, vault, after)
    assert not works(store, vault, before)


@pytest.mark.parametrize(("content", "mode"), [("short\n", 0o600), (FIRST.reveal(), 0o644)])
def test_a_file_that_cannot_be_the_token_is_refused(
    store: Store, vault: Vault, tmp_path: Path, content: str, mode: int
) -> None:
    (tmp_path / FILE).write_text(content)
    (tmp_path / FILE).chmod(mode)
    with pytest.raises(ConfigError) as caught:
        ensure_admin_token(store, vault, Settings(), tmp_path)
    assert caught.value.variable == "POSTROOM_ADMIN_TOKEN"
    assert FIRST.reveal() not in str(caught.value)
