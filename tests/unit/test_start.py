"""What a start reads of accounts: a number of rows that does not grow with theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postroom.accounts import csv_sync
from postroom.runtime import accounts_file, installation
from postroom.runtime.installation import Service
from postroom.store.accounts import Accounts, StoredAccount

HEAD = "key,email,app_password,host\n"
ANNA = "anna-canary-key,anna@example.com,abcdefghijklmnop,smtp.example.com\n"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text(HEAD + ANNA)
    service = installation.open_service(migrate=True)
    yield service
    service.store.close()


def _refuse_to_parse(data: bytes) -> object:
    pytest.fail("the file was parsed again")


def _refuse_to_read(accounts: Accounts) -> list[StoredAccount]:
    pytest.fail("all accounts were read")


def test_a_file_in_order_is_not_parsed_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accounts_file.read_accounts_file(service) is not None
    monkeypatch.setattr(csv_sync, "read_accounts", _refuse_to_parse)
    assert accounts_file.read_accounts_file(service) is None


def test_a_file_in_order_that_was_read_before_is_parsed_once_more(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a version that did not note that it was in order."""
    accounts_file.read_accounts_file(service)
    service.store.write(lambda transaction: transaction.settings.forget("faultless_csv"))
    assert accounts_file.read_accounts_file(service) is None
    monkeypatch.setattr(csv_sync, "read_accounts", _refuse_to_parse)
    assert accounts_file.read_accounts_file(service) is None


def test_faults_of_a_file_are_told_at_each_start(service: Service) -> None:
    accounts_file.read_accounts_file(service)
    Path("data.csv").write_text(HEAD + ANNA + "berta-key,nonsense,,\n")
    for _ in range(3):
        found = accounts_file.read_accounts_file(service)
        assert found is not None
        assert [fault.line for fault in found.faults] == [3]


@pytest.mark.parametrize(
    ("row", "configured", "expected"),
    [
        ("smtp.example.com", None, False),
        ("smtp.example.com", "inbox", False),
        ("inbox", None, True),
        ("INBOX", None, True),
        ("", "inbox", True),
        ("", "smtp.example.com", False),
        ("", None, False),
    ],
)
def test_the_inbox_runs_where_an_account_uses_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, row: str, configured: str | None, expected: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if configured:
        monkeypatch.setenv("POSTROOM_SMTP_HOST", configured)
    Path("data.csv").write_text(HEAD + ANNA + f"berta-canary-key,berta@gmail.com,abcdefghijklmnop,{row}\n")
    service = installation.open_service(migrate=True)
    accounts_file.read_accounts_file(service)
    monkeypatch.setattr(Accounts, "all", _refuse_to_read)
    assert installation.uses_inbox(service) is expected
    service.store.close()


def test_a_start_reads_no_account_whose_server_is_known(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts_file.read_accounts_file(service)
    monkeypatch.setattr(Accounts, "all", _refuse_to_read)
    installation.note_servers(service.store, service.settings)
