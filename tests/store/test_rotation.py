"""Rotation of the secret key: every place of a secret is known, each value is sealed anew, and no change is overwritten."""

from __future__ import annotations

import re

import pytest

from postroom.accounts import oauth
from postroom.accounts.csv_sync import password_context, sealing, unlock
from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.keys import ApiKeys
from postroom.accounts.sealed_values import context_of, needing_former, needing_missing, reseal_all
from postroom.accounts.vault import UndecryptableSecret, Vault
from postroom.core.account import Secret
from postroom.core.errors import ConfigError
from postroom.runtime.secret_key import check_former_values, end_rotation, give_up, keep_check_value
from postroom.store.accounts import Accounts
from postroom.store.issued_keys import note_key_used
from postroom.store.keys import Keys
from postroom.store.sealed_values import Place, SealedValues
from postroom.store.settings import StoredSettings
from postroom.store.store import SECRET_CHECK, Store
from postroom.store.transaction import Transaction
from tests.servers.installation import ROOT
from tests.store.database import NOW, PLAIN, Database, at_its_own_server

OLD, NEW, OTHER = (Secret(f"the {name} secret of the service") for name in ("former", "new", "other"))
PASSWORD = Secret("pass word äß")
# Columns of octets without a secret: digests, and the texts of messages.
NO_SECRETS = {
    "api_key.digest",
    "api_key.own_digest",
    "issued_key.digest",
    "idempotency.fingerprint",
    "content.mime",
    "content_piece.octets",
}


def add_account(store: Store, vault: Vault, email: str, *, fernet: bool = False) -> int:
    def credential(uid: str) -> bytes | None:
        return vault.encrypt(PASSWORD.reveal()) if fernet else sealing(PASSWORD, vault)(uid)

    return store.write(Accounts.insert, at_its_own_server(email), PLAIN, credential, source="api", now=NOW)


def add_grant(database: Database, store: Store, vault: Vault, account_id: int) -> None:
    """Store an OAuth2 grant with a secret in each of its places."""
    [uid] = [each.account.uid for each in store.read(Accounts.all) if each.account.id == account_id]
    columns = {
        place.value.partition(".")[2]: place for place in Place if place.value.startswith("oauth_grant.")
    }
    values = {
        name: vault.seal(f"{name} of {uid}", context_of(place, uid)).hex() for name, place in columns.items()
    }
    octets = "X'{}'" if database.url.startswith("sqlite") else "decode('{}', 'hex')"
    database.change(
        "INSERT INTO oauth_grant (account_id, provider, kind, token_endpoint, client_id, scope, updated_at,"
        f" {', '.join(values)}) VALUES ({account_id}, 'google', 'refresh_token', 'https://x.example', 'id', 'mail', 0,"
        f" {', '.join(octets.format(value) for value in values.values())})"
    )


def opened(store: Store, vault: Vault) -> dict[str, str]:
    """Return every secret in the database, in clear, by its place and row."""
    found = {}
    for place in Place:
        for value in store.read(SealedValues.stale, place, b"", after=-1, most=1000):
            text = vault.open_sealed(value.token, context_of(place, value.uid))
            found[f"{place.value}:{value.row_id}"] = text.reveal()
    return found


@pytest.fixture
def old(store: Store) -> Vault:
    """The vault with the former secret, whose check value and digest key are in the database."""
    made = Vault((OLD,))
    keep_check_value(store, made)
    adopt_digest_key(store, made, create=True)
    check_former_values(store, made)
    return made


def test_every_column_that_holds_secrets_is_in_the_registry() -> None:
    schema = (ROOT / "postroom/store/schema/sqlite.sql").read_text(encoding="utf-8")
    found = {
        f"{table}.{column}"
        for table, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\n(?:\)|,[^\n]*\));?", schema, re.DOTALL)
        for column in re.findall(r"(\w+)\s+BLOB", body)
    } | {"api_key.own_digest"}
    assert len(re.findall(r"\bBLOB\b", schema)) == len(found), "a column is not found by this test"
    assert found - NO_SECRETS == {place.value for place in Place} - {Place.DIGEST_KEY.value}


