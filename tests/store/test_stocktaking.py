"""A worker compares what it has in hand with what the database has as its own."""

from __future__ import annotations

import pytest

from postroom.core.job import ClaimedJob
from postroom.core.message import InDoubtPolicy
from postroom.store.messages import Messages
from postroom.worker.liveness import Stocktaker
from tests.store.database import LATER, SENT, Post


@pytest.fixture
def stocktaker(post: Post) -> Stocktaker:
    return Stocktaker(post.store, post.worker, lambda: LATER, InDoubtPolicy.RETRY)


def tokens(*jobs: ClaimedJob) -> set[int]:
    return {job.token for job in jobs}


def test_what_only_the_database_knows_is_given_back_when_it_is_found_twice(
    post: Post, stocktaker: Stocktaker
) -> None:
    ids = post.add_many(3)
    held, _, sent = post.claim(now=LATER)
    marked = tokens(sent)
    assert stocktaker.compare(tokens(held), marked) == 0, "it may be on its way"
    assert [post.status(each) for each in ids] == ["sending"] * 3
    assert stocktaker.compare(tokens(held), set()) == 2
    assert post.status(ids[0]) == "sending"
    assert post.job(ids[1])["state"] == "queued"
    assert not post.store.read(Messages.status, ids[1]).possible_duplicate  # type: ignore[union-attr]
    assert post.store.read(Messages.status, ids[2]).possible_duplicate, "its dot was out"  # type: ignore[union-attr]
    assert stocktaker.compare(tokens(held), set()) == 0
    post.finish(held, SENT)


def test_a_dot_mark_that_the_database_has_is_doubt_enough(post: Post, stocktaker: Stocktaker) -> None:
    request_id = post.add()
    post.mark_dot(post.claim_one())
    assert [stocktaker.compare(set(), set()) for _ in range(2)] == [0, 1]
    assert post.store.read(Messages.status, request_id).possible_duplicate  # type: ignore[union-attr]


def test_what_is_on_its_way_is_left_alone(post: Post, stocktaker: Stocktaker) -> None:
    """A claim that is not in its lane yet, and an end that is not recorded yet."""
    first, second = post.add(), post.add()
    jobs = post.claim(now=LATER)
    assert stocktaker.compare(set(), set()) == 0
    assert stocktaker.compare(tokens(*jobs), set()) == 0
    for job in jobs:
        post.finish(job, SENT)
    assert stocktaker.compare(tokens(*jobs), set()) == 0
    assert stocktaker.compare(set(), set()) == 0
    assert [post.status(first), post.status(second)] == ["sent", "sent"]


def test_what_the_database_does_not_know_is_said_once(
    post: Post, stocktaker: Stocktaker, caplog: pytest.LogCaptureFixture
) -> None:
    post.add()
    job = post.claim_one()
    post.release(job)
    for _ in range(4):
        stocktaker.compare(tokens(job), set())
    assert [record.getMessage() for record in caplog.records] == [
        "1 job in hand is no longer ours by the database, and not sent"
    ]
