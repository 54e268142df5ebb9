"""What only a database server can do to us: commits whose answer is lost, ended backends, locks, notifications."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql

from postroom.core.clock import SECOND
from postroom.core.errors import CommitUnknown, ConfigError, LeaseLost, StoreUnavailable
from postroom.core.job import ClaimedJob
from postroom.core.message import Accepted
from postroom.store.accounts import Accounts
from postroom.store.messages import Messages
from postroom.store.postgres import connect
from postroom.store.postgres.connection import Connection
from postroom.store.postgres.engine import PostgresEngine
from postroom.store.postgres.session import session_of
from postroom.store.queue import Queue
from postroom.store.settings import StoredSettings
from postroom.store.store import Store, open_store
from postroom.store.transaction import Transaction
from postroom.store.watermarks import Watermarks
from postroom.store.writer import Work
from tests.servers.cable import Cable
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.waiting import at_most, eventually
from tests.store.database import (
    LATER,
    NOW,
    SENT,
    Database,
    Post,
    PostgresDatabase,
    accepting,
    content_of,
    new_message,
)

pytestmark = [pytest.mark.only("postgres"), pytest.mark.server]


@pytest.fixture
def cable(postgres_server: Postgres) -> Iterator[Cable]:
    with Cable(postgres_server.port) as cable:
        yield cable


def over(cable: Cable, database: Database, *, find_out_within_s: float = 10.0) -> Store:
    """Open a store whose connections go over the cable."""
    assert isinstance(database, PostgresDatabase)
    url = f"postgresql://postroom@127.0.0.1:{cable.port}/{database.name}"
    return Store(PostgresEngine(url, find_out_within_s=find_out_within_s))


@contextlib.contextmanager
def own_database(server: Postgres) -> Iterator[PostgresDatabase]:
    """Make a database on a server of the test's own."""
    with contextlib.closing(PostgresDatabase(server, server.create_database())) as database:
        store = database.open()
        store.migrate()
        store.close()
        yield database


def request_ids(database: Database) -> list[str]:
    return [row[0] for row in database.rows("SELECT request_id FROM message ORDER BY id")]


class TestACommitWhoseAnswerIsLost:
    def test_and_that_was_done_is_known_to_be_done(
        self, post: Post, database: Database, cable: Cable
    ) -> None:
        store, message = over(cable, database), new_message(post.anna)
        cable.cut_at(b"COMMIT", before=False)
        assert store.write(accepting(message)) == Accepted(message.request_id)
        assert cable.cuts == 1
        assert request_ids(database) == [message.request_id]
        store.close()

    def test_and_that_was_not_done_is_known_not_to_be_and_is_done_again(
        self, post: Post, database: Database, cable: Cable
    ) -> None:
        store, messages = over(cable, database), [new_message(post.anna) for _ in range(3)]
        runs = 0

        def count(transaction: Transaction) -> None:
            nonlocal runs
            runs += 1

        cable.cut_at(b"COMMIT", before=True)
        store.write_all([*(accepting(message) for message in messages), count])
        assert cable.cuts == 1
        assert runs == 2
        assert request_ids(database) == [message.request_id for message in messages]
        store.close()

    def test_and_that_nobody_can_tell_of_is_unknown(
        self, post: Post, database: Database, cable: Cable
    ) -> None:
        store = over(cable, database, find_out_within_s=0.5)
        cable.cut_at(b"COMMIT", before=False, stay_away=True)
        with pytest.raises(CommitUnknown):
            store.write(accepting(new_message(post.anna)))
        cable.mend()
        store.write(accepting(new_message(post.anna)))
        store.close()

    def test_is_settled_for_everybody_in_the_batch(
        self, post: Post, database: Database, cable: Cable
    ) -> None:
        store = over(cable, database)
        messages = [new_message(post.anna, at=NOW + number) for number in range(20)]
        cable.cut_at(b"COMMIT", before=False)
        settled = store.write_all([accepting(message) for message in messages])
        assert [result.unwrap().request_id for result in settled] == [each.request_id for each in messages]
        assert request_ids(database) == [message.request_id for message in messages]
        store.close()

    def test_finishes_a_job_once(self, post: Post, database: Database, cable: Cable) -> None:
        request_id = post.add()
        job = post.claim_one()
        own, post.store = post.store, over(cable, database)
        cable.cut_at(b"COMMIT", before=False)
        post.finish(job, SENT)
        with pytest.raises(LeaseLost):
            post.finish(job, SENT)
        post.store.close()
        post.store = own
        assert post.status(request_id) == "sent"
        assert len(post.attempts()) == 1


