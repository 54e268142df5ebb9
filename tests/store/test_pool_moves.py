"""Messages that go over to another member of their pool: whole, and only those of which nothing was sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from zlib import crc32

import pytest

from postroom.core.api_key import ApiKey
from postroom.core.errors import LeaseLost
from postroom.core.stored_text import PIECE
from postroom.settings import load_settings
from postroom.store.accounts import Accounts
from postroom.store.events import Events
from postroom.store.holds import Holds
from postroom.store.issued_keys import IssuedKeys
from postroom.store.messages import Messages
from postroom.store.pieces import accept_message
from postroom.store.pool_moves import MovableJob, Move, PoolMoves, StuckMember
from postroom.store.pools import Pools
from postroom.worker.pool_failover import PoolFailover
from tests.store.database import DEFERRED, FAR, IN_DOUBT, LATER, NOW, SENT, Post, content_of, new_message

FROM = b"From: Anna <anna@example.com>\r\n"
REST = b"To: bob@example.org\r\nSubject: Hello\r\n\r\nHi\r\n"


class Shop:
    """A pool of Anna's and Ben's accounts, its key, and its failover."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.ben = post.add_account("ben@example.com")
        pool = post.store.write(Pools.create, "shop", {post.anna: 1, self.ben: 1}, NOW)
        key = ApiKey(digest=b"pool", uid="pool", name="pool", pool_id=pool.id)
        id_ = post.store.write(IssuedKeys.issue, key, hint="abcd", source="api", now=NOW)
        self.key = replace(key, id=id_)

    def add(self, *recipients: str, mime: bytes = FROM + REST) -> str:
        """Accept a message that is Anna's to send."""
        message = replace(new_message(self.post.anna, *recipients), key=self.key, mime=mime)
        accept_message(message, self.post.store.write)
        return message.request_id

    def pause(self, account_id: int, resume_at: int = FAR) -> None:
        self.post.store.write(
            Accounts.suspend, account_id, state="paused", reason="a fault", resume_at=resume_at, now=NOW
        )

    def run(self, now: int = NOW) -> None:
        PoolFailover(load_settings(), self.post.store, lambda: now, lambda: False).run()

    def account_of(self, request_id: str) -> int:
        found = self.post.store.read(Messages.status, request_id)
        assert found is not None
        return found.account_id


@pytest.fixture
def shop(post: Post) -> Shop:
    return Shop(post)


def test_what_waits_for_a_paused_account_goes_by_another_one(post: Post, shop: Shop) -> None:
    moved = [shop.add(), shop.add("one@example.org", "two@example.org")]
    others = post.add()
    shop.pause(post.anna)
    shop.run()
    jobs = post.claim(account=shop.ben)
    assert [job.request_id for job in jobs] == moved
    for job in jobs:
        assert job.reverse_path == "ben@example.com"
        assert job.mime == b"From: ben@example.com\r\n" + REST
        assert job.size == len(job.mime)
        post.finish(job, *[SENT] * len(job.deliveries), now=NOW)
    assert [post.status(request_id) for request_id in moved] == ["sent", "sent"]
    events = post.store.read(Events.of_message, moved[0])
    assert [event.kind for event in events] == ["accepted", "moved", "sent"]
    assert events[1].detail == "from anna@example.com to ben@example.com: a fault"
    assert shop.account_of(others) == post.anna
    counts = post.store.read(Messages.counts)
    assert (counts[post.anna].waiting, counts[shop.ben].sent, counts[shop.ben].waiting) == (1, 2, 0)


