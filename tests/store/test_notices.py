"""What notices are told of, read from the database; and which process tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from postroom.core.clock import MINUTE, SECOND
from postroom.core.errors import LeaseLost
from postroom.core.notices.kinds import Kind
from postroom.core.notices.values import Look, Trouble
from postroom.core.notices.ways import parse_ways
from postroom.core.outcome import Blame, Deferred
from postroom.notices.election import Election
from postroom.notices.notifier import Notifier
from postroom.notices.observe import Observer
from postroom.settings import Settings
from postroom.store.accounts import Accounts
from postroom.store.notices import NoticeChanges, Notices
from postroom.store.store import Store
from postroom.store.workers import Workers
from tests.servers.receiver import Receiver
from tests.servers.waiting import eventually
from tests.store.database import DEFERRED, FAILED, FAR, LATER, NOW, SENT, Database, Post


class Eyes:
    """An observer whose clocks the test sets."""

    def __init__(self, post: Post) -> None:
        self.now = LATER
        self.seconds = 0.0
        settings = Settings(disk_reserve=0, notify_disk=0, notify_deaths=2)
        self.observer = Observer(settings, post.store, lambda: self.now, lambda: self.seconds)

    def look(self, after: float = 5.0) -> Look:
        self.seconds += after
        self.now += int(after * SECOND)
        return self.observer.look()

    def subjects(self, kind: Kind, after: float = 5.0) -> list[str]:
        return [each.subject for each in self.look(after).seen if each.kind is kind]


def add_working(post: Post) -> int:
    """Add a worker of another host, whose lease is long."""
    return post.store.write(
        Workers.register, host="there", pid=1, lock_file="none", now=NOW, lease_until=LATER + 60 * MINUTE
    )


def fail(post: Post, count: int = 1) -> None:
    for _ in range(count):
        post.add("bob@example.org")
    for job in post.claim():
        post.finish(job, FAILED, now=LATER)


# -- failures


def test_what_failed_before_the_first_look_is_no_news(post: Post) -> None:
    fail(post)
    eyes = Eyes(post)
    assert eyes.look().happened == ()
    assert eyes.look().happened == ()


def test_each_failure_is_counted_once(post: Post) -> None:
    eyes = Eyes(post)
    eyes.look()
    fail(post, 3)
    [happened] = eyes.look().happened
    assert (happened.kind, happened.count, sum(happened.causes.values())) == (Kind.FAILED, 3, 3)
    assert "from anna@example.com to bob@example.org" in happened.examples[0]
    assert eyes.look().happened == ()


def test_a_process_that_takes_over_counts_what_failed_meanwhile(post: Post) -> None:
    first = Eyes(post)
    first.look()
    fail(post, 2)
    second = Eyes(post)
    second.observer.totals = first.observer.totals
    [happened] = second.look().happened
    assert happened.count == 2


def test_the_failure_of_a_notice_is_not_counted(post: Post) -> None:
    eyes = Eyes(post)
    eyes.look()
    fail(post)
    request_id = post.add("ops@example.org")
    post.store.write(Notices.note_message, request_id)
    post.finish(post.claim_one(), FAILED, now=LATER)
    [happened] = eyes.look().happened
    assert happened.count == 1
    assert all("ops@" not in example for example in happened.examples)
    assert eyes.observer.ended_messages == (request_id,)
    assert eyes.look().happened == (), "it is counted once, whether the database has forgotten it or not"
    post.store.write(Notices.begin, "me")
    post.store.write(Notices.keep, "me", NoticeChanges("{}", ended_messages=(request_id,)))
    assert post.store.read(Notices.messages) == []
    fail(post)
    [happened] = eyes.look().happened
    assert happened.count == 1


def test_the_share_of_failures_says_nothing_of_few_messages(post: Post) -> None:
    eyes = Eyes(post)
    eyes.look()
    fail(post, 19)
    assert Kind.SHARE not in eyes.look().known
    fail(post, 1)
    look = eyes.look()
    assert Kind.SHARE in look.known
    assert [each.kind for each in look.seen if each.kind is Kind.SHARE] == [Kind.SHARE]
    for _ in range(100):
        post.add()
    for job in post.claim():
        post.finish(job, SENT, now=LATER)
    assert eyes.subjects(Kind.SHARE) == []


# -- accounts


def test_an_account_that_the_breaker_has_paused_is_seen_and_one_that_a_person_has_is_not(post: Post) -> None:
    berta = post.add_account("berta@example.com")
    eyes = Eyes(post)
    assert eyes.subjects(Kind.PAUSED) == []
    post.store.write(Accounts.pause, post.anna, reason="535 refused", tried_at=LATER, now=LATER)
    post.store.write(Accounts.pause_by_person, berta, "holidays", LATER)
    [seen] = [each for each in eyes.look().seen if each.kind is Kind.PAUSED]
    assert (seen.subject, seen.name, seen.cause) == (str(post.anna), "anna@example.com", "535 refused")
    assert (seen.since, seen.account) == (LATER, "anna@example.com")
    post.store.write(Accounts.resume, post.anna, LATER)
    assert eyes.subjects(Kind.PAUSED) == []


def test_an_account_that_rests_for_a_limit_is_seen_where_that_is_long(post: Post) -> None:
    eyes = Eyes(post)
    post.store.write(
        Accounts.park, post.anna, reason="452 too fast", rest=20 * SECOND, tried_at=LATER, now=LATER
    )
    assert eyes.subjects(Kind.LIMIT) == []
    post.store.write(Accounts.resume, post.anna, LATER)
    post.store.write(
        Accounts.park, post.anna, reason="550 daily limit", rest=60 * MINUTE, tried_at=LATER, now=LATER
    )
    [seen] = [each for each in eyes.look().seen if each.kind is Kind.LIMIT]
    assert seen.cause.startswith("550 daily limit; it goes on at ")


def test_a_limit_that_was_raised_and_an_account_that_is_new_are_seen_within_three_looks(post: Post) -> None:
    def uses_nine_of(account: int, limit: int) -> None:
        post.database.change(
            f"UPDATE account SET daily_limit = {limit} WHERE id = {account};"
            f"DELETE FROM account_usage WHERE account_id = {account};"
            f"INSERT INTO account_usage (account_id, slot, recipients) VALUES ({account}, {slot}, 9);"
        )

    eyes = Eyes(post)
    slot = eyes.now // (600 * SECOND)

    def after_three_looks() -> list[str]:
        return [eyes.subjects(Kind.LIMIT) for _ in range(3)][-1]

    uses_nine_of(post.anna, 10)
    assert after_three_looks() == [str(post.anna)]
    berta = post.add_account("berta@example.com")
    uses_nine_of(berta, 10)
    assert after_three_looks() == [str(post.anna), str(berta)]
    uses_nine_of(post.anna, 100)
    assert after_three_looks() == [str(berta)]


@pytest.mark.parametrize("claimed", [False, True], ids=["in the queue", "with a worker"])
def test_a_queue_that_does_not_move_is_stuck(post: Post, claimed: bool) -> None:
    add_working(post)
    eyes = Eyes(post)
    post.add(at=eyes.now)
    if claimed:
        post.claim_one(now=eyes.now)
    assert eyes.subjects(Kind.STUCK, 40) == []
    assert eyes.subjects(Kind.STUCK, 15) == []
    assert eyes.subjects(Kind.STUCK, 20) == [str(post.anna)]


def test_a_long_queue_that_moves_is_not_stuck(post: Post) -> None:
    add_working(post)
    eyes = Eyes(post)
    for _ in range(20):
        post.add(at=eyes.now)
    for _ in range(19):
        post.finish(post.claim(most=1, now=eyes.now)[0], SENT, now=eyes.now)
        assert eyes.subjects(Kind.STUCK, 20) == []
    assert eyes.subjects(Kind.STUCK, 20) == []
    assert eyes.subjects(Kind.STUCK, 20) == [str(post.anna)]


def test_a_queue_that_waits_for_a_worker_is_no_news_of_its_account(post: Post) -> None:
    eyes = Eyes(post)
    post.add(at=eyes.now)
    looks = [eyes.look(60) for _ in range(4)]
    assert not [each for each in looks if Kind.STUCK in each.known | {seen.kind for seen in each.seen}]
    assert [seen.subject for seen in looks[-1].seen] == ["none"]
    add_working(post)
    assert eyes.subjects(Kind.STUCK, 10) == [], "its time begins with the worker"
    assert eyes.subjects(Kind.STUCK, 60) == [str(post.anna)]


def test_a_server_that_is_away_is_told_though_its_messages_are_due_later(post: Post) -> None:
    add_working(post)
    eyes = Eyes(post)
    away = Deferred("cannot connect to smtp.example.com:587: timed out", Blame.CONNECTION)
    assert eyes.subjects(Kind.STUCK, 5) == []
    post.add(at=eyes.now)
    post.finish(post.claim_one(now=eyes.now), away, now=eyes.now + SECOND)
    assert eyes.subjects(Kind.STUCK, 5) == []
    assert eyes.subjects(Kind.STUCK, 15) == []
    assert eyes.subjects(Kind.STUCK, 60) == [str(post.anna)]
    again = post.claim_one(now=FAR)
    assert eyes.subjects(Kind.STUCK) == [str(post.anna)], "a worker tries it again"
    post.finish(again, DEFERRED, retry_at=FAR + MINUTE, now=FAR)
    assert eyes.subjects(Kind.STUCK, 60) == [], "its server has answered"
    post.finish(post.claim_one(now=FAR + MINUTE), SENT, now=FAR)
    assert eyes.subjects(Kind.STUCK, 60) == []
    post.add(at=eyes.now)
    post.finish(post.claim_one(now=FAR + MINUTE), away, retry_at=FAR + 60 * MINUTE, now=eyes.now + SECOND)
    assert eyes.subjects(Kind.STUCK, 5) == []
    assert eyes.subjects(Kind.STUCK, 60) == [str(post.anna)], "the second time, at its first try"


def test_a_server_that_takes_other_messages_is_not_away(post: Post) -> None:
    add_working(post)
    eyes = Eyes(post)
    away = Deferred("the connection was lost", Blame.CONNECTION)
    eyes.look()
    post.add(at=eyes.now)
    post.finish(post.claim_one(now=eyes.now), away, now=eyes.now + SECOND)
    assert eyes.subjects(Kind.STUCK, 5) == []
    post.add(at=eyes.now)
    post.finish(post.claim_one(now=eyes.now), SENT, now=eyes.now)
    for _ in range(5):
        assert eyes.subjects(Kind.STUCK, 60) == [], "one that is due later says nothing of it any more"
    post.finish(post.claim_one(now=FAR), away, now=eyes.now + SECOND, retry_at=FAR + 60 * MINUTE)
    assert eyes.subjects(Kind.STUCK, 60) == [str(post.anna)], "and is away again"


def test_what_is_deferred_again_and_again_is_no_progress(post: Post) -> None:
    add_working(post)
    eyes = Eyes(post)
    post.add(at=eyes.now)
    post.add(at=eyes.now)
    for _ in range(5):
        post.finish(post.claim(most=1, now=eyes.now)[0], DEFERRED, retry_at=eyes.now, now=eyes.now)
        eyes.look(20)
    [seen] = [each for each in eyes.look(20).seen if each.kind is Kind.STUCK]
    assert seen.cause, "it names what the server said"


# -- workers


def test_a_worker_that_keeps_dying_is_told_from_one_that_was_stopped(post: Post) -> None:
    eyes = Eyes(post)
    for crashed in (True, False, False):
        post.reap(post.add_worker(), crashed=crashed)
    assert eyes.subjects(Kind.WORKER) == []
    post.reap(post.add_worker())
    assert eyes.subjects(Kind.WORKER) == ["deaths here"]
    assert "deaths here" not in eyes.subjects(Kind.WORKER, 3600)


# -- who tells


@contextmanager
def candidate(store: Store, folder: Path, seconds: list[float]) -> Iterator[Election]:
    folder.mkdir(exist_ok=True)
    with closing(Election(store, folder, clock=lambda: seconds[0])) as election:
        yield election


def test_one_process_is_elected_and_another_takes_over_when_it_says_nothing(
    store: Store, tmp_path: Path
) -> None:
    seconds = [0.0]
    with (
        candidate(store, tmp_path / "a", seconds) as first,
        candidate(store, tmp_path / "b", seconds) as second,
    ):
        assert first.run()
        for _ in range(10):
            seconds[0] += 10
            assert first.run()
            assert not second.run()
        seconds[0] += 29
        assert not second.run(), "the first may be slow"
        seconds[0] += 1
        assert second.run()
        seconds[0] += 10
        assert not first.run(), "it finds out when it renews"
        with pytest.raises(LeaseLost):
            store.write(Notices.keep, first.name, NoticeChanges("{}"))


def test_the_next_process_of_a_folder_goes_on_at_once(store: Store, tmp_path: Path) -> None:
    seconds = [0.0]
    with candidate(store, tmp_path / "a", seconds) as first:
        assert first.run()
        with candidate(store, tmp_path / "a", seconds) as beside:
            assert not beside.run(), "one process a folder"
    with candidate(store, tmp_path / "a", seconds) as after:
        assert after.run()


# -- without a database that takes anything


def look_until(notifier: Notifier, condition: Callable[[], object], what: str) -> None:
    """Look again and again until something is so."""

    def looked() -> object:
        notifier.look()
        return condition()

    eventually(looked, message=what)


def test_what_cannot_be_stored_is_told_from_memory_once(
    post: Post, database: Database, tmp_path: Path
) -> None:
    with Receiver() as receiver, closing(database.open_impatient()) as store:
        settings = Settings(
            notify=parse_ways(receiver.url),
            notify_kinds=frozenset({Kind.PAUSED}),
            notify_gather=1,
            disk_reserve=0,
        )
        with closing(Notifier(settings, store, tmp_path)) as notifier:
            look_until(notifier, lambda: store.read(Notices.memory), "the election")
            post.store.write(Accounts.pause, post.anna, reason="535 refused", tried_at=LATER, now=LATER)
            with database.writes_held():
                look_until(notifier, receiver.documents, "the notice")
                for _ in range(3):
                    notifier.look()
                assert len(receiver.documents()) == 1
            look_until(notifier, lambda: store.read(Notices.troubles), "it to be stored")
            [trouble] = store.read(Notices.troubles)
            assert trouble.notice_id == receiver.documents()[0]["notice_id"]
            look_until(notifier, lambda: not store.read(Notices.to_send), "it to be stored as sent")
            assert len(receiver.documents()) == 1


# -- what is kept


def test_what_is_kept_is_found_again_and_forgotten(store: Store) -> None:
    store.write(Notices.begin, "me")
    trouble = Trouble(Kind.PAUSED, "1", NOW, NOW, NOW, told_at=NOW, notice_id="n", name="anna@example.com")
    store.write(Notices.keep, "me", NoticeChanges("{}", (trouble,), to_send=(("n", "{}", '["1 (json)"]'),)))
    assert store.read(Notices.troubles) == [trouble]
    assert [each.ways for each in store.read(Notices.to_send)] == ['["1 (json)"]']
    store.write(Notices.keep, "me", NoticeChanges("{}", over=((Kind.PAUSED, "1"),), sent=("n",)))
    assert store.read(Notices.troubles) == []
    assert store.read(Notices.to_send) == []