@pytest.fixture(scope="module")
def durable_server() -> Iterator[Postgres]:
    """A server that keeps in memory, for as long as it may, what was not committed."""
    with Postgres(durable=True, wal_writer_delay="10s") as server:
        yield server


class TestACrashDuringACommit:
    """The server forgets the transaction, and with it that its number was ever given out."""

    @pytest.mark.parametrize("transactions_since", [0, 50])
    def test_is_known_not_to_be_done_although_its_number_was_given_to_another(
        self, durable_server: Postgres, transactions_since: int
    ) -> None:
        server = durable_server
        with (
            Cable(server.port) as cable,
            own_database(server) as database,
            ThreadPoolExecutor(1) as thread,
        ):
            store = over(cable, database, find_out_within_s=60)
            post = Post(store, database)
            message = new_message(post.anna)
            cable.cut_at(b"COMMIT", before=True, stay_away=True)
            answer = thread.submit(store.write, accepting(message))
            eventually(lambda: cable.cuts == 1, message="the commit to be lost")
            server.stop(signal.SIGQUIT)
            server.start()
            with psycopg.connect(database.url, autocommit=True) as others:
                for _ in range(transactions_since):
                    others.execute("SELECT pg_current_xact_id()")
            cable.mend()
            assert answer.result(60) == Accepted(message.request_id)
            assert request_ids(database) == [message.request_id]
            store.close()


def test_marks_of_old_commits_are_dropped(post: Post, database: Database) -> None:
    post.add()
    count = "SELECT count(*) FROM commit_mark"
    kept = database.value(count)
    assert kept > 0
    post.store.forget_commits()
    assert database.value(count) == kept
    database.change("UPDATE commit_mark SET at = at - interval '1 hour'")
    post.store.forget_commits()
    assert database.value(count) == 0


