"""Lists of messages by each filter: whatever a worker has noted so far, they say the same, and read few rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import apsw
import psycopg
import pytest

from postroom.core.api_key import ApiKey
from postroom.core.clock import MINUTE
from postroom.core.errors import InvalidSubmission
from postroom.core.listing import Filter, has_words, recipient_of, words_of
from postroom.core.message import InDoubtPolicy
from postroom.core.status_word import StatusWord
from postroom.store import listings
from postroom.store.holds import Holds
from postroom.store.listings import NEWEST, Listings, ListPage
from postroom.store.projection import Projection
from postroom.store.retention import Pruning
from postroom.store.store import Store
from postroom.worker.listings import ListingRunner
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
    PostgresDatabase,
    new_message,
)

EVERYTHING = 1000


def note(store: Store) -> None:
    """Have everything noted, as a worker does; on PostgreSQL what is complete is found out at the third look."""
    runner = ListingRunner(store, lambda: False)
    for _ in range(4):
        runner.run()


def page(post: Post, wanted: Filter, limit: int = EVERYTHING, before: int = NEWEST) -> ListPage:
    return post.store.read(Listings.page, wanted, limit, before=before, now=LATER)


def found(post: Post, **fields: Any) -> list[str]:
    """Return the ids of a list, the newest first."""
    return [each.status.request_id for each in page(post, Filter(**fields)).messages]


@dataclass(frozen=True)
class Lived:
    """Messages of two accounts in every status: their ids, oldest first."""

    ids: dict[str, str]
    berta: int

    def of(self, *names: str) -> list[str]:
        return [id_ for name, id_ in reversed(self.ids.items()) if name in names]


@pytest.fixture(params=["nothing noted", "half of it noted", "all noted"])
def lived(post: Post, request: pytest.FixtureRequest) -> Lived:
    if request.param == "half of it noted":
        post.add("early@example.org")
        note(post.store)
        post.store.write(Holds.cancel, found(post)[0], NOW)
    made = _live(post)
    if request.param == "all noted":
        note(post.store)
    return made


def _live(post: Post) -> Lived:
    berta = post.add_account("berta@example.com")
    ids = {}
    for name, outcome, policy in (
        ("sent", SENT, InDoubtPolicy.RETRY),
        ("failed", FAILED, InDoubtPolicy.RETRY),
        ("held", IN_DOUBT, InDoubtPolicy.HOLD),
        ("deferred", DEFERRED, InDoubtPolicy.RETRY),
    ):
        ids[name] = post.add(f"{name}@example.org", "Carol@Example.net")
        post.finish(post.claim_one(), outcome, outcome, policy=policy)
    ids["cancelled"] = post.add()
    post.store.write(Holds.cancel, ids["cancelled"], NOW)
    ids["hers"] = post.add("hers@example.org", account=berta)
    post.finish(post.claim(account=berta)[0], SENT)
    ids["sending"] = post.add()
    post.claim_one()
    scheduled = replace(new_message(post.anna, not_before=FAR), subject="Your Invoice: No. 20-17, Straße")
    post.accept(scheduled)
    ids["scheduled"] = scheduled.request_id
    ids["queued"] = post.add()
    return Lived(ids, berta)


def test_each_status_lists_its_messages(post: Post, lived: Lived) -> None:
    assert found(post, status=StatusWord.SENT) == lived.of("sent", "hers")
    for word in StatusWord:
        if word is not StatusWord.SENT:
            expected = [id_ for id_ in found(post) if _word(post, id_) is word]
            assert found(post, status=word) == expected, word
            assert bool(expected) == (word is not StatusWord.SUPPRESSED), word


def _word(post: Post, request_id: str) -> StatusWord:
    [word] = [
        each.status.word(LATER)
        for each in page(post, Filter()).messages
        if each.status.request_id == request_id
    ]
    return word


def test_each_status_of_an_account_lists_its_messages(post: Post, lived: Lived) -> None:
    accounts = (lived.berta,)
    assert found(post, accounts=accounts) == lived.of("hers")
    assert found(post, accounts=accounts, status=StatusWord.SENT) == lived.of("hers")
    assert found(post, accounts=accounts, status=StatusWord.FAILED) == []
    assert found(post, accounts=(post.anna,), status=StatusWord.SENT) == lived.of("sent")
    for word in (StatusWord.QUEUED, StatusWord.SCHEDULED, StatusWord.DEFERRED):
        assert found(post, accounts=(post.anna,), status=word) == lived.of(word.value)
        assert found(post, accounts=accounts, status=word) == []


def test_a_recipient_is_found_by_address_and_by_domain_whatever_its_case(post: Post, lived: Lived) -> None:
    assert found(post, recipient="sent@example.org") == lived.of("sent")
    tried = lived.of("sent", "failed", "held", "deferred")
    for recipient in ("CAROL@example.NET", "@Example.NET"):
        assert found(post, recipient=recipient_of(recipient)) == tried
    assert found(post, recipient=recipient_of("@example.net"), status=StatusWord.HELD) == lived.of("held")
    assert found(post, recipient=recipient_of("nobody@example.org")) == []
    assert found(post, recipient=recipient_of("@net")) == [], "the end of a domain is none"


def test_a_subject_is_found_by_the_beginnings_of_its_words(post: Post, lived: Lived) -> None:
    for text in ("invoice:", "INV", "20-1 your", "strasse"):
        assert found(post, words=words_of(text)) == lived.of("scheduled"), text
    assert found(post, words=words_of("invoice hello")) == []


def test_a_filter_of_many_words_looks_at_few_of_a_subjects() -> None:
    """A tenant chooses both, and thousands of subjects are looked at: each word looks at a few of 500, not at all."""
    looks = 0

    class Word(str):
        def startswith(self, *args: Any) -> bool:
            nonlocal looks
            looks += 1
            return super().startswith(*args)

    class Subject(str):
        def casefold(self) -> Any:
            return self

        def split(self, *_: Any) -> Any:
            return [Word(each) for each in super().split()]

    words = words_of("z " * 400 + " ".join(f"z{number}" for number in range(19)))
    assert len(words) == 20
    assert not has_words(Subject("b " * 490 + "z"), words)
    assert looks <= 20
    assert has_words(Subject("b " * 490 + " ".join(words)), words)
    with pytest.raises(InvalidSubmission):
        words_of(" ".join(map(str, range(21))))


def test_what_waits_for_a_paused_account_is_deferred(post: Post, lived: Lived) -> None:
    post.database.rows(
        "UPDATE account SET state = 'paused', state_reason = 'wrong password', state_since = 1 WHERE id = ?",
        post.anna,
    )
    assert found(post, status=StatusWord.DEFERRED) == lived.of("deferred", "queued")
    assert found(post, status=StatusWord.QUEUED) == []
    assert found(post, status=StatusWord.SCHEDULED) == lived.of("scheduled")


def test_pages_follow_each_other_without_a_gap(post: Post, lived: Lived) -> None:
    for wanted in Filter(), Filter(recipient="@example.org"), Filter(accounts=(post.anna,)):
        whole = [each.message_id for each in page(post, wanted).messages]
        for limit in (1, 2, 3, len(whole)):
            assert list(_paged(post, wanted, limit)) == whole


def _paged(post: Post, wanted: Filter, limit: int) -> list[int]:
    ids: list[int] = []
    before: int | None = NEWEST
    while before is not None:
        some = page(post, wanted, limit, before)
        assert len(some.messages) == limit or some.reached is None
        ids += [each.message_id for each in some.messages]
        before = some.reached
    return ids


@pytest.mark.parametrize("noted", [0, 25, 60])
def test_times_bound_a_list_also_where_a_clock_was_wrong(
    post: Post, noted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is found by the times of its messages, however they are mixed."""
    monkeypatch.setattr(listings, "BLOCK", 8)
    monkeypatch.setattr("postroom.store.projection.BLOCK", 8)
    times = [NOW + (number * 10 + (-400 if number % 17 == 3 else 0)) * MINUTE for number in range(60)]
    ids = []
    for number, at in enumerate(times):
        if number == noted:
            note(post.store)
        ids.append(post.add("bob@example.org", at=at))
    if noted == len(times):
        note(post.store)
    newest_first = list(zip(reversed(ids), reversed(times), strict=True))
    for since, until in itertools.product((None, NOW, NOW + 205 * MINUTE, NOW + 9000 * MINUTE), repeat=2):
        expected = [
            id_
            for id_, at in newest_first
            if (since is None or at >= since) and (until is None or at < until)
        ]
        assert found(post, since=since, until=until) == expected
        assert found(post, since=since, until=until, recipient="bob@example.org") == expected


