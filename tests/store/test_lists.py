"""Lists of messages and counts per account: right, and read as many rows as they give."""

from __future__ import annotations

from contextlib import closing
from typing import NoReturn

from postroom.core.decide import decision_of
from postroom.core.errors import LeaseLost
from postroom.core.job import ClaimedJob
from postroom.core.message import InDoubtPolicy
from postroom.store.holds import Holds
from postroom.store.listings import Listings
from postroom.store.messages import NO_JOBS, JobCounts, Messages
from postroom.store.retention import Pruning
from postroom.store.transaction import Transaction
from postroom.store.writer import Work
from tests.store.database import (
    DEFERRED,
    FAILED,
    FAR,
    IN_DOUBT,
    NOW,
    SENT,
    Database,
    Post,
    PostgresDatabase,
    accepting,
    new_message,
)


def _live(post: Post) -> dict[str, str]:
    """Have messages of two accounts come to every state; return their ids by what became of them."""
    berta = post.add_account("berta@example.com")
    ids = {}
    for name, outcome, policy in (
        ("sent", SENT, InDoubtPolicy.RETRY),
        ("failed", FAILED, InDoubtPolicy.RETRY),
        ("held", IN_DOUBT, InDoubtPolicy.HOLD),
        ("deferred", DEFERRED, InDoubtPolicy.RETRY),
    ):
        ids[name] = post.add("bob@example.org", "carol@example.org")
        post.finish(post.claim_one(), outcome, outcome, policy=policy)
    ids["cancelled"] = post.add()
    post.store.write(Holds.cancel, ids["cancelled"], NOW)
    ids["berta's"] = post.add(account=berta)
    ids["sending"] = post.add()
    post.claim_one()
    ids["queued"] = post.add()
    return ids


def test_a_list_says_of_each_message_what_its_status_says(post: Post) -> None:
    ids = _live(post)
    listed = post.store.read(Messages.newest, 100, held_only=False)
    assert [row.status.request_id for row in listed] == list(ids.values())[::-1]
    assert [row.status for row in listed] == [
        post.store.read(Messages.status, id_) for id_ in list(ids.values())[::-1]
    ]
    by_id = {row.status.request_id: row for row in listed}
    assert by_id[ids["sent"]].recipient == "bob@example.org", "the first of them"
    assert by_id[ids["berta's"]].account == "berta@example.com"
    assert {str(row.status).split()[0] for row in listed} >= {
        "sent",
        "failed",
        "deferred",
        "cancelled",
        "sending",
        "queued",
    }
    assert [row.status.request_id for row in post.store.read(Messages.newest, 2, held_only=False)] == [
        ids["queued"],
        ids["sending"],
    ]


def test_a_list_of_one_account_or_of_what_is_held(post: Post) -> None:
    ids = _live(post)

    def newest(most: int, mailbox: str | None, *, held_only: bool) -> list[str]:
        accounts = None if mailbox is None else post.store.read(Listings.accounts, mailbox)
        return [
            row.status.request_id
            for row in post.store.read(Messages.newest, most, accounts, held_only=held_only)
        ]

    assert newest(100, "berta@example.com", held_only=False) == [ids["berta's"]]
    assert newest(1, "anna@example.com", held_only=False) == [ids["queued"]]
    assert newest(100, None, held_only=True) == [ids["held"]]
    assert newest(100, "anna@example.com", held_only=True) == [ids["held"]]
    assert newest(100, "berta@example.com", held_only=True) == []
    assert newest(100, "eve@example.com", held_only=False) == []


def test_counts_per_account_outlive_the_messages(post: Post) -> None:
    ids = _live(post)
    assert set(post.store.read(Messages.counts)) == {1, 2}
    of_anna = JobCounts(waiting=3, held=1, sent=1, failed=1, cancelled=1)
    assert post.store.read(Messages.counts) == {1: of_anna, 2: JobCounts(1, 0, 0, 0, 0)}
    post.store.fold_counts()
    post.store.fold_counts()
    assert post.store.read(Messages.counts)[1] == of_anna
    assert post.database.rows("SELECT count(*) FROM job_count WHERE account_id = 1") == [(4,)], (
        "a row for each state"
    )
    post.database.change("DELETE FROM log_line")
    pruned = post.store.write(Pruning.prune_history, FAR, 100).dropped
    assert pruned == 3
    assert post.store.read(Messages.status, ids["sent"]) is None
    assert post.store.read(Messages.counts)[1] == of_anna, "what was sent stays counted when it is deleted"


def _sending(post: Post, job: ClaimedJob) -> Work[bool]:
    decision = decision_of(
        job, {delivery.id: SENT for delivery in job.deliveries}, InDoubtPolicy.RETRY, now=NOW
    )
    return lambda transaction: transaction.attempts.finish(
        job, decision, worker_id=post.worker, started_at=NOW, now=NOW
    )


def _refusing(transaction: Transaction) -> NoReturn:
    """Accept a message and fail: it is undone, and must not be counted."""
    accepting(new_message(1))(transaction)
    raise LeaseLost("it is another's")


def test_counts_of_a_batch_are_those_of_its_works(post: Post) -> None:
    post.add_many(20)
    jobs = post.claim(now=FAR)
    settled = post.store.write_all([_sending(post, job) for job in jobs[:15]])
    assert [each.error for each in settled] == [None] * 15
    post.store.write_all([accepting(new_message(post.anna)), _refusing, accepting(new_message(post.anna))])
    assert post.store.read(Messages.counts) == {1: JobCounts(7, 0, 15, 0, 0)}
    assert post.store.read(Messages.counts).get(2, NO_JOBS).sent == 0


# Whatever autovacuum has noted of the few rows here, the planner is to think of many. It is rolled back.
_LARGE = """
BEGIN;
DELETE FROM pg_statistic WHERE starelid IN ('message'::regclass, 'job'::regclass);
UPDATE pg_class SET relpages = 1, reltuples = 100000 WHERE oid IN ('message'::regclass, 'job'::regclass)
"""


def test_lists_need_no_look_at_other_rows(post: Post, database: Database) -> None:
    """The plan of each query goes by an index and does not sort."""
    post.add()
    queries = {
        "SELECT id FROM message WHERE account_id = 1 ORDER BY id DESC LIMIT 5": "message_account",
        "SELECT message_id FROM job WHERE held = 1 ORDER BY message_id DESC LIMIT 5": "job_held",
        "SELECT message_id FROM job WHERE held = 1 AND message_id IS NOT NULL AND lane = 1 "
        "ORDER BY message_id DESC LIMIT 5": "job_held",
        "SELECT lane, count(*) FROM job WHERE held = 1 AND message_id IS NOT NULL GROUP BY lane": "job_held",
    }
    with closing(database.connect()) as connection:
        explain = "EXPLAIN QUERY PLAN"
        if isinstance(database, PostgresDatabase):
            explain = "EXPLAIN"
            for way in ("seqscan", "bitmapscan"):  # which a table of one row would be read by
                connection.execute(f"SET enable_{way} = off")
            connection.execute(_LARGE)
        plans = [repr(connection.execute(f"{explain} {query}").fetchall()) for query in queries]
        connection.execute("ROLLBACK" if isinstance(database, PostgresDatabase) else "SELECT 1")
    for plan, (query, index) in zip(plans, queries.items(), strict=True):
        assert index in plan, plan
        assert "GROUP" in query or not ("Sort" in plan or "TEMP B-TREE" in plan), plan
