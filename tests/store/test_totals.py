"""Totals of the installation: what the rows say, on every engine, whatever is undone, folded or cancelled."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from postroom.core.api_key import ApiKey
from postroom.core.errors import LeaseLost
from postroom.core.outcome import Outcome
from postroom.store.captures import Captures
from postroom.store.holds import Holds
from postroom.store.issued_keys import IssuedKeys
from postroom.store.store import Store
from postroom.store.totals import JOBS, MOST_HELD, Totals
from postroom.store.transaction import Transaction
from tests.store.database import (
    DEFERRED,
    FAILED,
    FAR,
    IN_DOUBT,
    LATER,
    NOW,
    SENT,
    Database,
    Post,
    accepting,
    new_message,
)

ATTEMPTS = "SELECT outcome, count(*) FROM attempt GROUP BY outcome"
EVENTS = "SELECT kind, count(*) FROM event WHERE kind <> 'accepted' GROUP BY kind"


def totals(store: Store, name: str) -> dict[str, int]:
    found = store.read(Totals.all)
    return {label: value for (each, label), value in found.items() if each == name and value}


def of_events(database: Database) -> dict[str, int]:
    return dict(database.rows(EVENTS))


def test_attempts_and_events_are_counted_as_they_are_recorded(post: Post, database: Database) -> None:
    post.add_many(4)
    outcomes: tuple[Outcome, ...] = (SENT, DEFERRED, FAILED, IN_DOUBT)
    for job, outcome in zip(post.claim(now=FAR), outcomes, strict=True):
        post.finish(job, outcome)
    assert totals(post.store, "attempts") == {
        "sent none": 1,
        "deferred message": 1,
        "failed recipient": 1,
        "in_doubt none": 1,
    }
    by_outcome: Counter[str] = Counter()
    for label, value in totals(post.store, "attempts").items():
        by_outcome[label.split(" ")[0]] += value
    assert by_outcome == dict(database.rows(ATTEMPTS))
    assert totals(post.store, "message_events") == of_events(database)
    assert totals(post.store, JOBS) == {"accepted": 4, "done": 1, "failed": 1}


def _failing(transaction: Transaction) -> None:
    transaction.totals.add("attempts", "failed", "recipient")
    accepting(new_message(1))(transaction)
    raise LeaseLost("it is another's")


def test_what_is_undone_is_not_counted(post: Post) -> None:
    results = post.store.write_all(
        [accepting(new_message(post.anna)), _failing, accepting(new_message(post.anna))]
    )
    assert [type(each.error) for each in results] == [type(None), LeaseLost, type(None)]
    assert totals(post.store, JOBS) == {"accepted": 2}
    assert totals(post.store, "attempts") == {}


def test_folding_keeps_every_total(post: Post) -> None:
    for _ in range(3):
        post.store.write(Totals.add, "attempts", "sent", "none", amount=2)
    post.store.fold_counts()
    post.store.write(Totals.add, "attempts", "sent", "none")
    assert totals(post.store, "attempts") == {"sent none": 7}


def test_what_a_person_decides_is_counted(post: Post, database: Database) -> None:
    request_ids = post.add_many(3)
    post.store.write(Holds.hold_queued, NOW, until=FAR, claimed=False)
    assert post.store.read(Totals.held) == 3
    assert post.store.write(Holds.release, request_ids[0], LATER)
    assert post.store.write(Holds.cancel, request_ids[1], LATER)
    assert totals(post.store, "message_events") == of_events(database)
    assert totals(post.store, "message_events")["held"] == 3
    assert post.store.read(Totals.held) == 1
    assert MOST_HELD > 3


def test_messages_of_test_keys_are_apart(post: Post) -> None:
    key = ApiKey(digest=b"test", uid="test", name="test", account_id=post.anna, is_test=True)
    key = replace(key, id=post.store.write(IssuedKeys.issue, key, hint="abcd", source="api", now=NOW))
    post.store.write_all([accepting(replace(new_message(post.anna), key=key))])
    assert len(post.store.write(Captures.end_due, FAR, 10)) == 1
    assert totals(post.store, "test_messages_accepted") == {"": 1}
    assert totals(post.store, "test_messages_captured") == {"": 1}
    assert totals(post.store, JOBS) == {}


@pytest.mark.parametrize("state", ["active", "paused"])
def test_the_oldest_due_message_is_of_an_account_that_may_send(
    post: Post, database: Database, state: str
) -> None:
    assert post.store.read(Totals.oldest_due) is None
    post.add()
    if state == "paused":
        database.change("UPDATE account SET state = 'paused', state_since = 1, state_reason = 'x'")
    assert (post.store.read(Totals.oldest_due) is None) == (state == "paused")
    database.change("UPDATE account SET state = 'active', state_since = NULL, state_reason = NULL")
    job = post.claim_one(now=FAR)
    assert post.store.read(Totals.oldest_due) is not None, "what a worker has in hand is due all the same"
    post.finish(job, SENT, now=FAR)
    assert post.store.read(Totals.oldest_due) is None
    if state == "paused":
        database.change("UPDATE account SET state = 'paused', state_since = 1, state_reason = 'x'")
    assert post.store.read(Totals.accounts) == {state: 1}


def test_what_goes_to_several_recipients_is_counted_for_each(post: Post, database: Database) -> None:
    for outcomes in ((SENT, SENT), (SENT, FAILED), (SENT, DEFERRED)):
        post.add("bob@example.org", "eve@example.org")
        [job] = post.claim(now=FAR)
        post.finish(job, *outcomes)
    [job] = post.claim(now=FAR)
    post.finish(job, SENT)
    assert (
        totals(post.store, "message_events") == of_events(database) == {"sent": 5, "failed": 1, "deferred": 1}
    )
    assert totals(post.store, "attempts") == {"sent none": 2, "failed recipient": 1, "deferred message": 1}
    assert totals(post.store, JOBS) == {"accepted": 3, "done": 2, "failed": 1}
