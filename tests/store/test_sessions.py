"""A session with PostgreSQL that has become unusable is given up, and the work is done again on a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from postroom.core.errors import StoreError, StoreUnavailable
from postroom.core.message import Accepted
from postroom.store.messages import Messages
from postroom.store.postgres.engine import PostgresEngine
from postroom.store.store import Store
from postroom.store.transaction import Transaction
from tests.store.database import Database, Post, PostgresDatabase, accepting, new_message

pytestmark = pytest.mark.only("postgres")

_OFTEN = 8  # the driver prepares a statement that it runs for the sixth time


@pytest.fixture
def ours(post: Post, database: Database) -> Iterator[PostgresEngine]:
    """An engine of our own under `post`, whose writer waits a moment for locks."""
    assert isinstance(database, PostgresDatabase)
    engine = PostgresEngine(database.url, longest_wait_s=0.05)
    own, post.store = post.store, Store(engine)
    yield engine
    post.store.close()
    post.store = own


class TestAWriter:
    @pytest.mark.parametrize("before", [1, 2, 3])
    def test_whose_pipeline_failed_as_its_statements_were_prepared_is_replaced(
        self, post: Post, database: Database, ours: PostgresEngine, before: int
    ) -> None:
        """Else the driver has a name for a statement that the server never parsed, and each post fails for ever."""
        for _ in range(before):
            post.add()
        with database.writes_held():
            for _ in range(_OFTEN):
                with pytest.raises(StoreUnavailable):
                    post.add()
        assert post.add()

    @pytest.mark.parametrize(
        "ill", [b"DEALLOCATE ALL", b"DISCARD ALL", b"SELECT 1/0", b"BEGIN", b"SET search_path = ''"]
    )
    def test_that_somebody_has_made_useless_is_replaced(
        self, post: Post, ours: PostgresEngine, ill: bytes
    ) -> None:
        for _ in range(_OFTEN):
            post.add()
        assert ours._writing.connection is not None
        ours._writing.connection.pgconn.exec_(ill)  # past the driver, as a pooler would
        messages = [new_message(post.anna) for _ in range(3)]
        settled = post.store.write_all([accepting(message) for message in messages])
        assert [result.unwrap().request_id for result in settled] == [each.request_id for each in messages]

    def test_goes_on_after_a_column_got_another_type(
        self, post: Post, database: Database, ours: PostgresEngine
    ) -> None:
        for _ in range(_OFTEN):
            post.add()
            post.claim()
        database.change("ALTER TABLE message ALTER COLUMN subject TYPE varchar(200)")
        database.change("ALTER TABLE job ALTER COLUMN attempt TYPE bigint")
        request_id = post.add()
        assert [job.request_id for job in post.claim()] == [request_id]

    def test_whose_backend_is_ended_in_the_middle_of_a_batch_is_replaced(
        self, post: Post, database: Database, ours: PostgresEngine
    ) -> None:
        message, times = new_message(post.anna), 0

        def end_once(transaction: Transaction) -> None:
            nonlocal times
            times += 1
            if times == 1:
                assert ours._writing.connection is not None
                database.rows(f"SELECT pg_terminate_backend({ours._writing.connection.info.backend_pid})")

        settled = post.store.write_all([accepting(message), end_once])
        assert [result.error for result in settled] == [None, None]
        assert str(post.store.read(Messages.status, message.request_id)) == "queued"

    def test_that_cannot_do_one_work_does_the_others(
        self, post: Post, database: Database, ours: PostgresEngine
    ) -> None:
        """No session can: the fault is that work's own."""
        database.change("DROP TABLE connection")
        message = new_message(post.anna)
        impossible, accepted = post.store.write_all(
            [lambda transaction: transaction.recovery.abandoned_jobs(post.worker), accepting(message)]
        )
        assert isinstance(impossible.error, StoreError)
        assert accepted.unwrap() == Accepted(message.request_id)


class TestAReader:
    @pytest.mark.parametrize("readers", [1, 4])
    def test_whose_cached_plan_is_void_is_replaced(
        self, post: Post, database: Database, ours: PostgresEngine, readers: int
    ) -> None:
        request_id = post.add()
        _warm(ours, readers, lambda: post.status(request_id))
        database.change("ALTER TABLE delivery ALTER COLUMN reason TYPE varchar(500)")
        database.change("ALTER TABLE job ALTER COLUMN held TYPE integer")
        for _ in range(readers + 1):
            assert post.status(request_id) == "queued"

    @pytest.mark.parametrize("ill", [b"DEALLOCATE ALL", b"DISCARD ALL", b"SET search_path = ''", b"BEGIN"])
    def test_that_somebody_has_made_useless_is_replaced(
        self, post: Post, ours: PostgresEngine, ill: bytes
    ) -> None:
        request_id = post.add()
        for reader in _warm(ours, 3, lambda: post.status(request_id)):
            reader.pgconn.exec_(ill)
        for _ in range(5):
            assert post.status(request_id) == "queued"


def _warm(ours: PostgresEngine, readers: int, read: Callable[[], object]) -> list[Any]:
    """Have so many readers, each of which has prepared its statements; return their connections."""
    with ExitStack() as stack:
        sessions: list[Any] = [stack.enter_context(ours.reading()).connection for _ in range(readers)]
    for _ in range(_OFTEN * readers):  # the pool lends them in turn
        read()
    return [session.connection for session in sessions]
