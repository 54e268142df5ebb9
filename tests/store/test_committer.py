"""Group commit: what returned is durable, what failed is undone alone, nobody waits for ever."""

from __future__ import annotations

import fcntl
import resource
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import apsw
import pytest

from postroom.core.errors import StoreError, StoreUnavailable
from postroom.store.key_changes import RECENT_CHANGES
from postroom.store.messages import Messages
from postroom.store.sqlite.connections import connection_of
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.store import Store, open_store
from postroom.store.transaction import KEYS_REVISION, Transaction
from postroom.store.writer import GroupCommit, Work, WorkResult
from tests.children import CHILDREN
from tests.servers.waiting import at_most, eventually
from tests.store.database import NOW, Database, Post, SQLiteDatabase, accepting, new_message

PATIENCE_S = 20.0  # a hundred times what an impatient store waits


class Refused(Exception):
    """What a piece of work of these tests raises."""


def _set(name: str, value: str = "x") -> Work[str]:
    def work(transaction: Transaction) -> str:
        transaction.settings.set(name, value)
        return name

    return work


def _refuse_after(name: str) -> Work[str]:
    def work(transaction: Transaction) -> str:
        transaction.settings.set(name, "x")
        raise Refused(name)

    return work


def _settings(database: Database) -> set[str]:
    names = {row[0] for row in database.rows("SELECT name FROM setting")}
    return names - {KEYS_REVISION, RECENT_CHANGES}  # the people of the post have accounts


def _in_threads(count: int, job: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(job, range(count)))


class TestGroupCommit:
    def test_everyone_gets_their_own_result_and_all_is_durable(
        self, store: Store, database: Database
    ) -> None:
        def write_many(thread: int) -> list[str]:
            return [store.write(_set(f"{thread}-{number}")) for number in range(50)]

        results = _in_threads(16, write_many)
        assert results == [[f"{thread}-{number}" for number in range(50)] for thread in range(16)]
        assert _settings(database) == {name for names in results for name in names}

    def test_what_gathers_during_a_commit_goes_into_the_next_one(self) -> None:
        began, go_on = threading.Event(), threading.Event()
        sizes: list[int] = []

        def commit_batch(take: Any) -> list[WorkResult]:
            works = take()
            sizes.append(len(works))
            began.set()
            assert go_on.wait(60)
            return [WorkResult(work(None)) for work in works]

        group_commit = GroupCommit(commit_batch, most=8)
        with ThreadPoolExecutor(20) as threads:
            first = threads.submit(group_commit.run, lambda _: -1)
            assert began.wait(60)
            rest = [threads.submit(group_commit.run, lambda _, n=number: n) for number in range(19)]
            eventually(lambda: len(group_commit._waiting) == 19)
            go_on.set()
            assert [first.result(60), *(future.result(60) for future in rest)] == [-1, *range(19)]
        assert sizes == [1, 8, 8, 3]

    def test_what_goes_together_is_chosen_when_the_transaction_can_begin(self) -> None:
        asked, free = threading.Event(), threading.Event()
        batches: list[list[int]] = []

        def commit_batch(take: Any) -> list[WorkResult]:
            asked.set()
            assert free.wait(60)
            settled = [WorkResult(work(None)) for work in take()]
            batches.append([each.unwrap() for each in settled])
            return settled

        group_commit = GroupCommit(commit_batch, most=8)
        late = deque([lambda _: 2, lambda _: 3])
        with ThreadPoolExecutor(3) as threads:
            first = threads.submit(group_commit.run, lambda _: 1)
            assert asked.wait(60)
            gathered = threads.submit(
                group_commit.run_late, lambda most: [late.popleft() for _ in range(min(most, len(late)))]
            )
            eventually(lambda: len(group_commit._waiting) == 2)
            late.append(lambda _: 4)  # after its owner has asked
            free.set()
            assert first.result(60) == 1
            assert [each.value for each in gathered.result(60)] == [2, 3, 4]
        assert batches == [[1, 2, 3, 4]]

    def test_a_transaction_that_cannot_begin_fails_all_who_wait_for_it(self) -> None:
        asked, over = threading.Event(), threading.Event()

        def commit_batch(_: Any) -> list[WorkResult]:
            asked.set()
            assert over.wait(60)
            raise StoreUnavailable("locked")

        group_commit = GroupCommit(commit_batch, most=3)
        with ThreadPoolExecutor(5) as threads:
            futures = [threads.submit(group_commit.run, lambda _: 1)]
            assert asked.wait(60)
            futures += [threads.submit(group_commit.run, lambda _: 1) for _ in range(4)]
            eventually(lambda: len(group_commit._waiting) == 5)
            over.set()
            assert {type(future.exception(10)) for future in futures} == {StoreUnavailable}

    def test_an_interrupted_leader_hands_over(self) -> None:
        began, go_on = threading.Event(), threading.Event()

        def commit_batch(take: Any) -> list[WorkResult]:
            works = take()
            if not began.is_set():
                began.set()
                assert go_on.wait(60)
                raise KeyboardInterrupt
            return [WorkResult(work(None)) for work in works]

        group_commit = GroupCommit(commit_batch)
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(group_commit.run, lambda _: 1)
            assert began.wait(60)
            second = threads.submit(group_commit.run, lambda _: 2)
            eventually(lambda: len(group_commit._waiting) == 1)
            go_on.set()
            assert second.result(60) == 2
            with pytest.raises(KeyboardInterrupt):
                first.result(60)

    def test_works_of_one_caller_run_in_order_whatever_their_number(self, store: Store) -> None:
        ran: list[int] = []

        def note(number: int) -> Work[int]:
            def work(_: Transaction) -> int:
                ran.append(number)
                return number

            return work

        settled = store.write_all([note(number) for number in range(600)])
        assert [result.unwrap() for result in settled] == list(range(600)) == ran

    def test_callers_with_many_works_each_get_theirs(self, store: Store, database: Database) -> None:
        def write_all(thread: int) -> list[str]:
            return [r.unwrap() for r in store.write_all([_set(f"{thread}-{n}") for n in range(300)])]

        for thread, names in enumerate(_in_threads(4, write_all)):
            assert names == [f"{thread}-{number}" for number in range(300)]
        assert len(_settings(database)) == 1200

    def test_nothing_to_do_is_done_at_once(self, store: Store) -> None:
        assert store.write_all([]) == []
        assert store.write(_set("after")) == "after"

    @pytest.mark.only("sqlite")
    def test_the_change_counter_moves_with_every_commit_of_anybody(
        self, store: Store, database: Database
    ) -> None:
        other = database.open()
        seen = [store.change_counter()]
        for writer in (store, other, store):
            writer.write(_set("x", str(len(seen))))
            seen.append(store.change_counter())
        other.close()
        assert len(set(seen)) == 4
        assert len(set(_in_threads(4, lambda _: store.change_counter()))) == 1