def test_the_registry_has_the_contexts_that_grants_are_sealed_with() -> None:
    for place in Place.CLIENT_SECRET, Place.GRANT_SECRET, Place.ACCESS_TOKEN:
        assert context_of(place, "uid") == oauth.context("uid", place.value.partition(".")[2])


def test_every_value_is_sealed_by_the_new_key(store: Store, database: Database, old: Vault) -> None:
    for number in range(45):
        account_id = add_account(store, old, f"a{number}@example.com", fernet=number % 3 == 0)
        if number % 5 == 0:
            add_grant(database, store, old, account_id)
    before = opened(store, old)
    assert len(before) == 45 + 3 * 9 + 1
    both, new = Vault((NEW, OLD)), Vault((NEW,))
    assert sum(needing_former(store, both).values()) == len(before)
    assert sum(map(len, needing_missing(store, new).values())) == len(before)
    assert reseal_all(store, both) == len(before)
    assert opened(store, new) == before
    assert not any(needing_former(store, both).values())
    assert not needing_missing(store, new)
    assert reseal_all(store, both) == 0


def test_a_password_that_is_changed_meanwhile_is_not_overwritten(store: Store, old: Vault) -> None:
    """Rotation has read the old ciphertext when the password changes; what it writes must not bring that one back."""
    account_id = add_account(store, old, "ann@example.com")
    both = Vault((NEW, OLD))
    [read] = store.read(SealedValues.stale, Place.CREDENTIAL, both.beginning, after=-1, most=10)
    changed = sealing(Secret("another password"), old)(read.uid)
    store.write(Accounts.change, account_id, PLAIN, changed, now=NOW)
    sealed = both.seal(PASSWORD.reveal(), password_context(read.uid))
    assert not store.write(SealedValues.replace, Place.CREDENTIAL, read, sealed)
    [stored] = store.read(Accounts.all)
    assert unlock(stored, both).password.reveal() == "another password"
    reseal_all(store, both)
    [stored] = store.read(Accounts.all)
    assert unlock(stored, Vault((NEW,))).password.reveal() == "another password"


@pytest.mark.parametrize("place", Place)
def test_each_place_is_replaced_only_where_it_is_what_was_read(
    store: Store, database: Database, old: Vault, place: Place
) -> None:
    add_grant(database, store, old, add_account(store, old, "ann@example.com"))
    [read] = store.read(SealedValues.stale, place, b"", after=-1, most=10)
    first, second = (old.seal(text, "anywhere") for text in "ab")
    assert store.write(SealedValues.replace, place, read, first)
    assert not store.write(SealedValues.replace, place, read, second)
    [found] = store.read(SealedValues.stale, place, b"", after=-1, most=10)
    assert bytes(found.token) == first


def test_a_copied_ciphertext_does_not_open_in_another_row(
    store: Store, database: Database, old: Vault
) -> None:
    """Nor in another column of the same row, before and after a rotation."""
    for email in "ann@example.com", "bob@example.com":
        add_grant(database, store, old, add_account(store, old, email))
    for vault in old, Vault((NEW, OLD)):
        reseal_all(store, vault)
        found = [
            (place, value)
            for place in Place
            for value in store.read(SealedValues.stale, place, b"", after=-1, most=10)
        ]
        for place, value in found:
            for other_place, other in found:
                if (place, value.uid) == (other_place, other.uid):
                    continue
                with pytest.raises(UndecryptableSecret):
                    vault.open_sealed(value.token, context_of(other_place, other.uid))


def test_a_copied_credential_logs_nobody_in(store: Store, database: Database, old: Vault) -> None:
    ann, bob = (add_account(store, old, f"{name}@example.com") for name in ("ann", "bob"))
    database.change(
        f"UPDATE account SET credential = (SELECT credential FROM account WHERE id = {ann}) WHERE id = {bob}"
    )
    accounts = {each.account.id: each for each in store.read(Accounts.all)}
    assert unlock(accounts[ann], old).password.reveal() == PASSWORD.reveal()
    with pytest.raises(UndecryptableSecret):
        unlock(accounts[bob], old)


