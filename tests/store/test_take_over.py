"""Accounts of a file that are taken over: settings, passwords and keys at once, and no data.csv counts for them later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from postroom.accounts.csv import read_accounts
from postroom.accounts.csv_export import csv_of
from postroom.accounts.csv_sync import AccountsFile, unlock
from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.key_management import KeyManagement
from postroom.accounts.keys import ApiKeys
from postroom.accounts.management import AccountManagement
from postroom.accounts.take_over import Difference, Kind, look, take_over
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.audit import Actor
from postroom.core.errors import Conflict, InvalidSubmission, NotAuthenticated
from postroom.settings import Settings
from postroom.store.accounts import Accounts, StoredAccount
from postroom.store.audit import Audit
from postroom.store.issued_keys import IssuedKeys
from postroom.store.keys import Keys
from postroom.store.store import Store
from tests.store.database import Database

ANN = "the-key-of-ann-which-is-long,ann@x.example,secret,mail.x.example"
BEN = "the-key-of-ben-which-is-long,ben@x.example,secret,mail.x.example"
ADMIN = Actor("user tester", "here")


class Office:
    """A store with a vault and a data.csv."""

    def __init__(self, store: Store, path: Path) -> None:
        self.store = store
        self.path = path
        self.vault = Vault((Secret("the secret of this test"),))
        adopt_digest_key(store, self.vault, create=True)

    def sync(self, *rows: str) -> int:
        """Write data.csv and take it in; return how many rows did not count."""
        self.path.write_bytes(text(*rows))
        found = AccountsFile(self.store, self.vault, self.path).sync()
        assert found is not None
        return found.managed

    def look(self, *rows: str) -> list[Difference]:
        return look(self.store, self.vault, read_accounts(text(*rows), needs_keys=False).rows)

    def take_over(self, *rows: str) -> list[Difference]:
        found = read_accounts(text(*rows), needs_keys=False).rows
        return take_over(self.store, self.vault, found, ADMIN, "data.csv")

    def owner(self, key: str) -> str:
        """Return the mailbox that a key acts for, as any process finds it."""
        keys = ApiKeys(self.store, self.vault)
        keys.refresh(time.monotonic())
        owner = keys.authenticate(key).owner
        assert owner is not None
        return owner.email

    def accounts(self) -> dict[str, StoredAccount]:
        return {stored.account.email: stored for stored in self.store.read(Accounts.all)}


def test_aliases_selector_and_hold_go_there_and_back(office: Office) -> None:
    head = b"key,email,app_password,host,aliases,dkim_selector,hold\n"
    row = b",ann@x.example,secret,mail.x.example,"

    def take(rows: bytes) -> list[Difference]:
        found = read_accounts(rows, needs_keys=False).rows
        return take_over(office.store, office.vault, found, ADMIN, "file.csv")

    def there() -> tuple[list[str], str | None, bool]:
        account = office.accounts()["ann@x.example"].account
        aliases = office.store.read(lambda tx: [alias.email for alias in tx.aliases.of(account.id)])
        return aliases, account.dkim_selector, account.hold

    take(head + row + b"a@x.example b@x.example,google,true\n")
    assert there() == (["a@x.example", "b@x.example"], "google", True)
    aliases = office.store.read(
        lambda tx: {
            each.account.id: [a.email for a in tx.aliases.of(each.account.id)] for each in tx.accounts.all()
        }
    )
    written = csv_of(office.accounts().values(), office.vault, aliases).encode()
    assert [found.changes for found in take(written)] == [()]
    take(text(ANN))  # without these columns
    assert there() == (["a@x.example", "b@x.example"], "google", True)
    [found] = take(head + row + b",,\n")
    assert set(found.changes) == {"aliases", "dkim_selector", "hold"}
    assert there() == ([], None, False)


def text(*rows: str) -> bytes:
    return "\n".join(("key,email,app_password,host", *rows, "")).encode()


@pytest.fixture
def office(database: Database, tmp_path: Path) -> Iterator[Office]:
    with closing(database.open()) as store:
        yield Office(store, tmp_path / "data.csv")


def test_the_same_keys_work_before_and_after(office: Office) -> None:
    office.sync(ANN, BEN)
    before = office.accounts()
    assert office.owner("the-key-of-ann-which-is-long") == "ann@x.example"
    expected = [
        Difference(f"{name}@x.example", Kind.TAKEN_OVER, (), keys=1, revoked=0, stopped=0)
        for name in ("ann", "ben")
    ]
    assert office.look(ANN, BEN) == expected
    assert office.accounts() == before, "a look changes nothing"
    assert office.take_over(ANN, BEN) == expected
    after = office.accounts()
    assert {each.account.source for each in after.values()} == {"api"}
    assert {each.account.uid for each in after.values()} == {each.account.uid for each in before.values()}
    assert unlock(after["ann@x.example"], office.vault).password == Secret("secret")
    assert office.owner("the-key-of-ann-which-is-long") == "ann@x.example"
    assert office.owner("the-key-of-ben-which-is-long") == "ben@x.example"
    assert office.store.read(Keys.active) == {}
    issued = office.store.read(IssuedKeys.page, 10)
    assert [(each.key.name, each.source, each.hint) for each in issued] == [
        ("data.csv line 3", "csv", "long"),
        ("data.csv line 2", "csv", "long"),
    ]
    actions = [(entry.action, entry.target) for entry in office.store.read(Audit.page, 10)]
    assert ("account.import", "ann@x.example") in actions
    assert ("key.issue", "data.csv line 2") in actions


def test_no_file_counts_for_them_any_more(office: Office) -> None:
    office.sync(ANN, BEN)
    office.take_over(ANN, BEN)
    accounts = AccountManagement(office.store, office.vault, Settings())
    ben = office.accounts()["ben@x.example"].account
    accounts.change(ben.uid, {"host": "other.x.example"}, ADMIN, password=Secret("new"))
    [key] = [each for each in office.store.read(IssuedKeys.page, 10) if each.key.account_id == ben.id]
    KeyManagement(office.store, office.vault).revoke(key.key.uid or "", ADMIN)
    before = office.accounts()
    assert (
        office.sync(ANN.replace("secret", "older"), BEN, "a-new-one,ann@x.example,older,mail.x.example") == 3
    )
    assert office.accounts() == before, "nor does one for an account that has another server since"
    assert office.owner("the-key-of-ann-which-is-long") == "ann@x.example"
    for gone in ("the-key-of-ben-which-is-long", "a-new-one"):
        with pytest.raises(NotAuthenticated):
            office.owner(gone)
    [again] = office.look(BEN.replace("mail.", "other."))
    assert (again.kind, again.keys, again.revoked) == (Kind.MANAGED, 0, 1), "revoked stays revoked"


def test_a_file_that_has_gone_is_not_missed(office: Office) -> None:
    office.sync(ANN)
    office.take_over(ANN)
    office.path.unlink()
    assert AccountsFile(office.store, office.vault, office.path).sync() is None


def test_what_the_file_has_otherwise_is_said_and_stored(office: Office) -> None:
    office.sync(ANN, "another-key-of-ann-that-is-long,ann@x.example,secret,mail.x.example")
    [found] = office.take_over(ANN.replace("secret", "changed"))
    assert found == Difference("ann@x.example", Kind.TAKEN_OVER, ("password",), keys=1, revoked=0, stopped=1)
    assert unlock(office.accounts()["ann@x.example"], office.vault).password == Secret("changed")
    with pytest.raises(NotAuthenticated):
        office.owner("another-key-of-ann-that-is-long")


def test_a_key_of_another_account_takes_nothing_over(office: Office) -> None:
    office.sync(ANN)
    with pytest.raises(Conflict, match="line 3: this key is another account's"):
        office.take_over(BEN, "the-key-of-ann-which-is-long,carl@x.example,secret,mail.x.example")
    assert [*office.accounts()] == ["ann@x.example"]
    assert office.owner("the-key-of-ann-which-is-long") == "ann@x.example"


def test_an_export_with_passwords_is_taken_over_elsewhere(office: Office) -> None:
    office.take_over(ANN)
    exported = csv_of(office.store.read(Accounts.all), office.vault, {})
    assert "the-key-of-ann" not in exported
    assert "secret" not in csv_of(office.store.read(Accounts.all), None, {})
    [row] = read_accounts(exported.encode(), needs_keys=False).rows
    assert (row.email, row.host, row.password) == ("ann@x.example", "mail.x.example", Secret("secret"))
    [found] = look(office.store, office.vault, [row])
    assert found == Difference("ann@x.example", Kind.MANAGED, (), keys=0, revoked=0, stopped=0)


def test_a_row_without_a_password_keeps_the_stored_one_and_its_tls(office: Office) -> None:
    office.take_over(ANN)
    office.take_over(",ann@x.example,,mail.x.example")
    assert unlock(office.accounts()["ann@x.example"], office.vault).password == Secret("secret")
    weaker = b"key,email,app_password,host,security\n,ann@x.example,,mail.x.example,none\n"
    with pytest.raises(InvalidSubmission, match="does not go out without TLS"):
        look(office.store, office.vault, read_accounts(weaker, needs_keys=False).rows)