def issue(post: Post, number: int, pool: str) -> None:
    post.database.rows(
        "INSERT INTO issued_key (id, uid, digest, name, pool_id, scopes, hint, source, created_at) "
        f"VALUES ({number}, 'key{number}', ?, 'shop', {pool}, 'send read', 'abcd', 'api', 7)",
        str(number).encode(),
    )


def key_of_pool(post: Post, number: int) -> None:
    post.database.rows("INSERT INTO pool VALUES (1, 'p', 'pool', 7, 7, NULL, NULL)")
    issue(post, number, "1")


def test_a_pools_key_sees_what_was_accepted_with_it(post: Post) -> None:
    issue(post, 1, "NULL")
    key_of_pool(post, 2)
    mine: list[str] = []
    for number in range(6):
        message = new_message(post.anna)
        post.accept(replace(message, key=_key(1 + number % 2)))
        if number % 2:
            mine.insert(0, message.request_id)
        if number == 3:
            assert found(post, key_id=2) == mine
            note(post.store)
    assert found(post, key_id=2) == mine
    assert found(post, key_id=2, status=StatusWord.QUEUED) == mine
    assert found(post, key_id=2, status=StatusWord.SENT) == []


def _key(id_: int) -> ApiKey:
    return ApiKey(str(id_).encode(), id=id_)