class TestFailingWork:
    def test_is_undone_alone(self, store: Store, database: Database) -> None:
        settled = store.write_all([_set("a"), _refuse_after("b"), _set("c"), _refuse_after("d"), _set("e")])
        assert [result.value for result in settled] == ["a", None, "c", None, "e"]
        assert [str(result.error) for result in settled if result.error] == ["b", "d"]
        assert _settings(database) == {"a", "c", "e"}

    @pytest.mark.only("sqlite")
    def test_makes_the_others_run_again_and_is_not_run_again_itself(self, store: Store) -> None:
        runs: Counter[str] = Counter()

        def count(name: str, error: Exception | None = None) -> Work[None]:
            def work(_: Transaction) -> None:
                runs[name] += 1
                if error:
                    raise error

            return work

        store.write_all([count("a"), count("b", Refused()), count("c")])
        assert runs == {"a": 2, "b": 1, "c": 1}

    def test_raises_in_its_own_thread_only(self, store: Store, database: Database) -> None:
        def write_many(thread: int) -> None:
            work = _refuse_after if thread % 2 else _set
            names = [f"{thread}-{number}" for number in range(40)]
            errors = [_error_of(store, work(name)) for name in names]
            assert [str(error) for error in errors] == (names if thread % 2 else ["None"] * 40)

        _in_threads(8, write_many)
        assert _settings(database) == {
            f"{thread}-{number}" for thread in (0, 2, 4, 6) for number in range(40)
        }

    def test_of_a_wrong_statement_is_a_store_error_and_its_own_alone(
        self, post: Post, database: Database
    ) -> None:
        good = new_message(post.anna)
        settled = post.store.write_all([accepting(new_message(4711)), accepting(good), _set("after")])
        assert isinstance(settled[0].error, StoreError)
        assert not isinstance(settled[0].error, StoreUnavailable)
        assert [result.error for result in settled[1:]] == [None, None]
        assert database.rows("SELECT request_id FROM message") == [(good.request_id,)]