def test_a_start_without_the_former_key_is_refused_as_long_as_anything_needs_it(
    store: Store, old: Vault
) -> None:
    add_account(store, old, "ann@example.com")
    both, new = Vault((NEW, OLD)), Vault((NEW,))
    check_former_values(store, both)
    keep_check_value(store, both)
    with pytest.raises(ConfigError, match=r"2 stored secrets need .* postroom secrets rotate"):
        check_former_values(store, new)
    reseal_all(store, both)
    check_former_values(store, new)
    keep_check_value(store, new)
    with pytest.raises(ConfigError, match="secret key"):
        keep_check_value(store, old)


def test_the_check_value_is_the_new_keys_from_the_first_start_with_it(store: Store, old: Vault) -> None:
    """What a process with the former key alone would seal or read is of no use from then on."""
    keep_check_value(store, Vault((NEW, OLD)))
    assert store.read(StoredSettings.get, SECRET_CHECK) == Vault((NEW,)).fingerprint
    keep_check_value(store, Vault((OLD, NEW)))
    assert store.read(StoredSettings.get, SECRET_CHECK) == old.fingerprint


def test_what_was_unreadable_before_this_version_keeps_nothing_from_starting(store: Store) -> None:
    """An earlier version left the password of an account behind that had left data.csv when the secret changed."""
    add_account(store, Vault((OTHER,)), "gone@example.com", fernet=True)
    vault = Vault((OLD,))
    keep_check_value(store, vault)
    check_former_values(store, vault)
    add_account(store, Vault((OTHER,)), "ann@example.com", fernet=True)
    with pytest.raises(ConfigError, match="1 stored secret needs"):
        check_former_values(store, vault)


def test_what_was_given_up_counts_again_once_it_was_read(store: Store) -> None:
    add_account(store, Vault((OTHER,)), "ann@example.com")
    give_up(store, needing_missing(store, Vault((OLD,))))
    check_former_values(store, Vault((OLD,)))
    both = Vault((OLD, OTHER))
    reseal_all(store, both)
    end_rotation(store, both)
    with pytest.raises(ConfigError, match="1 stored secret needs"):
        check_former_values(store, Vault((NEW,)))


def test_damaged_values_need_no_former_key(store: Store, database: Database, old: Vault) -> None:
    add_account(store, old, "ann@example.com")
    database.change(
        "UPDATE account SET credential = " + ("X'00'" if database.url.startswith("sqlite") else "'\\x00'")
    )
    check_former_values(store, old)
    assert reseal_all(store, old) == 0


def test_a_key_of_an_earlier_version_goes_over_when_it_is_used(store: Store, old: Vault) -> None:
    """It was stored by the secret's digest alone; an unused one is counted, and needs the former secret."""
    account_id = add_account(store, old, "ann@example.com")
    for key in "used", "unused":
        store.write(Keys.grant, account_id, old.digest(key), source="csv", now=NOW)
    both = Vault((NEW, OLD))
    keep_check_value(store, both)
    adopt_digest_key(store, both, create=False)
    with pytest.raises(ConfigError, match="4 stored secrets need"):
        check_former_values(store, Vault((NEW,)))
    reseal_all(store, both)
    keys = ApiKeys(store, both)
    keys.refresh()
    principal = keys.authenticate("used")
    assert principal.is_new

    def use(transaction: Transaction) -> None:
        note_key_used(transaction, principal.key, NOW)

    store.write(use)
    keys.note_used(principal.digest)
    assert not keys.authenticate("used").is_new
    new = Vault((NEW,))
    with pytest.raises(ConfigError, match="1 stored secret needs"):
        check_former_values(store, new)
    adopt_digest_key(store, new, create=False)
    after = ApiKeys(store, new)
    after.refresh()
    assert not after.authenticate("used").is_new
