"""The calls of the admin API on PostgreSQL: the same tests, on a database of the other engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.accounts.csv_sync import AccountsFile
from postroom.accounts.vault import Vault
from postroom.runtime.installation import Service
from postroom.settings import Settings, variables
from postroom.store.store import open_store
from tests.http.conftest import MOST_BYTES, ROWS
from tests.http.test_admin_api import (
    admin,
    test_a_key_is_issued_used_listed_rotated_and_revoked,
    test_a_list_comes_in_pages,
    test_a_paused_account_accepts_and_its_messages_wait,
    test_a_pool_is_added_changed_given_a_key_and_deleted,
    test_a_revoked_key_of_the_installation_is_401_at_once,
    test_an_account_is_added_shown_listed_and_changed,
    test_an_account_of_the_file_is_changed_in_the_file,
    test_an_account_that_is_there_is_409,
    test_an_account_with_queued_messages_is_deleted_on_a_word_only,
    test_no_key_makes_or_widens_a_key_beyond_its_own_scopes,
    test_the_audit_names_who_changed_what_and_who_was_refused,
)
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.usefixtures("admin_token")

__all__ = [
    "admin",
    "test_a_key_is_issued_used_listed_rotated_and_revoked",
    "test_a_list_comes_in_pages",
    "test_a_paused_account_accepts_and_its_messages_wait",
    "test_a_pool_is_added_changed_given_a_key_and_deleted",
    "test_a_revoked_key_of_the_installation_is_401_at_once",
    "test_an_account_is_added_shown_listed_and_changed",
    "test_an_account_of_the_file_is_changed_in_the_file",
    "test_an_account_that_is_there_is_409",
    "test_an_account_with_queued_messages_is_deleted_on_a_word_only",
    "test_no_key_makes_or_widens_a_key_beyond_its_own_scopes",
    "test_the_audit_names_who_changed_what_and_who_was_refused",
]  # pytest finds them here


@pytest.fixture(scope="session")
def migrated(postgres_server: Postgres) -> str:
    """A database that is up to date, to copy."""
    name = postgres_server.create_database()
    store = open_store(postgres_server.url(name))
    store.migrate()
    store.close()
    return name


@pytest.fixture
def service(
    tmp_path: Path, postgres_server: Postgres, migrated: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """As in conftest, on PostgreSQL."""
    for setting in Settings.model_fields:
        for name in variables(setting):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text(ROWS, encoding="utf-8")
    name = postgres_server.create_database(migrated)
    store = open_store(postgres_server.url(name))
    settings = Settings(rate_limit="", max_message_bytes=MOST_BYTES)
    vault = Vault.open(settings, tmp_path / "var")
    AccountsFile(store, vault, tmp_path / "data.csv").sync()
    yield Service(settings, store, vault)
    store.close()
    postgres_server.drop_database(name)