def test_filters_that_no_index_serves_end_the_look_early_and_go_on(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "MOST_LOOKED_AT", 10)
    first = replace(new_message(post.anna), subject="the needle")
    post.accept(first)
    post.add_many(25)
    wanted = Filter(words=("needle",))
    looks, ids = 0, list[str]()
    before: int | None = NEWEST
    while before is not None:
        some = page(post, wanted, 5, before)
        assert some.is_partial == (some.reached is not None)
        before, looks = some.reached, looks + 1
        ids = [each.status.request_id for each in some.messages]
    assert (looks, ids) == (3, [first.request_id])


@pytest.mark.parametrize("foreign_at_most", [10, 1000])
def test_messages_of_others_neither_end_a_look_early_nor_show_in_it(
    post: Post, monkeypatch: pytest.MonkeyPatch, foreign_at_most: int
) -> None:
    """Else a tenant would learn from `partial` how much others send to an address, and would not find its own."""
    monkeypatch.setattr(listings, "MOST_LOOKED_AT", 15)
    monkeypatch.setattr(listings, "_MOST_FOREIGN", foreign_at_most)
    berta = post.add_account("berta@example.org")
    wanted = Filter(accounts=(berta,), recipient="x@example.org")
    mine = [post.add("x@example.org", account=berta), post.add("y@example.org", account=berta)]
    for _ in range(40):
        post.add("x@example.org")
    mine.append(post.add("x@example.org", account=berta))
    note(post.store)
    some = page(post, wanted, 5)
    assert [each.status.request_id for each in some.messages] == [mine[2], mine[0]]
    assert (some.is_partial, some.reached) == (False, None)


def test_waiting_messages_of_others_do_not_end_the_look_of_a_pools_key(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "MOST_LOOKED_AT", 10)
    monkeypatch.setattr(listings, "_MOST_FOREIGN", 10)
    monkeypatch.setattr(listings, "_MOST_WAITING", 5)
    key_of_pool(post, 2)
    message = new_message(post.anna)
    post.accept(replace(message, key=_key(2)))
    post.add_many(25)
    note(post.store)
    for status in (StatusWord.QUEUED, None):
        some = page(post, Filter(key_id=2, status=status), 5)
        assert [each.status.request_id for each in some.messages] == [message.request_id]
        assert not some.is_partial


