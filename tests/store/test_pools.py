"""Pools in the database: their members and weights, and what a change of one does to its keys."""

from __future__ import annotations

import pytest

from postroom.core.api_key import ApiKey
from postroom.core.errors import StoreError
from postroom.store.accounts import Accounts
from postroom.store.issued_keys import IssuedKeys
from postroom.store.pools import Pools
from postroom.store.settings import StoredSettings
from postroom.store.transaction import KEYS_REVISION
from postroom.store.usage import BUCKET, BUCKETS_A_DAY
from tests.store.database import LATER, NOW, SENT, Post


def revision(post: Post) -> str | None:
    return post.store.read(StoredSettings.get, KEYS_REVISION)


def weights(post: Post, uid: str) -> dict[str, int]:
    pool = post.store.read(Pools.by_uid, uid)
    assert pool is not None
    return {member.email: member.weight for member in pool.members}


def test_a_pool_has_members_with_weights(post: Post) -> None:
    ben = post.add_account("ben@example.com")
    pool = post.store.write(Pools.create, "shop", {post.anna: 3, ben: 1}, NOW)
    assert (pool.name, pool.created_at, pool.updated_at) == ("shop", NOW, NOW)
    assert post.store.read(Pools.by_uid, pool.uid) == pool
    assert weights(post, pool.uid) == {"anna@example.com": 3, "ben@example.com": 1}
    assert post.store.read(Pools.by_uid, "another") is None


def test_members_are_replaced_and_the_name_changed(post: Post) -> None:
    ben = post.add_account("ben@example.com")
    pool = post.store.write(Pools.create, "shop", {post.anna: 3}, NOW)
    assert post.store.write(Pools.set_members, pool.id, {ben: 2}, LATER)
    assert post.store.write(Pools.rename, pool.id, "market", LATER)
    assert weights(post, pool.uid) == {"ben@example.com": 2}
    found = post.store.read(Pools.by_uid, pool.uid)
    assert found is not None
    assert (found.name, found.updated_at) == ("market", LATER)


def test_pools_are_listed_in_pages_with_their_own_members(post: Post) -> None:
    ben = post.add_account("ben@example.com")
    made = [
        post.store.write(Pools.create, str(number), {post.anna: 1, ben: number}, NOW) for number in (1, 2, 3)
    ]
    first = post.store.read(Pools.page, 2)
    assert first == made[:2]
    assert post.store.read(lambda transaction: transaction.pools.page(2, after=first[-1].id)) == made[2:]
    assert post.store.read(Pools.all) == made


def test_a_deleted_pool_takes_its_keys_along_and_no_others(post: Post) -> None:
    pool = post.store.write(Pools.create, "shop", {post.anna: 1}, NOW)
    for name, key in (
        ("pool", ApiKey(b"1", uid="1", pool_id=pool.id)),
        ("anna", ApiKey(b"2", uid="2", account_id=post.anna)),
    ):
        post.store.write(IssuedKeys.issue, key, hint=name, source="api", now=NOW)
    assert post.store.write(Pools.delete, pool.id, LATER)
    assert [key.hint for key in post.store.read(IssuedKeys.working, LATER)] == ["anna"]
    assert post.store.read(Pools.by_uid, pool.uid) is None
    assert not post.store.read(Pools.all)
    assert not post.store.write(Pools.delete, pool.id, LATER)
    assert not post.store.write(Pools.rename, pool.id, "market", LATER)
    assert not post.store.write(Pools.set_members, pool.id, {post.anna: 1}, LATER)


def test_a_deleted_account_is_no_member_any_more(post: Post) -> None:
    ben = post.add_account("ben@example.com")
    pool = post.store.write(Pools.create, "shop", {post.anna: 1, ben: 1}, NOW)
    post.database.change(f"UPDATE account SET deleted_at = {NOW} WHERE id = {ben}")
    assert weights(post, pool.uid) == {"anna@example.com": 1}


def test_every_change_has_the_keys_read_again(post: Post) -> None:
    seen = {revision(post)}
    pool = post.store.write(Pools.create, "shop", {post.anna: 1}, NOW)
    seen.add(revision(post))
    post.store.write(Pools.rename, pool.id, "market", LATER)
    seen.add(revision(post))
    post.store.write(Pools.set_members, pool.id, {post.anna: 2}, LATER)
    seen.add(revision(post))
    post.store.write(Pools.delete, pool.id, LATER)
    seen.add(revision(post))
    assert len(seen) == 5


def test_a_weight_is_at_least_one(post: Post) -> None:
    with pytest.raises(StoreError):
        post.store.write(Pools.create, "shop", {post.anna: 0}, NOW)
    assert not post.store.read(Pools.all)


def test_the_load_of_its_members_is_read_at_once(post: Post) -> None:
    ben = post.add_account("ben@example.com")
    pool = post.store.write(Pools.create, "shop", {post.anna: 3, ben: 1}, NOW)
    post.add()
    post.add("one@example.org", "two@example.org", account=ben)
    [job] = post.claim(account=ben, daily_limit=5)
    post.store.write(Accounts.pause_by_person, ben, "a holiday", NOW)
    anna, load = post.store.read(Pools.loads, pool.id, NOW)
    assert (anna.account_id, anna.weight, anna.state, anna.used, anna.waiting) == (
        post.anna,
        3,
        "active",
        0,
        1,
    )
    assert (load.account_id, load.weight, load.state, load.resume_at) == (ben, 1, "paused", None)
    assert (load.used, load.waiting, load.room_at) == (2, 1, (NOW // BUCKET + BUCKETS_A_DAY) * BUCKET)
    post.finish(job, SENT, SENT, now=NOW)
    assert [each.waiting for each in post.store.read(Pools.loads, pool.id, NOW)] == [1, 0]


def test_the_member_that_sent_a_message_is_known(post: Post) -> None:
    pool = post.store.write(Pools.create, "shop", {post.anna: 1}, NOW)
    mine, foreign = post.add(), post.add(account=post.add_account("ben@example.com"))
    assert post.store.read(Pools.member_that_sent, pool.id, mine) == post.anna
    assert post.store.read(Pools.member_that_sent, pool.id, foreign) is None


def test_the_anchor_is_the_first_account_and_stays(post: Post) -> None:
    ben = post.add_account("ben@example.com")
    pool = post.store.write(Pools.create, "shop", {}, NOW)
    assert post.store.read(Pools.anchor_of, pool.id) is None
    post.store.write(Pools.set_members, pool.id, {ben: 1}, NOW)
    post.store.write(Pools.set_members, pool.id, {post.anna: 1}, NOW)
    post.store.write(Pools.set_members, pool.id, {}, NOW)
    assert post.store.read(Pools.anchor_of, pool.id) == ben
