"""Web processes learn of every change of keys, whichever process wrote it, and no function that writes can forget it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from functools import wraps

import pytest

from postroom.accounts.keys import ApiKeys
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.errors import NotAuthenticated
from postroom.store.accounts import AccountIdentity, Accounts
from postroom.store.keys import Keys
from postroom.store.settings import StoredSettings
from postroom.store.store import Store, open_store
from postroom.store.transaction import KEYS_REVISION, Transaction
from tests.children import CHILDREN
from tests.servers.installation import ROOT
from tests.servers.waiting import eventually
from tests.store.database import NOW, PLAIN, Database

VAULT = Vault((Secret("a-secret-key-of-tests"),))
STORE = ROOT / "postroom" / "store"
# Statements that write to keys or accounts, and open nothing to anybody and shut nobody out.
CHANGES_NO_KEY = {
    "note_key_used": "each process asks for it where it matters (`ApiKeys.is_used_elsewhere`)",
    "note_issued_key_used": "the same",
    "hold_file_key": "it changes nothing: it is held until the commit",
    "hold_issued_key": "the same",
    "lock_issued_key": "the same",
    "revoke_stopped_keys": "these keys have not worked since they were stopped",
}
# The columns of an account that web processes use: who may send, and as whom.
OF_THE_WEB = {"id", "email", "name"}


def _account(transaction: Transaction, name: str = "Anna") -> int:
    identity, settings = AccountIdentity("anna@example.com", None, None, None), replace(PLAIN, name=name)
    return transaction.accounts.upsert(identity, settings, lambda uid: None, source="csv", now=NOW)


def _first(transaction: Transaction) -> None:
    transaction.keys.grant(_account(transaction), VAULT.digest("a key"), source="csv", now=NOW)


def _grant(transaction: Transaction, account_id: int) -> None:
    transaction.keys.grant(account_id, VAULT.digest("a new key"), source="csv", now=NOW)


def _revoke(transaction: Transaction, account_id: int) -> None:
    transaction.keys.revoke_except((), source="csv", now=NOW)


def _rename(transaction: Transaction, account_id: int) -> None:
    _account(transaction, "Anna Maria")


CHANGES: dict[str, tuple[Callable[[Transaction, int], None], str, str | None]] = {
    "grant": (_grant, "a new key", "Anna"),
    "revoke": (_revoke, "a key", None),
    "rename": (_rename, "a key", "Anna Maria"),
}


def _owner(keys: ApiKeys, key: str) -> str | None:
    """Return the name of the key's account, as a request finds it."""
    if not keys.is_fresh:
        keys.refresh()
    try:
        return keys.authenticate(key).account.name
    except NotAuthenticated:
        return None


def _change(url: str, name: str) -> None:
    """Write as another process."""
    store = open_store(url)
    [anna] = store.read(Accounts.all)
    store.write(lambda transaction: CHANGES[name][0](transaction, anna.account.id))
    store.close()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_by_another_process_counts_soon(store: Store, database: Database, name: str) -> None:
    store.write(_first)
    keys = ApiKeys(store, VAULT)
    _, key, owner = CHANGES[name]
    before = _owner(keys, key)
    assert before != owner
    process = CHILDREN.Process(target=_change, args=(database.url, name))
    process.start()
    process.join()
    assert process.exitcode == 0
    eventually(lambda: _owner(keys, key) == owner, message="the change to be seen")


def test_without_a_change_the_keys_are_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(_first)
    keys = ApiKeys(store, VAULT)
    assert _owner(keys, "a key") == "Anna"
    looks: list[str | None] = []

    read = StoredSettings.get

    @wraps(read)
    def get(self: StoredSettings, name: str) -> str | None:
        looks.append(read(self, name))
        return looks[-1]

    monkeypatch.setattr(StoredSettings, "get", get)
    monkeypatch.setattr(
        Keys, "working", wraps(Keys.working)(lambda self: pytest.fail("the keys were read again"))
    )
    store.write(StoredSettings.set, "another", "write")
    eventually(lambda: _owner(keys, "a key") and len(looks) == 2, message="two looks at the revision")


def test_a_work_that_fails_beside_it_loses_no_change(store: Store) -> None:
    def fail(transaction: Transaction) -> None:
        _first(transaction)
        raise ValueError("this work is undone")

    before = store.read(StoredSettings.get, KEYS_REVISION)
    refused, granted = store.write_all([fail, _first])
    assert (type(refused.error), granted.error) == (ValueError, None)
    assert store.read(StoredSettings.get, KEYS_REVISION) != before


def _statements() -> dict[str, str]:
    """Return the named statements that write to keys, or to what web processes use of an account."""
    found: dict[str, str] = {}
    for path in STORE.rglob("*.sql"):
        text = re.sub(r"--(?! name:).*", "", path.read_text(encoding="utf-8"))
        found |= re.findall(r"-- name: (\w+)\S*\n(.*?)(?=-- name:|\Z)", text, re.S)
    return {name: sql for name, sql in found.items() if name not in CHANGES_NO_KEY and _changes_keys(sql)}


def _changes_keys(sql: str) -> bool:
    if re.search(r"\b(INSERT INTO|UPDATE|DELETE FROM)\s+(api_key|issued_key|stopped_key)\b", sql, re.I):
        return True
    if re.search(r"\b(INSERT INTO|DELETE FROM)\s+account\b", sql, re.I):
        return True
    update = re.search(r"\bUPDATE\s+account\s+SET\s+(.*?)(\bWHERE\b|;|\Z)", sql, re.I | re.S)
    return update is not None and bool(OF_THE_WEB & set(re.findall(r"(\w+)\s*=", update[1])))


def _called(function: ast.AST) -> set[str]:
    """Return the methods that a function calls, and the statements that it names."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    methods = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
    names = {
        argument.value
        for call in calls
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }
    return methods | names


def test_every_function_that_writes_keys_says_so() -> None:
    statements = _statements()
    assert {"insert_account", "update_account", "grant_key", "revoke_key"} <= statements.keys()
    used: set[str] = set()
    for path in STORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (written := _called(node) & statements.keys()):
                used |= written
                assert "note_keys_changed" in _called(node), (
                    f"{path.name}: {node.name} writes by {', '.join(sorted(written))}, and web processes are not told"
                )
    assert used == statements.keys()
