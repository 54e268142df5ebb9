"""What cannot be an id is not looked for: PostgreSQL itself would refuse some of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroom.accounts.vault import Vault
from postroom.settings import Settings
from postroom.store.store import open_store
from postroom.web.app import create_app
from tests.servers.postgres import Postgres


@pytest.mark.parametrize("path", ["%00", "x%00y", "a" * 5000, "00000000-0000-7000-8000-000000000000%00"])
def test_what_is_no_id_is_not_found_on_postgresql(
    postgres_server: Postgres, tmp_path: Path, path: str
) -> None:
    store = open_store(postgres_server.url(postgres_server.create_database()))
    store.migrate()
    settings = Settings()
    client = create_app(settings, store, Vault.open(settings, tmp_path)).test_client()
    assert client.get(f"/email-status/{path}").status_code == 404
    store.close()