def test_many_events_that_are_not_noted_yet_make_a_list_slower_and_not_wrong(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(post.store)
    monkeypatch.setattr(listings, "_MOST_UNNOTED", 10)
    ids = [post.add(f"{number % 2}@example.org") for number in range(30)]
    assert found(post, recipient="1@example.org") == ids[1::2][::-1]


def test_much_that_waits_is_looked_at_from_the_newest(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "_MOST_WAITING", 5)
    ids = post.add_many(12)[::-1]
    assert found(post, status=StatusWord.QUEUED) == ids
    assert found(post, status=StatusWord.QUEUED, accounts=(post.anna,)) == ids
    assert found(post, status=StatusWord.DEFERRED) == []
    post.finish(post.claim(most=1)[0], DEFERRED)
    for accounts in (None, (post.anna,)):
        assert found(post, status=StatusWord.DEFERRED, accounts=accounts) == ids[-1:]
    post.database.rows(
        "UPDATE account SET state = 'paused', state_reason = 'wrong password', state_since = 1 WHERE id = ?",
        post.anna,
    )
    for accounts in (None, (post.anna,)):
        assert found(post, status=StatusWord.DEFERRED, accounts=accounts) == ids
        assert found(post, status=StatusWord.QUEUED, accounts=accounts) == []


# --- what is noted


def test_messages_of_before_the_first_note_are_noted_backwards(post: Post) -> None:
    ids = [post.add(f"{number % 2}@example.org") for number in range(10)]
    post.finish(post.claim(most=1)[0], SENT)
    note(post.store)
    assert post.store.read(Projection.marks) == (11, 0)
    later = post.add("1@example.org")
    note(post.store)
    assert found(post, recipient="1@example.org") == [later, *ids[1::2][::-1]]
    assert found(post, status=StatusWord.SENT) == ids[:1]
    assert _counts(post) == {("accepted", 11), ("sent", 1), ("after", 1)}


def _counts(post: Post) -> set[tuple[str, int]]:
    return set(
        post.database.rows("SELECT measure, CAST(sum(messages) AS INTEGER) FROM daily_count GROUP BY measure")
    )


def _is_read(runner: ListingRunner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have a runner note everything, an event a step; return the messages that it reads."""
    read: list[int] = []
    messages = Projection._messages

    def noticed(self: Projection, ids: Sequence[int]) -> Any:
        read.extend(ids)
        return messages(self, ids)

    with monkeypatch.context() as patched:
        patched.setattr(Projection, "_messages", noticed)
        patched.setattr("postroom.worker.listings._STEP", 1)
        for _ in range(4):
            runner.run()
    return read


def test_a_message_that_ends_before_it_is_noted_is_read_once(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ListingRunner(post.store, lambda: False)
    _is_read(runner, monkeypatch)
    ids = [post.add("bob@example.org"), post.add("carol@example.org"), post.add("dave@example.org")]
    post.finish(post.claim(most=1)[0], SENT)
    post.finish(post.claim(most=1)[0], FAILED)
    assert _is_read(runner, monkeypatch) == [1, 2, 3]
    assert found(post, status=StatusWord.SENT) == ids[:1]
    assert found(post, status=StatusWord.FAILED) == ids[1:2]
    assert _counts(post) == {("accepted", 3), ("sent", 1), ("after", 1), ("failed", 1)}
    post.finish(post.claim(most=1)[0], SENT)
    assert _is_read(runner, monkeypatch) == [3]
    assert found(post, status=StatusWord.SENT) == [ids[2], ids[0]]
    assert _counts(post) == {("accepted", 3), ("sent", 2), ("after", 2), ("failed", 1)}


def test_a_message_with_the_id_of_one_that_was_deleted_is_noted(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite gives the ids of deleted rows again."""
    runner = ListingRunner(post.store, lambda: False)
    _is_read(runner, monkeypatch)
    runner._ended[1] = None
    id_ = post.add("bob@example.org")
    assert _is_read(runner, monkeypatch) == [1]
    post.finish(post.claim(most=1)[0], SENT)
    assert _is_read(runner, monkeypatch) == [1]
    assert found(post, status=StatusWord.SENT) == [id_]


@pytest.mark.parametrize("between", [True, False])
def test_each_end_is_counted_once(post: Post, between: bool) -> None:
    def noted() -> None:
        if between:
            note(post.store)

    post.add("bob@example.org", "carol@example.org")
    noted()
    post.finish(post.claim_one(), SENT, DEFERRED)
    noted()
    post.finish(post.claim_one(now=FAR), SENT, now=FAR)
    noted()
    post.add()
    noted()
    post.finish(post.claim_one(now=FAR), FAILED, now=FAR)
    note(post.store)
    note(post.store)
    assert _counts(post) == {("accepted", 2), ("deferred", 1), ("sent", 1), ("after", 1), ("failed", 1)}


def test_a_step_that_another_worker_has_made_is_not_made_again(post: Post) -> None:
    note(post.store)
    post.add()
    first, second = (ListingRunner(post.store, lambda: False) for _ in range(2))
    steps: list[Callable[[], None]] = [first.run, second.run]
    for _ in range(4):
        for run in steps:
            run()
    assert _counts(post) == {("accepted", 1)}


def test_an_event_that_is_committed_behind_later_ones_is_noted(post: Post) -> None:
    """PostgreSQL gives ids before commits: the mark waits for the transactions that ran by then."""
    if not isinstance(post.database, PostgresDatabase):
        return
    note(post.store)
    ids = [post.add("first@example.org")]
    late = "INSERT INTO event (message_id, at, kind) VALUES (1, %s, 'deferred') RETURNING id"
    with psycopg.connect(post.database.url) as foreign:
        cursor = foreign.execute(late, [NOW])
        [number] = cursor.fetchone() or (0,)
        ids += [post.add("first@example.org") for _ in range(3)]
        runner = ListingRunner(post.store, lambda: False)
        for _ in range(6):
            runner.run()
        marks = post.store.read(Projection.marks)
        assert marks is not None
        assert marks[0] < number
        assert found(post, recipient="first@example.org") == ids[::-1]
    for _ in range(6):
        runner.run()
    assert _counts(post) == {("accepted", 4), ("deferred", 1)}


def test_deleted_messages_leave_no_notes_and_their_ids_may_come_again(post: Post) -> None:
    """SQLite gives the ids of deleted rows to new ones."""
    post.add("bob@example.org", "carol@example.org")
    post.finish(post.claim_one(), SENT, FAILED)
    note(post.store)
    _log_all(post)
    post.store.write(Pruning.prune_history, FAR, 100)
    assert post.database.rows("SELECT * FROM listed") == []
    new = [post.add("bob@example.org"), post.add("dora@example.org")]
    assert found(post, recipient="bob@example.org") == new[:1]
    note(post.store)
    assert found(post, recipient="bob@example.org") == new[:1]
    assert found(post, recipient="dora@example.org") == new[1:]
    assert found(post, status=StatusWord.FAILED) == []


def _log_all(post: Post) -> None:
    post.database.rows("DELETE FROM log_line")


# --- how they are found


PLANNED = (
    "noted_before",
    "messages_before",
    "messages_of_before",
    "held_before",
    "in_hand",
    "waiting_of",
    "waiting_captures",
    "waiting_deliveries",
    "events_behind",
    "events_between",
)
PARAMETERS = {
    "kind": 1,
    "value": 7,
    "before": 100,
    "least": 0,
    "most": 20,
    "account_id": 1,
    "after": 0,
    "until": 100,
    "messages": "[]",
    "rows": "[]",
}


BY_IDS = (
    "noted_messages",
    "noted_with",
    "deferrals_of",
    "light_messages",
    "listed_messages",
    "deferred_messages",
    "forward_paths",
    "remove_notes",
)
_PACKED = "SCAN (subquery-"  # what an index has found, made one value
WHOLE_KEYS = (
    "(kind=? AND value=? AND message_id=?)",
    "(message_id=?)",
    "(message_id=? AND rowid<?)",
    "(rowid=?)",
)


@pytest.mark.parametrize("name", BY_IDS)
def test_what_is_asked_of_some_messages_is_looked_up_for_each(database: Database, name: str) -> None:
    """SQLite alone: PostgreSQL plans by what it knows of the table."""
    if not database.url.startswith("sqlite"):
        return
    with closing(database.open()) as store:
        store.migrate()
    for step in _sqlite_plan(database, name):
        assert not step.startswith("SEARCH") or any(key in step for key in WHOLE_KEYS), step
        assert not step.startswith("SCAN") or "VIRTUAL TABLE" in step or step.startswith(_PACKED), step


@pytest.mark.parametrize("name", PLANNED)
def test_a_list_is_read_in_the_order_of_an_index(database: Database, name: str) -> None:
    """Nothing is scanned as a whole; what is put in order is what an index has found, and is bounded."""
    with closing(database.open()) as store:
        store.migrate()
    if database.url.startswith("sqlite"):
        plan = _sqlite_plan(database, name)
        scanned = [step for step in plan if step.startswith("SCAN") and not step.startswith(_PACKED)]
        assert not [step for step in scanned if "INDEX" not in step], plan
        assert not [step for step in plan if "TEMP B-TREE" in step], plan
    else:
        plan = _postgres_plan(database, name)
        assert not [step for step in plan if "Seq Scan" in step or "Sort" in step], plan


def _sqlite_plan(database: Database, name: str) -> list[str]:
    from postroom.store.sqlite.connections import load_queries

    sql = getattr(load_queries(), name).sql
    connection = apsw.Connection(database.url.removeprefix("sqlite:///"))
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", PARAMETERS)]


def _postgres_plan(database: Database, name: str) -> list[str]:
    from postroom.store.postgres.session import load_queries

    sql = getattr(load_queries(), name).sql
    with psycopg.connect(database.url) as connection:
        # A small table is read as a whole whatever its indexes: see whether it need not be.
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET enable_bitmapscan = off")
        connection.execute("SET enable_sort = off")
        connection.execute("SET enable_incremental_sort = off")
        return [row[0] for row in connection.execute(f"EXPLAIN {sql}", PARAMETERS)]
