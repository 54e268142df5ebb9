"""Who listens is told the events of messages that a commit has caused, all of them, and nothing that was undone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from postroom.core.api_key import ApiKey
from postroom.core.events import EventKind, Happened
from postroom.core.message import InDoubtPolicy
from postroom.store.captures import CAPTURED, Captures
from postroom.store.closing import Closings
from postroom.store.holds import Holds
from postroom.store.issued_keys import IssuedKeys
from postroom.store.transaction import Transaction
from tests.store.database import (
    DEFERRED,
    FAILED,
    FAR,
    IN_DOUBT,
    LATER,
    NOW,
    SENT,
    Post,
    accepting,
    new_message,
)

ADA, BOB = "ada@example.org", "bob@example.org"


@pytest.fixture
def told(post: Post) -> Iterator[list[Happened]]:
    told: list[Happened] = []
    post.store.listen(told.extend)
    yield told
    post.store.listen(None)


def ids_in_the_database(post: Post) -> list[str]:
    """Return the ids of all events, as anybody who reads the rows would make them."""
    rows = post.database.rows(
        "SELECT request_id, kind, coalesce(delivery_id, 0), at FROM event JOIN message ON message.id = message_id"
    )
    return sorted("-".join(map(str, row)) for row in rows)


def test_every_event_is_told_with_what_its_transaction_knows(post: Post, told: list[Happened]) -> None:
    request_id = post.add(ADA, BOB)
    post.finish(post.claim_one(), SENT, DEFERRED)
    post.finish(post.claim_one(FAR), FAILED, now=FAR + 5)
    accepted, sent, deferred, failed = told
    assert (accepted.kind, accepted.recipients) == (EventKind.ACCEPTED, (ADA, BOB))
    assert {each.request_id for each in told} == {request_id}
    assert {each.account for each in told} == {"anna@example.com"}
    assert (sent.kind, sent.recipients, sent.attempt, sent.blame) == (EventKind.SENT, (ADA,), 1, None)
    assert sent.reply is not None
    assert (sent.began_at, sent.at) == (NOW, LATER)
    assert (deferred.kind, deferred.recipients, deferred.reply) == (
        EventKind.DEFERRED,
        (BOB,),
        DEFERRED.reply,
    )
    assert (failed.kind, failed.blame, failed.attempt) == (EventKind.FAILED, FAILED.blame, 2)
    assert sorted(each.id for each in told) == ids_in_the_database(post)


def test_a_message_to_one_recipient_is_told_alike(post: Post, told: list[Happened]) -> None:
    post.add(ADA)
    post.finish(post.claim_one(), SENT)
    assert [(each.kind, each.recipients) for each in told] == [
        (EventKind.ACCEPTED, (ADA,)),
        (EventKind.SENT, (ADA,)),
    ]
    assert told[1].detail == "250 2.0.0 queued as 4711"
    assert sorted(each.id for each in told) == ids_in_the_database(post)


def test_what_people_decide_and_what_becomes_of_a_dead_workers_jobs_is_told(
    post: Post, told: list[Happened]
) -> None:
    held, cancelled, crashed = post.add(ADA), post.add(BOB, at=NOW + 1), post.add(BOB, at=NOW + 2)
    post.finish(post.claim(most=1)[0], IN_DOUBT, policy=InDoubtPolicy.HOLD)
    assert post.store.write(Holds.release, held, LATER + 1)
    assert post.store.write(Holds.cancel, cancelled, LATER + 2)
    post.claim(now=LATER + 3)
    post.reap(now=LATER + 4)
    assert post.store.write(Closings.cancel_waiting, post.anna, FAR)
    kinds = [(each.request_id, each.kind) for each in told if each.kind is not EventKind.ACCEPTED]
    assert kinds[:3] == [
        (held, EventKind.IN_DOUBT),
        (held, EventKind.RELEASED),
        (held, EventKind.POSSIBLE_DUPLICATE),
    ]
    assert (cancelled, EventKind.CANCELLED) in kinds
    assert (crashed, EventKind.CRASHED) in kinds
    assert (crashed, EventKind.CANCELLED) in kinds
    assert all(each.recipients and each.account for each in told)
    assert sorted(each.id for each in told) == ids_in_the_database(post)


def test_the_end_of_a_test_keys_message_is_told(post: Post, told: list[Happened]) -> None:
    key = ApiKey(digest=b"test", uid="test", name="test", account_id=post.anna, is_test=True)
    key = replace(key, id=post.store.write(IssuedKeys.issue, key, hint="abcd", source="api", now=NOW))
    post.accept(replace(new_message(post.anna, ADA, BOB), key=key))
    assert len(post.store.write(Captures.end_due, LATER, 100)) == 1
    _, sent = told
    assert (sent.kind, sent.recipients, sent.detail) == (EventKind.SENT, (ADA, BOB), CAPTURED)


def test_what_is_undone_is_not_told(post: Post, told: list[Happened]) -> None:
    def fail(transaction: Transaction) -> None:
        transaction.acceptance.accept(undone)
        raise ValueError("no")

    undone, first, last = new_message(post.anna), new_message(post.anna), new_message(post.anna, at=NOW + 1)
    results = post.store.write_all([accepting(first), fail, accepting(last)])
    assert [result.error is None for result in results] == [True, False, True]
    assert [each.request_id for each in told] == [first.request_id, last.request_id]
    with pytest.raises(ValueError, match="no"):
        post.store.write(fail)
    assert len(told) == 2


def test_a_repeated_request_is_told_once(post: Post, told: list[Happened]) -> None:
    message = replace(new_message(post.anna), idempotency_key="one", fingerprint=b"f")
    post.accept(message)
    post.accept(message)
    assert [each.kind for each in told] == [EventKind.ACCEPTED]


def test_a_listener_that_fails_undoes_nothing(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    def fail(happened: Sequence[Happened]) -> None:
        raise ValueError("a listener's fault")

    post.store.listen(fail)
    with caplog.at_level(logging.ERROR):
        request_id = post.add(ADA)
    assert post.status(request_id) == "queued"
    assert "a listener's fault" in caplog.text
