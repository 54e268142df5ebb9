"""The data of a person goes, whatever state the messages are in; what is under way and what is on hold is counted."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.erasure import PersonalData
from postroom.accounts.vault import Vault
from postroom.core.account import Secret
from postroom.core.api_key import Sight
from postroom.core.audit import Actor
from postroom.core.erasure import ErasedAddress, substitute_of
from postroom.core.errors import Conflict, InvalidSubmission, NotFound
from postroom.core.listing import Filter, note_of_recipient
from postroom.core.outcome import Blame, Failed, Reply
from postroom.store.accounts import Accounts
from postroom.store.erasure import Fate
from postroom.store.events import Events
from postroom.store.listings import NEWEST, Listings
from postroom.store.managed_accounts import ManagedAccounts
from postroom.store.messages import Messages
from tests.store.database import DEFERRED, FAR, NOW, SENT, Database, Post, new_message
from tests.store.test_listings import note

ADMIN = Actor("admin token", "127.0.0.1")
BOB, CARLA = "bob@example.org", "carla@example.org"
NO_BOB = Failed(f"550 5.1.1 no {BOB}", Blame.RECIPIENT, Reply(550, f"no <{BOB.upper()}> here", "5.1.1"))


@dataclass
class Registry:
    post: Post
    data: PersonalData

    def erase(self, address: str = BOB) -> Counter[Fate]:
        return self.data.erase(self.data.address(address), ADMIN).messages

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in self.post.database.rows(sql)]


@pytest.fixture
def registry(database: Database) -> Iterator[Registry]:
    with closing(database.open()) as store:
        vault = Vault((Secret("the secret of this test"),))
        adopt_digest_key(store, vault, create=True)
        yield Registry(Post(store, database), PersonalData(store, vault, lambda: NOW))


def test_what_has_ended_is_erased_and_its_status_stays(registry: Registry) -> None:
    post = registry.post
    failed, other = post.add(BOB), post.add(CARLA)
    for job in post.claim():
        post.finish(job, NO_BOB if job.deliveries[0].forward_path == BOB else SENT)
    assert registry.erase() == {Fate.ERASED: 1}
    status = post.store.read(Messages.status, failed)
    assert status is not None
    assert str(status).startswith("failed (550 5.1.1 no ")
    assert "bob@" not in str(status)
    events = post.store.read(Events.of_message, failed)
    assert [event.kind for event in events] == ["accepted", "failed", "erased"]
    assert all(BOB not in str(event).lower() for event in events)
    assert registry.rows("SELECT count(*) FROM message WHERE subject = ''") == [(1,)]
    assert registry.rows("SELECT count(*) FROM content") == [(1,)]
    assert str(post.store.read(Messages.status, other)) == "sent"
    assert registry.erase() == {}


def test_lists_find_the_substitute_and_no_more_the_address(registry: Registry) -> None:
    post = registry.post
    post.add(BOB, CARLA)
    post.finish(post.claim_one(), SENT, SENT)
    note(post.store)
    substitute = registry.data.address(BOB).substitute
    registry.erase()
    note(post.store)

    def found(recipient: str) -> int:
        page = post.store.read(Listings.page, Filter(recipient=recipient), 10, before=NEWEST, now=FAR)
        return len(page.messages)

    assert [found(each) for each in (BOB, substitute, CARLA, "@example.org", "@erased.invalid")] == [
        0,
        1,
        1,
        1,
        1,
    ]
    bob = note_of_recipient(BOB)
    rows = registry.rows(f"SELECT count(*) FROM listed WHERE kind = {bob.kind:d} AND value = {bob.value}")
    assert rows == [(0,)]


def test_what_waits_is_cancelled_first_and_goes_to_the_others_alone(registry: Registry) -> None:
    post = registry.post
    alone, shared = post.add(BOB), post.add(BOB, CARLA)
    for job in post.claim():
        post.finish(job, *[DEFERRED] * len(job.deliveries))
    assert registry.erase() == {Fate.CANCELLED: 1, Fate.SPARED: 1}
    assert str(post.store.read(Messages.status, alone)) == "cancelled"
    [job] = post.claim(now=FAR)
    assert [delivery.forward_path for delivery in job.deliveries] == [CARLA]
    assert registry.erase() == {Fate.SENDING: 1}
    post.finish(job, SENT, now=FAR)
    assert registry.erase() == {Fate.ERASED: 1}
    assert str(post.store.read(Messages.status, shared)) == "sent"
    assert registry.rows(f"SELECT count(*) FROM delivery WHERE forward_path = '{BOB}'") == [(0,)]
    assert registry.rows(f"SELECT count(*) FROM delivery WHERE forward_path = '{CARLA}'") == [(1,)]


def test_a_hold_keeps_it(registry: Registry) -> None:
    post = registry.post
    post.add(BOB)
    post.finish(post.claim_one(), SENT)
    post.store.write(ManagedAccounts.set_hold, post.anna, hold=True)
    assert registry.erase() == {Fate.HELD: 1}
    post.store.write(ManagedAccounts.set_hold, post.anna, hold=False)
    assert registry.erase() == {Fate.ERASED: 1}


def test_looking_changes_nothing(registry: Registry) -> None:
    registry.post.add(BOB)
    found = registry.data.look(registry.data.address(BOB))
    assert found.messages == {Fate.CANCELLED: 1}
    assert registry.rows("SELECT state FROM job") == [("queued",)]
    assert registry.rows("SELECT count(*) FROM audit") == [(0,)]


def test_idempotency_keys_of_the_messages_go_too(registry: Registry) -> None:
    post = registry.post
    message = new_message(post.anna, BOB, key=f"welcome-{BOB}", fingerprint=b"x")
    post.accept(message)
    post.finish(post.claim_one(), SENT)
    registry.erase()
    assert registry.rows("SELECT count(*) FROM idempotency") == [(0,)]


def test_a_reason_of_an_account_and_the_audit_name_nobody(registry: Registry) -> None:
    post = registry.post
    post.store.write(lambda tx: tx.accounts.pause_by_person(post.anna, f"refused for {BOB}", NOW))
    post.store.write(lambda tx: tx.audit.append(ADMIN, "key.issue", BOB, NOW, {"allowed": [BOB]}))
    registry.erase()
    [stored] = [each for each in post.store.read(Accounts.all) if each.account.id == post.anna]
    assert "@erased.invalid" in (stored.account.state_reason or "")
    assert registry.rows(f"SELECT count(*) FROM audit WHERE detail LIKE '%{BOB}%' OR target = '{BOB}'") == [
        (0,)
    ]
    assert registry.rows("SELECT count(*) FROM audit WHERE action = 'person.erase'") == [(1,)]


def test_examples_in_notices_name_nobody(registry: Registry) -> None:
    for sql in (
        (
            "INSERT INTO notice (kind, subject, first_at, noticed_at, last_at, count, detail) "
            f"VALUES ('failed', '', 1, 1, 1, 1, '{{\"examples\": [\"to {BOB}\"]}}')"
        ),
        f"INSERT INTO notice_to_send VALUES ('1', '{{\"text\": \"{BOB}\"}}', '[]')",
    ):
        registry.post.database.change(sql)
    done = registry.data.erase(registry.data.address(BOB), ADMIN)
    assert done.elsewhere["notices to the admins"] == 2
    for row in registry.rows("SELECT detail FROM notice UNION ALL SELECT notice FROM notice_to_send"):
        assert BOB not in str(row)
        assert "@erased.invalid" in str(row)


def test_the_content_of_one_message_goes_once_it_has_ended(registry: Registry) -> None:
    post = registry.post
    request_id = post.add(BOB)
    with pytest.raises(Conflict, match="cancel it first"):
        registry.data.erase_content(request_id, ADMIN)
    post.finish(post.claim_one(), SENT)
    with pytest.raises(NotFound):
        registry.data.erase_content(request_id, ADMIN, Sight(account_id=post.anna + 1))
    post.store.write(ManagedAccounts.set_hold, post.anna, hold=True)
    with pytest.raises(Conflict, match="on hold"):
        registry.data.erase_content(request_id, ADMIN)
    post.store.write(ManagedAccounts.set_hold, post.anna, hold=False)
    registry.data.erase_content(request_id, ADMIN, Sight(account_id=post.anna))
    assert registry.rows("SELECT count(*) FROM content") == [(0,)]
    assert registry.rows(f"SELECT count(*) FROM delivery WHERE forward_path = '{BOB}'") == [(1,)]


@pytest.mark.parametrize("text", ["", "bob", "a@b@c", "anna@example.com", "ANNA@Example.com"])
def test_what_is_no_recipient_is_refused(registry: Registry, text: str) -> None:
    with pytest.raises((InvalidSubmission, Conflict)) as error:
        registry.data.address(text)
    assert error.value.field == "address"


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        ("550 <Bob@Example.ORG>: no", "550 <X>: no"),
        ("bob@example.org", "X"),
        ("bob@example.org, carla@example.org.", "X, carla@example.org."),
        ("jim-bob@example.org", "jim-bob@example.org"),
        ("bob@example.org.uk is another", "bob@example.org.uk is another"),
        ("bob@example.organic", "bob@example.organic"),
        ("o'bob@example.org", "o'bob@example.org"),
        ("said 'bob@example.org'", "said 'X'"),
        ('to "bob"@example.org', "to X"),
        (r"[\"\"bob\"@example.org\"]", r"[\"X\"]"),
    ],
)
def test_an_address_is_found_in_words(words: str, rest: str) -> None:
    address = ErasedAddress(BOB, "X")
    assert address.without(words) == rest
    assert address.without_octets(words.encode()) == rest.encode()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ('"a b"@example.org', json.dumps({"to": '"A b"@example.org'})),
        ("bob@xn--mnchen-3ya.de", "no such user: bob@MÜNCHEN.de"),
        ("bob@xn--mnchen-3ya.de", json.dumps({"to": "bob@münchen.de"})),
        ("jürgen@example.org", "<JÜRGEN@example.org>"),
        ("jürgen@example.org", json.dumps("jürgen@example.org")),
    ],
)
def test_an_address_is_found_in_each_form(address: str, words: str) -> None:
    erased = ErasedAddress(address, "X")
    assert "X" in erased.without(words)
    assert erased.without_octets(words.encode()) == erased.without(words).encode()
    assert not {"bob", "rgen", "a b"} & set(re.findall("bob|rgen|a b", erased.without(words).lower()))


def test_letters_beyond_ascii_have_two_cases_too(registry: Registry) -> None:
    """SQLite lowers ASCII alone."""
    post = registry.post
    post.add("Jürgen.ÄRGER@example.org"), post.add("hans@example.org"), post.add("jürgen.ärger@example.net")
    assert registry.erase("JÜRGEN.ärger@Example.ORG") == {Fate.CANCELLED: 1}
    assert registry.rows("SELECT count(*) FROM delivery WHERE forward_path LIKE '%@example.org'") == [(1,)]


def test_a_substitute_is_nobodys() -> None:
    assert substitute_of(bytes(range(32))) == "0001020304050607@erased.invalid"