@contextmanager
def _stopped_neighbour(database: SQLiteDatabase) -> Iterator[None]:
    """A process of Postroom that was stopped in the middle of a commit."""
    with database.path.with_name(f"{database.path.name}-lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class TestLockedDatabase:
    def test_is_waited_for_a_while_and_works_again_afterwards(self, post: Post, database: Database) -> None:
        self.check(post, database, database.writes_held())

    @pytest.mark.only("sqlite")
    def test_by_a_stopped_process_is_no_different(self, post: Post, sqlite: SQLiteDatabase) -> None:
        self.check(post, sqlite, _stopped_neighbour(sqlite))

    @staticmethod
    def check(post: Post, database: Database, held: AbstractContextManager[None]) -> None:
        impatient = database.open_impatient()
        with held:
            with at_most(PATIENCE_S, "four writers who wait in vain"):
                outcomes = _in_threads(4, lambda n: _error_of(impatient, _set(f"lost-{n}")))
            assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 4
            assert post.store.read(Messages.status, "reading goes on") is None
        assert impatient.write(_set("after")) == "after"
        impatient.close()
        assert _settings(database) == {"after"}

    @pytest.mark.only("sqlite")
    def test_is_what_everybody_else_finds_while_a_piece_of_work_runs(
        self, post: Post, database: Database
    ) -> None:
        foreign = database.connect()

        def read_then_write(transaction: Transaction) -> None:
            transaction.keys.revoke_except([], source="csv", now=NOW)
            with pytest.raises(apsw.BusyError):
                foreign.execute("INSERT INTO setting VALUES ('between', 'x')")
            transaction.settings.set("own", "x")

        post.store.write(read_then_write)
        foreign.close()
        assert _settings(database) == {"own"}

    @pytest.mark.only("sqlite")
    def test_that_is_let_go_in_time_is_no_fault(self, store: Store, sqlite: SQLiteDatabase) -> None:
        with ThreadPoolExecutor(1) as threads:
            with sqlite.writes_held():
                future = threads.submit(store.write, _set("late"))
                eventually(lambda: _lock_is_held(sqlite))
                assert not future.done()
            assert future.result(60) == "late"


def _error_of(store: Store, work: Work[Any]) -> Exception | None:
    return store.write_all([work])[0].error


def _lock_is_held(database: SQLiteDatabase) -> bool:
    with database.path.with_name(f"{database.path.name}-lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _write_messages(url: str, account: int, threads: int, count: int | None, out: Connection) -> None:
    """Accept messages in some threads, for ever or so many each, and report each one that returned."""
    store, mutex = open_store(url), threading.Lock()

    def write(_: int) -> None:
        done = 0
        while count is None or done < count:
            message = new_message(account, size=3000)
            store.write(accepting(message))
            with mutex:
                out.send(message.request_id)
            done += 1

    _in_threads(threads, write)
    store.close()
    out.close()


def _reported(connection: Connection) -> Iterator[str]:
    try:
        while True:
            yield connection.recv()
    except EOFError:
        return


def _start(target: Callable[..., None], *arguments: Any) -> tuple[Any, Connection]:
    """Start a process that reports through a pipe."""
    ours, theirs = CHILDREN.Pipe(duplex=False)
    process = CHILDREN.Process(target=target, args=(*arguments, theirs))
    process.start()
    theirs.close()
    return process, ours


def _end(process: Any) -> int | None:
    process.join(60)
    code: int | None = process.exitcode
    process.close()
    return code


class TestProcesses:
    def test_that_write_at_once_lose_nothing(self, post: Post, database: Database) -> None:
        children = [_start(_write_messages, database.url, post.anna, 4, 50) for _ in range(3)]
        own = [post.add() for _ in range(100)]
        written = [request_id for _, pipe in children for request_id in _reported(pipe)]
        assert [_end(process) for process, _ in children] == [0, 0, 0]
        assert len(written) == 600
        stored = [row[0] for row in database.rows("SELECT request_id FROM message")]
        assert sorted(stored) == sorted(own + written)
        _assert_sound(database)

    def test_killed_while_writing_keep_what_returned(self, post: Post, database: Database) -> None:
        returned: set[str] = set()
        for reports in (1, 40, 200):
            process, pipe = _start(_write_messages, database.url, post.anna, 4, None)
            reported = _reported(pipe)
            returned |= {next(reported) for _ in range(reports)}
            process.kill()
            returned |= set(reported)
            assert _end(process) == -9
        assert post.store.write(_set("after")) == "after"
        stored = {row[0] for row in database.rows("SELECT request_id FROM message")}
        assert returned <= stored
        _assert_sound(database)
        _assert_whole(database)

    @pytest.mark.only("sqlite")
    def test_flush_the_log_before_a_write_returns(self, post: Post, sqlite: SQLiteDatabase) -> None:
        process, pipe = _start(_count_flushes, sqlite.path)
        flushes = list(_reported(pipe))
        assert _end(process) == 0
        assert len(flushes) == 20
        assert all(int(count) >= 1 for count in flushes)


def _assert_sound(database: Database) -> None:
    if isinstance(database, SQLiteDatabase):
        assert database.rows("PRAGMA integrity_check") == [("ok",)]


def _assert_whole(database: Database) -> None:
    """Every message has exactly its content, job, delivery and event: none is half there."""
    [counts] = database.rows(
        "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM content), (SELECT count(*) FROM job), "
        "(SELECT count(*) FROM delivery), (SELECT count(*) FROM event)"
    )
    assert len(set(counts)) == 1


def _count_flushes(path: Path, out: Connection) -> None:
    """Report for each of twenty writes how often the write-ahead log was flushed meanwhile."""
    flushes = 0

    class CountingFile(apsw.VFSFile):
        def __init__(self, name: Any, flags: Any) -> None:
            super().__init__("unix", name, flags)
            text = name if isinstance(name, str) else name.filename()
            self._is_log = text.endswith("-wal")

        def xSync(self, flags: int) -> None:
            nonlocal flushes
            flushes += self._is_log
            super().xSync(flags)

    class CountingVFS(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("counting", "unix", makedefault=True)

        def xOpen(self, name: Any, flags: Any) -> CountingFile:
            return CountingFile(name, flags)

    vfs = CountingVFS()
    store = open_store(f"sqlite:///{path}")
    for number in range(20):
        before = flushes
        store.write(_set(str(number)))
        out.send(str(flushes - before))
    store.close()
    vfs.unregister()
    out.close()


@pytest.mark.only("sqlite")
class TestFullDisk:
    def test_refuses_keeps_nothing_half_and_heals(self, post: Post, database: Database) -> None:
        process, pipe = _start(_fill_disk, database.url, post.anna)
        *returned, refusal, after = _reported(pipe)
        assert _end(process) == 0
        assert refusal == "StoreUnavailable"
        stored = {row[0] for row in database.rows("SELECT request_id FROM message")}
        assert stored == {*returned, after}
        assert len(returned) > 2
        _assert_sound(database)
        _assert_whole(database)

    def test_a_full_database_file_refuses_everybody_in_the_batch_and_heals(
        self, post: Post, database: Database
    ) -> None:
        engine = post.store._engine
        assert isinstance(engine, SQLiteEngine)
        writer = engine._writer
        most = writer.pragma("max_page_count")
        writer.pragma("max_page_count", writer.pragma("page_count") + 20)
        small, large = new_message(post.anna), new_message(post.anna, size=200_000)
        before = database.contents()
        settled = post.store.write_all([accepting(small), accepting(large), _set("x")])
        assert [type(result.error) for result in settled] == [StoreUnavailable] * 3
        assert database.contents() == before
        writer.pragma("max_page_count", most)
        settled = post.store.write_all([accepting(small), accepting(large), _set("x")])
        assert [result.error for result in settled] == [None] * 3
        _assert_whole(database)


@pytest.mark.only("sqlite")
def test_what_undoes_a_statement_is_in_memory_and_what_sorts_for_a_migration_in_files(store: Store) -> None:
    engine, files, memory = store._engine, 1, 2
    assert isinstance(engine, SQLiteEngine)
    assert engine._writer.pragma("temp_store") == memory
    with engine.exclusively() as transaction:
        assert connection_of(transaction).pragma("temp_store") == files
    assert engine._writer.pragma("temp_store") == memory


def _fill_disk(url: str, account: int, out: Connection) -> None:
    """Write until no file may grow any more, then let them grow again and write once more."""
    store = open_store(url)

    def accept() -> str:
        message = new_message(account, size=20_000)
        store.write(accepting(message))
        return message.request_id

    out.send(accept())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        for _ in range(1000):
            out.send(accept())
    except StoreUnavailable as error:
        out.send(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    out.send(accept())
    store.close()
    out.close()


class TestClaimers:
    def test_get_each_job_exactly_once(self, post: Post, database: Database) -> None:
        added = post.add_many(500)
        workers = [post.add_worker() for _ in range(20)]
        together = threading.Barrier(20)

        def claim_all(number: int) -> list[str]:
            store, mine = database.open(), []
            together.wait(60)
            while jobs := store.write(
                lambda t: t.queue.claim(
                    account_id=post.anna, worker_id=workers[number], most=7, most_bytes=10**6, now=NOW + 500
                )
            ):
                mine += [job.request_id for job in jobs]
            store.close()
            return mine

        claimed = Counter(request_id for mine in _in_threads(20, claim_all) for request_id in mine)
        assert claimed == dict.fromkeys(added, 1)
        assert database.rows("SELECT DISTINCT state, attempt FROM job") == [("claimed", 1)]
