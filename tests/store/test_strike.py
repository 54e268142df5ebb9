"""At the upgrade the passwords are struck from all that servers have said before."""

from __future__ import annotations

import logging

import pytest

from postroom.model import Blame, Deferred, Failed, Reply, Secret
from postroom.store import Store
from postroom.strike import strike_stored
from postroom.vault import Vault
from tests.store.database import NOW, Database, Post

PASSWORD = "a canary of a password"
SAID = f"AUTH PLAIN {PASSWORD} was refused for someone"
PLACES = [
    ("delivery", "reason"),
    ("delivery", "reply_text"),
    ("event", "detail"),
    ("attempt", "reply_text"),
    ("account", "state_reason"),
]


@pytest.fixture
def vault() -> Vault:
    return Vault((Secret("the-secret-key-of-this-test"),))


def words(database: Database) -> list[str]:
    return [
        str(row[0])
        for table, column in PLACES
        for row in database.rows(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY id")
    ]


@pytest.fixture
def refused(post: Post, database: Database, vault: Vault) -> int:
    """An account whose server has repeated its password, in every place where it is stored; return how many."""
    reply = Reply(535, SAID, "5.7.8")
    for outcome in (
        Failed(f"535 5.7.8 {SAID}", Blame.MESSAGE, reply),
        Deferred(f"535 5.7.8 {SAID}", Blame.MESSAGE, reply),
    ):
        post.add()
        post.finish(post.claim_one(), outcome)
    post.store.write(
        lambda transaction: transaction.upsert_account(
            source="csv",
            now=NOW,
            email="anna@example.com",
            name="",
            host=None,
            port=None,
            security=None,
            username=None,
            credential=vault.encrypt(PASSWORD),
            daily_limit=None,
            connections=None,
            logins_per_minute=None,
            pipelining=None,
            chunking=None,
        )
    )
    database.change(f"UPDATE account SET state = 'paused', state_since = {NOW}, state_reason = '{SAID}'")
    held = [word for word in words(database) if PASSWORD in word]
    assert len(held) >= len(PLACES)
    return len(held)


def test_passwords_are_struck_wherever_they_are_stored(
    refused: int, store: Store, database: Database, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    before = words(database)
    strike_stored(store, vault)
    after = words(database)
    assert not [word for word in after if PASSWORD in word]
    assert after == [word.replace(PASSWORD, "[struck]") for word in before]
    assert "held a password, which was struck" in caplog.text
    assert PASSWORD not in caplog.text


def test_it_is_done_once(refused: int, store: Store, database: Database, vault: Vault) -> None:
    strike_stored(store, vault)
    database.change(f"UPDATE event SET detail = '{SAID}' WHERE detail IS NOT NULL")
    strike_stored(store, vault)
    assert [word for word in words(database) if PASSWORD in word]


def test_what_holds_no_password_stays(
    post: Post, store: Store, database: Database, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    post.add()
    post.finish(post.claim_one(), Failed("550 no", Blame.MESSAGE, Reply(550, "no")))
    before = words(database)
    strike_stored(store, vault)
    assert words(database) == before
    assert "struck" not in caplog.text