class TestAServerThatGoes:
    def test_in_the_middle_of_a_batch_has_it_run_again(
        self, post: Post, database: Database, cable: Cable
    ) -> None:
        store, message = over(cable, database), new_message(post.anna)
        cable.cut_at(b"INSERT INTO message", before=False)
        store.write(accepting(message))
        assert cable.cuts == 1
        assert request_ids(database) == [message.request_id]
        store.close()

    def test_and_stays_away_is_unavailable_and_keeps_nothing(
        self, post: Post, database: Database, cable: Cable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(connect._KEEPALIVE, "connect_timeout", 2)
        store = over(cable, database)
        before = database.contents()
        cable.cut_at(b"INSERT INTO message", before=False, stay_away=True)
        with pytest.raises(StoreUnavailable):
            store.write(accepting(new_message(post.anna)))
        assert database.contents() == before
        cable.mend()
        store.write(accepting(new_message(post.anna)))
        store.close()

    def test_ends_our_sessions_is_hardly_noticed(
        self, post: Post, database: Database, postgres_server: Postgres
    ) -> None:
        assert isinstance(database, PostgresDatabase)
        for _ in range(5):
            assert postgres_server.terminate_backends(database.name) >= 1
            post.add()
            assert post.store.read(Messages.status, "none") is None
        assert len(request_ids(database)) == 5

    def test_ends_our_sessions_is_noticed_by_one_reader_for_all(
        self, post: Post, database: Database, postgres_server: Postgres
    ) -> None:
        assert isinstance(database, PostgresDatabase)
        engine = post.store._engine
        with engine.reading(), engine.reading(), engine.reading():
            pass
        postgres_server.terminate_backends(database.name)
        with contextlib.suppress(StoreUnavailable):
            post.store.read(Accounts.all)
        for _ in range(3):
            assert post.store.read(Accounts.all)

    def test_comes_back_read_only_is_found_not_to_be_writable(
        self, post: Post, database: Database, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`/readyz` says so before anybody has tried to post."""
        assert isinstance(database, PostgresDatabase)
        post.add()
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + 20)
        post.store.check_writable()
        with contextlib.closing(psycopg.connect(postgres_server.url("postgres"), autocommit=True)) as other:
            other.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
            try:
                postgres_server.terminate_backends(database.name)
                with pytest.raises(StoreUnavailable, match="read-only"):
                    post.store.check_writable()
            finally:
                other.execute(f"ALTER DATABASE {database.name} RESET default_transaction_read_only")
        postgres_server.terminate_backends(database.name)
        post.store.check_writable()

    def test_is_waited_for_a_bounded_time(
        self, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        store = Store(PostgresEngine("postgresql://postroom@127.0.0.1:1/none", find_out_within_s=0.1))
        with at_most(20, "a writer and a reader that find nobody"):
            with pytest.raises(StoreUnavailable):
                store.write(StoredSettings.set, "x", "y")
            with pytest.raises(StoreUnavailable):
                store.read(Accounts.all)
        store.close()

    def test_refuses_us_for_good(self, postgres_server: Postgres) -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            open_store(postgres_server.url("no_such_database"))
        with pytest.raises(StoreUnavailable):
            open_store("postgresql://postroom@127.0.0.1:1/none")

    def test_keeps_the_options_of_the_url(self, database: Database) -> None:
        assert isinstance(database, PostgresDatabase)
        engine = PostgresEngine(f"{database.url}?options=-c%20work_mem%3D7MB")
        with engine._connector.connect() as connection:
            shown = [
                connection.execute(f"SHOW {name}".encode()).fetchall()
                for name in ("work_mem", "statement_timeout")
            ]
        engine.close()
        assert shown == [[("7MB",)], [("10s",)]]


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """A server of our own, to be ill-treated."""
    with Postgres() as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call this, and from then on an answer is awaited for a second and a half only."""
    return lambda: monkeypatch.setattr(Connection, "answer_within_s", 1.5)


def test_suspects_that_were_passed_over_are_found_at_once(post: Post, database: Database) -> None:
    """Else each would wait for the look, every five seconds, that begins at the beginning."""
    assert isinstance(database, PostgresDatabase)
    store = open_store(database.url)
    mine = Post(store, database)
    mine.add_many(4)
    database.change("UPDATE job SET crashes = 2")
    soon = NOW + 10 * SECOND
    for _ in range(4):
        [job] = mine.claim(now=soon)
        assert mine.claim(now=soon) == []
        mine.finish(job, SENT)
    store.close()


FORKED = """
import os, sys
import postroom.store.postgres.engine
from postroom.store.settings import StoredSettings
from postroom.store.store import open_store

for number in range(3):
    if (child := os.fork()) == 0:
        store = open_store(sys.argv[1])
        store.write(StoredSettings.set, f"child {number}", "x")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_processes_that_one_has_forked_commit_like_any_others(post: Post, database: Database) -> None:
    """As the web process's children are: each must leave marks of its own."""
    assert isinstance(database, PostgresDatabase)
    subprocess.run([sys.executable, "-c", FORKED, database.url], check=True)
    assert database.value("SELECT count(*) FROM setting WHERE name LIKE 'child%'") == 3


def _fail(transaction: Transaction) -> None:
    raise LeaseLost


class TestAServerThatDoesNotAnswer:
    def test_is_given_up_and_used_again_when_it_does(
        self, own_server: Postgres, impatient: Callable[[], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()  # the limit on a reader's wait is ours
        with own_database(own_server) as database, contextlib.closing(database.open()) as store:
            post = Post(store, database)
            before = post.add()
            impatient()
            own_server.freeze()
            try:
                with at_most(30, "two answers that do not come"):
                    with pytest.raises(StoreUnavailable) as caught:
                        post.add()
                    assert not isinstance(caught.value, CommitUnknown), "it is known that nothing was kept"
                    with pytest.raises(StoreUnavailable):
                        store.read(Messages.status, before)
            finally:
                own_server.thaw()
            eventually(lambda: _is_stored(store, before), 60, "the reader to be back")
            after = eventually(lambda: _added(post), 60, "the writer to be back")
            assert request_ids(database) == [before, after]

    def test_to_a_commit_leaves_it_unknown(self, own_server: Postgres, impatient: Callable[[], None]) -> None:
        """With its synchronous standby gone, a server ends no commit, and rolls none back either."""
        with own_database(own_server) as database:
            store = Store(PostgresEngine(database.url, find_out_within_s=1.0))
            post = Post(store, database)
            own_server.administer(sql.SQL("ALTER SYSTEM SET synchronous_standby_names = 'gone'"))
            own_server.administer(sql.SQL("SELECT pg_reload_conf()"))
            eventually(lambda: database.value("SHOW synchronous_standby_names") == "gone")
            message = new_message(post.anna)
            impatient()
            with pytest.raises(CommitUnknown):
                store.write(accepting(message))
            own_server.administer(sql.SQL("ALTER SYSTEM RESET synchronous_standby_names"))
            own_server.administer(sql.SQL("SELECT pg_reload_conf()"))
            eventually(lambda: request_ids(database) == [message.request_id], message="the commit to end")
            store.close()

    @pytest.mark.parametrize("limit", ["lock_timeout", "statement_timeout"])
    def test_in_time_ends_the_statement_behind_a_bouncer_too(
        self, post: Post, database: Database, postgres_server: Postgres, limit: str
    ) -> None:
        assert isinstance(database, PostgresDatabase)
        with PgBouncer(postgres_server) as bouncer, database.writes_held():
            engine = PostgresEngine(bouncer.url(database.name), bouncer=True)
            engine._connector.settings[limit] = "'200ms'"
            store = Store(engine)
            with pytest.raises(StoreUnavailable, match=f"canceling statement due to {limit[:4]}"):
                store.write(accepting(new_message(post.anna)))
            store.close()


class TestASlowLink:
    """The time for an answer is a fraction of what a large message takes; all limits are scaled down alike."""

    OCTETS, OCTETS_PER_S, ANSWER_WITHIN_S = 1_200_000, 400_000, 2.0

    @pytest.fixture
    def slow(
        self,
        request: pytest.FixtureRequest,
        database: Database,
        postgres_server: Postgres,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[Store]:
        assert isinstance(database, PostgresDatabase)
        monkeypatch.setattr(Connection, "answer_within_s", self.ANSWER_WITHIN_S)
        with Cable(postgres_server.port, getattr(request, "param", self.OCTETS_PER_S)) as link:
            engine = PostgresEngine(f"postgresql://postroom@127.0.0.1:{link.port}/{database.name}")
            limits = ("statement_timeout", "idle_in_transaction_session_timeout")
            engine._connector.settings |= dict.fromkeys(limits, "'2s'")
            with contextlib.closing(Store(engine)) as store:
                yield store

    @pytest.mark.parametrize("others", [[], [_fail]], ids=["in a batch", "one by one"])
    def test_takes_a_large_message(
        self, post: Post, database: Database, slow: Store, others: list[Work[None]]
    ) -> None:
        message = replace(new_message(post.anna), mime=random.Random(1).randbytes(self.OCTETS))
        settled = slow.write_all([accepting(message), *others])
        assert settled[0].unwrap() == Accepted(message.request_id)
        assert request_ids(database) == [message.request_id]

    @pytest.mark.parametrize("slow", [6_000_000], indirect=True)
    def test_takes_a_message_that_the_kernel_does_not_hold_at_once(
        self, post: Post, database: Database, slow: Store
    ) -> None:
        """What the driver still holds goes on when it has nothing more to say: the server would wait for it for ever."""
        message = replace(new_message(post.anna), mime=random.Random(1).randbytes(20_000_000))
        slow.write(accepting(message))
        assert request_ids(database) == [message.request_id]

    def test_gives_a_large_message_back(self, post: Post, slow: Store) -> None:
        message = replace(new_message(post.anna), mime=random.Random(1).randbytes(self.OCTETS))
        post.store.write(accepting(message))
        [job] = slow.write(
            Queue.claim, account_id=post.anna, worker_id=post.worker, now=NOW, most=8, most_bytes=1 << 30
        )
        assert content_of(slow, job) == message.mime


def _is_stored(store: Store, request_id: str) -> bool:
    try:
        return store.read(Messages.status, request_id) is not None
    except StoreUnavailable:
        return False


def _added(post: Post) -> str | None:
    try:
        return post.add()
    except StoreUnavailable:
        return None


@pytest.mark.parametrize("size", [100_000, 400_000], ids=["with others", "alone"])
def test_a_mail_goes_there_and_back_in_as_many_octets_as_it_has(
    post: Post, database: Database, cable: Cable, size: int
) -> None:
    store = over(cable, database)
    mails = [replace(new_message(post.anna), mime=random.Random(seed).randbytes(size)) for seed in range(3)]
    store.write_all([accepting(mail) for mail in mails])
    ours: dict[str, Any] = {"account_id": post.anna, "worker_id": post.worker, "now": NOW}
    jobs = store.write(Queue.claim, most=8, most_bytes=1 << 30, **ours)
    assert [content_of(store, job) for job in jobs] == [mail.mime for mail in mails]
    store.close()
    for direction, octets in cable.carried.items():
        assert octets < 1.1 * 3 * size, direction


class TestABatch:
    def test_fails_only_those_who_need_what_somebody_holds(self, post: Post, database: Database) -> None:
        store, message = database.open_impatient(), new_message(post.add_account("berta@example.com"))
        with psycopg.connect(database.url) as other:
            other.execute("SELECT 1 FROM account WHERE id = %s FOR UPDATE", [post.anna])
            blocked = partial(take_connection, post.anna, post.worker)
            settled = store.write_all([blocked, blocked, accepting(message), show_patience, blocked])
        assert [isinstance(each.error, StoreUnavailable) for each in settled] == [
            True, True, False, False, True
        ]  # fmt: skip
        assert settled[3].value == "100ms", "the others do not wait as long as the first"
        assert message.request_id in request_ids(database)
        store.close()

    def test_that_meets_another_one_head_on_is_run_again(self, post: Post, database: Database) -> None:
        """Two transactions that lock the same two accounts in either order: the server ends one of them."""
        berta = post.add_account("berta@example.com")
        other, together = database.open(), threading.Barrier(2, timeout=60)

        def lock(store: Store, first: int, second: int) -> None:
            met = False

            def work(transaction: Transaction) -> None:
                nonlocal met
                transaction.accounts.lock(first)
                if not met:
                    met = True
                    together.wait()
                transaction.accounts.lock(second)

            store.write(work)

        with ThreadPoolExecutor(2) as threads:
            futures = [
                threads.submit(lock, post.store, post.anna, berta),
                threads.submit(lock, other, berta, post.anna),
            ]
            for future in futures:
                future.result(60)
        other.close()

    def test_wakes_the_workers_once(self, post: Post, database: Database) -> None:
        with psycopg.connect(database.url, autocommit=True) as listener:
            listener.execute("LISTEN postroom")
            post.add_many(50)
            post.claim()
            database.rows("SELECT pg_notify('postroom', 'the last')")
            notes = []
            while "the last" not in notes:
                notes += [note.payload for note in listener.notifies(timeout=60, stop_after=1)]
        assert len(notes) == 2, "one for fifty mails, none for a claim"

    def test_is_noticed_by_whoever_listens(self, post: Post, database: Database) -> None:
        store = database.open()
        eventually(lambda: store.change_counter() > 0, message="the listener to be there")
        before = store.change_counter()
        post.add()
        eventually(lambda: store.change_counter() > before, message="the notification")
        store.close()

    def test_is_noticed_again_when_the_listener_was_cut_off(
        self, post: Post, database: Database, postgres_server: Postgres
    ) -> None:
        assert isinstance(database, PostgresDatabase)
        store = database.open()
        eventually(lambda: store.change_counter() > 0, message="the listener to be there")
        postgres_server.terminate_backends(database.name)
        before = store.change_counter()
        eventually(lambda: store.change_counter() > before, message="the listener to be back")
        before = store.change_counter()
        post.add()
        eventually(lambda: store.change_counter() > before, message="the notification")
        store.close()


def take_connection(account_id: int, worker_id: int, transaction: Transaction) -> object:
    return transaction.connections.take(account_id, worker_id, most=9, logins_per_minute=None, now=NOW)


def show_patience(transaction: Transaction) -> object:
    """Return how long a statement waits for a lock from here on."""
    with session_of(transaction).cursor() as cursor:
        [[shown]] = cursor.execute("SHOW lock_timeout").fetchall()
    return shown


def give_back(job: ClaimedJob, transaction: Transaction) -> None:
    transaction.queue.release(job, NOW + 1000)


class TestClaims:
    def test_pass_over_what_another_one_is_claiming(self, post: Post, database: Database) -> None:
        first, second = post.add(at=NOW), post.add(at=NOW + 1)
        with psycopg.connect(database.url) as other:
            other.execute("SELECT 1 FROM job ORDER BY id LIMIT 1 FOR UPDATE")
            assert [job.request_id for job in post.claim(now=NOW + 1)] == [second]
            other.rollback()
        assert [job.request_id for job in post.claim(now=NOW + 1)] == [first]

    def test_begin_where_the_last_one_ended_and_now_and_then_at_the_beginning(
        self, post: Post, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What came in late, below where the last claim ended, waits a few seconds and no longer."""
        watermarks = post.store._engine.watermarks = Watermarks()
        post.add_many(20)
        now = NOW + 3600 * SECOND
        assert len(post.claim(now=now, most=5)) == 5
        assert watermarks.of_account(post.anna) == NOW + 4 - 2 * SECOND, (
            "where there is more it goes on from there"
        )
        assert len(post.claim(now=now)) == 15
        assert watermarks.of_account(post.anna) == now - 2 * SECOND
        late = post.add(at=NOW + 60 * SECOND)
        assert post.claim(now=now) == []
        assert len(post.store.read(Accounts.due, now)) == 1, "the first look for all begins at the beginning"
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + 6)
        assert [job.request_id for job in post.claim(now=now)] == [late]

    def test_look_for_accounts_from_where_nothing_is_left(
        self, post: Post, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post.store._engine.watermarks = Watermarks()
        berta = post.add_account("berta@example.com")
        now = NOW + 3600 * SECOND
        assert post.store.read(Accounts.due, now) == []
        post.add(account=berta, at=now)
        assert [stored.account.id for stored in post.store.read(Accounts.due, now)] == [berta]
        assert len(post.claim(account=berta, now=now)) == 1
        post.add(account=post.anna, at=NOW)
        post.add(account=berta, at=now)
        assert [stored.account.id for stored in post.store.read(Accounts.due, now)] == [berta], (
            "anna's came in late"
        )
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + 6)
        assert len(post.store.read(Accounts.due, now)) == 2

    def test_that_were_undone_with_their_batch_find_the_same_jobs_again(
        self, post: Post, database: Database
    ) -> None:
        post.store._engine.watermarks = Watermarks()
        now = NOW + 3600 * SECOND
        assert post.claim(now=now) == [], "from here on a look begins at the floor"
        ids = [post.add(at=now) for _ in range(3)]

        def claim(transaction: Transaction) -> list[ClaimedJob]:
            return transaction.queue.claim(
                account_id=post.anna, worker_id=post.worker, most=5, most_bytes=10**6, now=now + 60 * SECOND
            )

        def fail(transaction: Transaction) -> None:
            raise LeaseLost

        claimed, failed = post.store.write_all([claim, fail])
        assert isinstance(failed.error, LeaseLost)
        assert [job.request_id for job in claimed.unwrap()] == ids

    def test_leave_what_did_not_fit_above_the_floor(self, post: Post, database: Database) -> None:
        post.store._engine.watermarks = Watermarks()
        ids = [post.add(at=NOW + number * 60 * SECOND, size=600) for number in range(3)]
        now = NOW + 3600 * SECOND
        claimed = [post.claim(now=now, most_bytes=1000)[0].request_id for _ in range(3)]
        assert claimed == ids

    def test_of_32_racing_workers_never_exceed_a_limit(self, post: Post, database: Database) -> None:
        """Not even while their sessions are ended and their claims are given back."""
        post.add_many(450)
        workers = [post.add_worker(LATER) for _ in range(32)]
        stores = [database.open() for _ in range(8)]
        over = threading.Event()

        def race(number: int) -> list[int]:
            taken: list[int] = []
            while True:
                try:
                    jobs = stores[number % 8].write(
                        lambda t: t.queue.claim(
                            account_id=post.anna,
                            worker_id=workers[number],
                            most=5,
                            most_bytes=10**6,
                            now=NOW + 1000,
                            daily_limit=300,
                        )
                    )
                    if over.is_set():
                        return taken + [job.id for job in jobs]
                    if number % 4 == 0 and jobs:  # and the next claim takes the slot again
                        stores[number % 8].write(partial(give_back, jobs.pop()))
                except StoreUnavailable:
                    continue
                taken += [job.id for job in jobs]

        with ThreadPoolExecutor(32) as threads:
            futures = [threads.submit(race, number) for number in range(32)]
            try:
                with psycopg.connect(database.url, autocommit=True) as connection:
                    for _ in range(10):
                        time.sleep(0.1)
                        connection.execute(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                            "WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
                        )
                full = "SELECT sum(recipients) FROM account_usage"
                eventually(lambda: database.value(full) == 300, 60, "the limit to be reached")
            finally:
                over.set()
            taken = Counter(job for future in futures for job in future.result(60))
        for store in stores:
            store.close()
        claimed = database.value("SELECT count(*) FROM job WHERE state = 'claimed'")
        assert claimed == database.value(full) == 300
        assert max(taken.values()) == 1
        assert len(taken) <= 300
