"""What a look costs in a database of many accounts: by what has changed or waits, not by how many accounts there are."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from postroom.accounts.keys import ApiKeys
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.api_key import ApiKey, Scope
from postroom.core.clock import SECOND
from postroom.core.errors import NotAuthenticated
from postroom.store.accounts import Accounts
from postroom.store.issued_keys import IssuedKeys
from postroom.store.key_changes import changed_between
from postroom.store.keys import Keys
from postroom.store.settings import StoredSettings
from postroom.store.sqlite.connections import load_queries
from postroom.store.transaction import KEYS_REVISION, Transaction
from tests.store.database import LATER, NOW, PLAIN, Post, SQLiteDatabase

SEED = 21
VAULT = Vault((Secret("a-secret-key-of-tests"),))
LOOK = "accounts_due"


def _steps(database: SQLiteDatabase) -> int:
    """Return how many steps of SQLite's machine the look for accounts with jobs takes."""
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    values = {"now": NOW, "soon": NOW + 60 * SECOND, "due_from": 0}
    with closing(database.connect()) as connection:
        cursor = connection.execute(getattr(load_queries(), LOOK).sql, values)
        connection.set_progress_handler(count, 1)
        cursor.fetchall()
        connection.set_progress_handler(None)
    return steps


def _add_accounts(post: Post, count: int) -> list[int]:
    names = [f"account{number}@example.com" for number in range(count)]
    return [post.add_account(name) for name in names]


@pytest.mark.only("sqlite")
def test_accounts_without_jobs_cost_a_look_nothing(post: Post, sqlite: SQLiteDatabase) -> None:
    post.add()
    alone = _steps(sqlite)
    _add_accounts(post, 300)
    assert alone > 10, "the steps are counted"
    assert _steps(sqlite) == alone


def test_a_look_finds_those_that_a_look_at_each_finds(post: Post) -> None:
    chance = random.Random(SEED)
    accounts = [post.anna, *_add_accounts(post, 12)]
    for _ in range(40):
        post.add(account=chance.choice(accounts[::2]), at=chance.choice([NOW, NOW + 5, LATER]))
    post.store.write(Accounts.pause_by_person, accounts[2], "for a while", NOW)
    post.store.write(Accounts.suspend, accounts[4], state="parked", reason="451", resume_at=NOW + 5, now=NOW)
    for account in accounts[6:9]:
        post.claim(account=account, now=NOW)
    for now in (NOW - 1, NOW, NOW + 5, LATER, LATER + SECOND):
        jobs = post.database.rows(
            f"SELECT DISTINCT lane FROM job WHERE state = 'queued' AND held = 0 AND due_at <= {now}"
        )
        expected = {lane for (lane,) in jobs} - {accounts[2]}
        if now < NOW + 5:
            expected.discard(accounts[4])
        found = [stored.account.id for stored in post.store.read(Accounts.due, now)]
        assert (set(found), len(found)) == (expected, len(expected))


def _key(name: str, account_id: int | None) -> ApiKey:
    return ApiKey(
        digest=VAULT.digest(name), uid=name, name=name, account_id=account_id, scopes=frozenset({Scope.SEND})
    )


