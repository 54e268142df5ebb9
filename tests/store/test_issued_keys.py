"""Issued keys in the database: an acceptance holds its key, counts for its limit, and is refused once it is revoked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_network

import pytest

from postroom.core.api_key import ApiKey, Scope
from postroom.core.clock import SECOND
from postroom.core.errors import KeyStopped, QuotaExceeded
from postroom.core.message import Accepted, NewMessage
from postroom.store.acceptance import Acceptance
from postroom.store.holds import Holds
from postroom.store.issued_keys import IssuedKeys
from postroom.store.keys import Keys
from postroom.store.store import Store
from postroom.store.transaction import Transaction, work
from tests.store.database import NOW, Database, Post, new_message

DAY = 24 * 3600 * SECOND


@pytest.fixture
def post(database: Database) -> Iterator[Post]:
    with closing(database.open()) as store:
        yield Post(store, database)


def issue(store: Store, key: ApiKey) -> ApiKey:
    id_ = store.write(IssuedKeys.issue, key, hint="abcd", source="api", now=NOW)
    return replace(key, id=id_)


def a_key(
    post: Post, name: str = "shop", daily_limit: int | None = None, expires_in: int | None = None
) -> ApiKey:
    expires_at = None if expires_in is None else NOW + expires_in
    key = ApiKey(
        digest=name.encode(),
        uid=name,
        name=name,
        account_id=post.anna,
        daily_limit=daily_limit,
        expires_at=expires_at,
    )
    return issue(post.store, key)


def message_with(post: Post, key: ApiKey, *recipients: str) -> NewMessage:
    message = new_message(post.anna, *recipients)
    return replace(message, key=key)


def test_a_key_is_read_as_it_was_issued(post: Post) -> None:
    key = ApiKey(
        digest=b"\x00digest",
        uid="a-uid",
        name="shop",
        account_id=post.anna,
        scopes=frozenset({Scope.SEND}),
        is_test=True,
        allowed_recipients=("*@example.com",),
        networks=(ip_network("192.0.2.0/24"),),
        daily_limit=7,
        expires_at=NOW + DAY,
    )
    issued = issue(post.store, key)
    [found] = post.store.read(IssuedKeys.working, NOW)
    assert (found.key, found.hint, found.source, found.last_used_at) == (issued, "abcd", "api", None)
    assert (
        post.store.read(IssuedKeys.by_uid, "a-uid")
        == found
        == post.store.read(IssuedKeys.by_digest, b"\x00digest")
    )
    assert not post.store.read(IssuedKeys.working, NOW + DAY), "it has expired"


def test_what_a_revoked_key_brings_is_not_accepted_and_the_rest_of_its_batch_is(post: Post) -> None:
    good, bad = a_key(post), a_key(post, "leaked")
    post.store.write(IssuedKeys.revoke, bad.id or 0, NOW)
    results = post.store.write_all(
        [work(Acceptance.accept, message_with(post, key)) for key in (good, bad, good, bad)]
    )
    assert [type(result.error) for result in results] == [type(None), KeyStopped, type(None), KeyStopped]
    assert [isinstance(result.value, Accepted) for result in results] == [True, False, True, False]


def test_an_expired_key_is_refused_by_the_commit(post: Post) -> None:
    key = a_key(post, expires_in=DAY)
    late = replace(message_with(post, key), accepted_at=NOW + DAY)
    with pytest.raises(KeyStopped):
        post.store.write(Acceptance.accept, late)


def test_a_key_of_the_file_that_was_revoked_is_refused_by_the_commit(post: Post) -> None:
    post.store.write(lambda t: t.keys.grant(post.anna, b"of the file", source="csv", now=NOW))
    [row] = post.store.read(Keys.working)
    key = ApiKey(digest=b"of the file", account_id=post.anna, file_id=row.id)
    assert isinstance(post.store.write(Acceptance.accept, message_with(post, key)), Accepted)
    post.store.write(lambda t: t.keys.revoke_except([], source="csv", now=NOW))
    with pytest.raises(KeyStopped):
        post.store.write(Acceptance.accept, message_with(post, key))


def test_a_revocation_and_an_acceptance_wait_for_each_other(database: Database, post: Post) -> None:
    """Nothing is accepted by a commit that comes after the revocation's."""
    key = a_key(post)
    revoked = threading.Event()
    after: list[bool] = []

    def go_on_accepting() -> None:
        with closing(database.open()) as store:
            while True:
                is_after = revoked.is_set()
                try:
                    store.write(Acceptance.accept, message_with(post, key))
                except KeyStopped:
                    return
                after.append(is_after)

    threads = [threading.Thread(target=go_on_accepting) for _ in range(3)]
    for thread in threads:
        thread.start()
    with closing(database.open()) as other:
        other.write(IssuedKeys.revoke, key.id or 0, NOW)
        revoked.set()
    for thread in threads:
        thread.join()
    assert not any(after), "a message was accepted after the revocation had returned"


def test_a_daily_limit_counts_recipients_over_all_processes(database: Database, post: Post) -> None:
    key = a_key(post, daily_limit=10)
    accepted: list[int] = []
    waits: list[int] = []

    def spend() -> None:
        with closing(database.open()) as store:
            for _ in range(5):
                try:
                    store.write(Acceptance.accept, message_with(post, key, "a@example.org", "b@example.org"))
                except QuotaExceeded as error:
                    waits.append(error.retry_after)
                else:
                    accepted.append(2)

    threads = [threading.Thread(target=spend) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(accepted) == 10
    assert len(waits) == 10
    assert all(0 < wait <= 86_400 + 600 for wait in waits)
    assert post.store.read(IssuedKeys.recipients_used, key.id or 0, NOW) == 10
    assert post.store.read(IssuedKeys.recipients_used, key.id or 0, NOW + DAY + 600 * SECOND) == 0


def test_what_is_cancelled_is_given_back(post: Post) -> None:
    key = a_key(post, daily_limit=2)
    accepted = post.store.write(Acceptance.accept, message_with(post, key, "a@example.org", "b@example.org"))
    with pytest.raises(QuotaExceeded):
        post.store.write(Acceptance.accept, message_with(post, key))
    assert isinstance(accepted, Accepted)
    assert post.store.write(Holds.cancel, accepted.request_id, NOW)
    assert isinstance(post.store.write(Acceptance.accept, message_with(post, key)), Accepted)


def test_a_key_is_held_once_in_a_batch(post: Post) -> None:
    """A second acceptance of the same batch asks nothing."""
    key = a_key(post)
    held: list[bool] = []

    def accept(transaction: Transaction) -> None:
        held.append(key.digest in transaction.held_keys)
        transaction.acceptance.accept(message_with(post, key))

    post.store.write_all([accept, accept, accept])
    assert held[-3:] == [False, True, True]