def test_a_large_content_is_whole_afterwards(post: Post, shop: Shop) -> None:
    body = b"A line of text\r\n" * (2 * PIECE // 16)
    request_id = shop.add(mime=FROM + REST + body)
    shop.pause(post.anna)
    shop.run()
    [job] = post.claim(account=shop.ben)
    assert job.request_id == request_id
    assert content_of(post.store, job) == b"From: ben@example.com\r\n" + REST + body


def _claimed(post: Post, shop: Shop) -> None:
    post.claim_one()


def _in_doubt(post: Post, shop: Shop) -> None:
    job = post.claim_one()
    post.mark_dot(job)
    post.finish(job, IN_DOUBT, DEFERRED)


def _in_doubt_alone(post: Post) -> None:
    """Leave a doubt whose mark on the delivery is gone, so that the event alone tells of it."""
    job = post.claim_one()
    post.mark_dot(job)
    post.finish(job, IN_DOUBT)
    post.database.change("UPDATE delivery SET possible_duplicate = 0")


def _partly_sent(post: Post, shop: Shop) -> None:
    post.finish(post.claim_one(), SENT, DEFERRED)


def _lost_worker(post: Post, shop: Shop) -> None:
    post.mark_dot(post.claim_one())
    post.reap()


def _cancelled(post: Post, shop: Shop) -> None:
    [(request_id,)] = post.database.rows("SELECT request_id FROM message")
    post.store.write(Holds.cancel, request_id, NOW)


@pytest.mark.parametrize("begin", [_claimed, _in_doubt, _partly_sent, _lost_worker, _cancelled])
def test_what_was_begun_or_is_in_doubt_stays(
    post: Post, shop: Shop, begin: Callable[[Post, Shop], None]
) -> None:
    request_id = shop.add("one@example.org", "two@example.org")
    begin(post, shop)
    shop.pause(post.anna)
    shop.run()
    assert shop.account_of(request_id) == post.anna
    assert post.database.value("SELECT lane FROM job WHERE message_id IS NOT NULL") == post.anna


def test_a_doubt_is_known_by_its_event(post: Post, shop: Shop) -> None:
    request_id = shop.add()
    _in_doubt_alone(post)
    shop.pause(post.anna)
    shop.run()
    assert shop.account_of(request_id) == post.anna


def test_what_was_deferred_without_a_doubt_goes(post: Post, shop: Shop) -> None:
    request_id = shop.add()
    post.finish(post.claim_one(), DEFERRED)
    shop.pause(post.anna)
    shop.run()
    assert shop.account_of(request_id) == shop.ben
    assert post.status(request_id) == "queued"


def test_one_that_is_claimed_at_the_same_time_is_not_moved(
    post: Post, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = shop.add()
    shop.pause(post.anna)
    look = PoolFailover._move_of

    def claim_first(self: PoolFailover, job: MovableJob, member: StuckMember) -> Move | None:
        move = look(self, job, member)
        assert move is not None
        post.claim_one()
        with pytest.raises(LeaseLost):
            post.store.write(PoolMoves.move, move, NOW)
        return move

    monkeypatch.setattr(PoolFailover, "_move_of", claim_first)
    shop.run()
    assert shop.account_of(request_id) == post.anna
    content = post.database.value("SELECT mime FROM content")
    assert bytes(content) == FROM + REST
    assert post.database.value("SELECT checksum FROM content") == crc32(FROM + REST)


def test_an_answer_stays_on_its_mailbox(post: Post, shop: Shop) -> None:
    request_id = shop.add(mime=FROM + b"In-Reply-To: <x@y>\r\n" + REST)
    shop.pause(post.anna)
    shop.run()
    assert shop.account_of(request_id) == post.anna


def test_a_short_rest_is_waited_for_and_so_is_a_person(post: Post, shop: Shop) -> None:
    request_id = shop.add()
    shop.pause(post.anna, NOW + 1)
    shop.run()
    post.store.write(Accounts.pause_by_person, post.anna, "a holiday", NOW)
    shop.run()
    assert shop.account_of(request_id) == post.anna


def test_without_another_that_can_send_it_waits(post: Post, shop: Shop) -> None:
    request_id = shop.add()
    shop.pause(post.anna)
    shop.pause(shop.ben)
    shop.run()
    assert shop.account_of(request_id) == post.anna
    post.store.write(Accounts.resume, shop.ben, NOW)
    shop.run()
    assert shop.account_of(request_id) == shop.ben


def test_the_rest_of_a_pool_sends_for_an_account_that_is_being_deleted(post: Post, shop: Shop) -> None:
    request_id = shop.add()
    post.store.write(lambda transaction: transaction.closings.begin(post.anna, NOW))
    shop.run()
    assert shop.account_of(request_id) == shop.ben
    assert not sum(post.store.read(lambda transaction: transaction.closings.unfinished(post.anna, LATER)))


def test_what_has_a_time_keeps_it(post: Post, shop: Shop) -> None:
    message = replace(new_message(post.anna, not_before=FAR), key=shop.key, mime=FROM + REST)
    accept_message(message, post.store.write)
    shop.pause(post.anna)
    shop.run()
    assert shop.account_of(message.request_id) == shop.ben
    assert post.claim(account=shop.ben) == []
    assert len(post.claim(account=shop.ben, now=FAR)) == 1


def test_one_of_many_that_fails_holds_no_other_back(post: Post, shop: Shop) -> None:
    ids = [shop.add() for _ in range(120)]
    post.database.change("UPDATE content SET checksum = 7 WHERE message_id = (SELECT min(id) FROM message)")
    shop.pause(post.anna)
    shop.run()
    assert shop.account_of(ids[0]) == post.anna, "it is damaged, and fails where it is"
    assert {shop.account_of(request_id) for request_id in ids[1:]} == {shop.ben}
    assert post.store.read(PoolMoves.movable, shop.ben, 1)
    assert post.database.value("SELECT count(*) FROM delivery WHERE state <> 'pending'") == 0