class Office:
    """A store with twenty accounts, each with a key of data.csv and an issued one, and a web process's keys."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.accounts = [post.anna, *_add_accounts(post, 20)]
        self.issued: dict[int, int] = {}
        for each in self.accounts:
            self.grant(each, f"file {each}")
            self.issue(each, f"issued {each}")
        self.keys = ApiKeys(post.store, VAULT, lambda: NOW)
        self.keys.refresh()

    def grant(self, account_id: int, name: str) -> None:
        digest = VAULT.digest(name)
        self.post.store.write(lambda t: t.keys.grant(account_id, digest, source="csv", now=NOW))

    def issue(self, account_id: int | None, name: str) -> None:
        key = _key(name, account_id)
        id_ = self.post.store.write(IssuedKeys.issue, key, hint="", source="api", now=NOW)
        self.issued[id_] = account_id or 0

    def look(self, keys: ApiKeys | None = None) -> dict[bytes, tuple[object, ...]]:
        """Return which keys work as a web process sees them after a look: whose each is, by which row and name."""
        keys = keys or self.keys
        keys.refresh(float("inf"))
        owners = {digest: keys.account_of(key.account_id or 0) for digest, key in keys._keys.items()}
        return {digest: (key, owners[digest], digest in keys._used) for digest, key in keys._keys.items()}


@pytest.fixture
def office(post: Post) -> Office:
    return Office(post)


def _refuse(*_: object) -> list[object]:
    pytest.fail("all keys or accounts were read")


def _refuse_reading_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for noun, name in ((Accounts, "all"), (Keys, "working"), (IssuedKeys, "working")):
        monkeypatch.setattr(noun, name, _as_of(noun, _refuse))


def _as_of(noun: type, function: Callable[..., object]) -> Callable[..., object]:
    def read(*arguments: object) -> object:
        return function(*arguments)

    read.noun = noun  # type: ignore[attr-defined]
    return read


def _rename(office: Office, account_id: int) -> None:
    office.post.store.write(Accounts.change, account_id, replace(PLAIN, name="Anna Maria"), None, now=NOW)


def _revoke_one(office: Office, account_id: int) -> None:
    key_id = next(each for each, owner in office.issued.items() if owner == account_id)
    office.post.store.write(IssuedKeys.stop, key_id, NOW)


CHANGES: dict[str, Callable[[Office, int], object]] = {
    "another name": _rename,
    "a key of data.csv": lambda office, each: office.grant(each, f"new {each}"),
    "a key of another account": lambda office, each: office.grant(each, f"file {office.accounts[5]}"),
    "an issued key": lambda office, each: office.issue(each, f"another {each}"),
    "a key of nobody": lambda office, each: office.issue(None, f"nobody's {each}"),
    "a stopped key": _revoke_one,
    "no keys of data.csv": lambda office, each: office.post.store.write(Keys.revoke_of_account, each, NOW),
    "no issued keys": lambda office, each: office.post.store.write(IssuedKeys.revoke_of_account, each, NOW),
    "an end": lambda office, each: office.post.store.write(lambda t: t.closings.begin(each, NOW)),
    "a new account": lambda office, each: office.grant(
        office.post.add_account(f"new{each}@example.com"), "x"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_a_web_process_reads_what_has_changed_alone(
    office: Office, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before = office.look()
    CHANGES[change](office, office.accounts[3])
    expected = office.look(ApiKeys(office.post.store, VAULT, lambda: NOW))
    _refuse_reading_all(monkeypatch)
    assert office.look() == expected != before


def test_after_any_changes_it_knows_what_one_knows_that_reads_all(office: Office) -> None:
    chance = random.Random(SEED)
    for turn in range(12):
        for change in chance.sample(
            sorted(CHANGES.keys() - {"a key of nobody", "an issued key", "a new account"}), 3
        ):
            if change != "a stopped key" or turn < 1:
                CHANGES[change](office, chance.choice(office.accounts))
        assert office.look() == office.look(ApiKeys(office.post.store, VAULT, lambda: NOW))


def test_a_change_by_an_earlier_version_has_all_read_again(office: Office) -> None:
    """It raises the revision and does not say what it has changed."""
    digest = VAULT.digest(f"issued {office.post.anna}")

    def work(transaction: Transaction) -> None:
        transaction.change("stop_issued_key", key_id=min(office.issued), now=NOW)
        transaction.change("raise_revision", name=KEYS_REVISION)

    assert digest in office.look()
    office.post.store.write(work)
    office.grant(office.accounts[4], "a key that is noted")
    assert digest not in office.look()
    with pytest.raises(NotAuthenticated):
        office.keys.authenticate(f"issued {office.post.anna}")


def test_the_notes_stay_short(office: Office) -> None:
    for number in range(120):
        office.post.store.write(Keys.revoke_of_account, office.accounts[number % 20], NOW)
    notes = (office.post.store.read(StoredSettings.get, "recent_key_changes") or "").split()
    assert len(notes) == 100
    assert notes[-1].partition("=")[0] == office.post.store.read(StoredSettings.get, KEYS_REVISION)


@pytest.mark.parametrize(
    ("recent", "seen", "revision", "expected"),
    [
        ("7=a1 8=a2,k3", "7", "8", ({2}, {3})),
        ("7=a1 8=a2,k3", "6", "8", ({1, 2}, {3})),
        ("7=a1 8=a2,k3 9=*", "6", "8", ({1, 2}, {3})),
        ("7=* 8=a2", "6", "8", None),
        ("8=a2", "6", "8", None),
        ("7=a1", "6", "8", None),
        ("7=a1", "", "7", None),
        ("7=a1", None, "7", None),
        ("7=a1", "7", "6", None),
        (None, "6", "7", None),
    ],
)
def test_what_has_changed_between_two_revisions(
    recent: str | None, seen: str | None, revision: str, expected: tuple[set[int], set[int]] | None
) -> None:
    found = changed_between(recent, seen, revision)
    assert (found and (set(found.accounts), set(found.issued))) == expected
