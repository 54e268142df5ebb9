"""What waits for a slot, for room or for a commit is refused in time, and is then not stored."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import uvloop

from postroom.core.errors import CommitUnknown, StoreUnavailable
from postroom.store.settings import StoredSettings
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.store import Store
from postroom.store.transaction import Transaction
from postroom.web import loop as loop_module
from postroom.web.gather import Gather
from postroom.web.loop import FromThread, OnLoop, RequestLoop
from postroom.web.upload import CutOff, Overloaded, Room, Upload, read_in_pieces
from postroom.web.waits import AtOnce, at_once
from tests.http.rsgi_client import InPieces

SETTING = "answered"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(SQLiteEngine(tmp_path / "postroom.db", longest_wait_s=20))
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Another process has the database; call it to let it go."""
    fd = os.open(tmp_path / "postroom.db-lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield lambda: fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def write(transaction: Transaction) -> None:
    transaction.settings.set(SETTING, "yes")


@contextlib.contextmanager
def started(store: Store) -> Iterator[RequestLoop]:
    """Lend what requests on the loop that runs share."""
    shared = RequestLoop(store)
    shared.start(asyncio.get_running_loop())
    try:
        yield shared
    finally:
        shared.close()


async def committed(shared: RequestLoop, waits: FromThread | OnLoop) -> None:
    if isinstance(waits, FromThread):
        await shared.in_thread(lambda: at_once(waits.commit(write)))
    else:
        await waits.commit(write)


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_commit_that_waits_for_too_long_is_not_made(
    store: Store, locked: Callable[[], None], in_thread: bool
) -> None:
    async def ask() -> None:
        with started(store) as shared:
            now = shared.loop.time()
            waits = FromThread(shared, now + 0.2) if in_thread else OnLoop(shared, now + 0.2)
            with pytest.raises(StoreUnavailable, match="not free in time") as refusal:
                await committed(shared, waits)
            assert not isinstance(refusal.value, CommitUnknown)
            locked()
            await OnLoop(shared, now + 600).commit(lambda tx: tx.settings.set("later", "yes"))
            found = [store.read(StoredSettings.get, name) for name in (SETTING, "later")]
            assert found == [None, "yes"]

    asyncio.run(ask())


def test_the_loop_waits_less_for_the_lock_while_a_thread_computes(store: Store) -> None:
    usual = sys.getswitchinterval()

    async def compute() -> list[float]:
        with started(store) as shared:
            found = await asyncio.gather(*(shared.in_thread(sys.getswitchinterval) for _ in range(3)))
        return [*found, sys.getswitchinterval()]

    *during, after = asyncio.run(compute())
    assert max(during) < usual / 5
    assert after == usual


@pytest.mark.parametrize("on_the_loop", [False, True])
def test_whoever_asks_another_server_is_told_in_time_whatever_that_waits_for(
    store: Store, on_the_loop: bool
) -> None:
    answered = threading.Event()

    def answer(questions: Sequence[int]) -> list[int]:
        if 1 in questions:
            assert answered.wait(60)
        return [10 * question for question in questions]

    async def ask() -> None:
        asking, patiently = Gather(answer, 0.1), Gather(answer, 60)
        with started(store) as shared:
            waits = OnLoop(shared, shared.loop.time() + 600) if on_the_loop else AtOnce(store)
            try:
                with pytest.raises(TimeoutError):
                    await waits.ask(asking, 1)
                answered.set()
                assert await waits.ask(patiently, 2) == 20
            finally:
                answered.set()
                asking.close()
                patiently.close()

    asyncio.run(ask())


def test_an_answer_that_came_while_the_loop_stood_still_is_taken(store: Store) -> None:
    """The loop finds both at once then, the answer and the alarm."""

    async def ask() -> None:
        loop = asyncio.get_running_loop()

        def answer(questions: Sequence[int]) -> list[int]:
            loop.call_soon_threadsafe(time.sleep, 0.5)
            return list(questions)

        gather = Gather(answer, 0.2)
        with started(store) as shared:
            assert await OnLoop(shared, loop.time() + 600).ask(gather, 1) == 1
        gather.close()

    uvloop.run(ask())  # as granian does


def test_questions_that_come_meanwhile_are_asked_together(store: Store) -> None:
    may_end = threading.Event()
    groups: list[list[int]] = []

    def answer(questions: Sequence[int]) -> list[int]:
        groups.append(list(questions))
        assert may_end.wait(60)
        return list(questions)

    async def ask() -> None:
        gather = Gather(answer, 60)
        with started(store) as shared:
            waits = OnLoop(shared, shared.loop.time() + 600)
            first = asyncio.create_task(waits.ask(gather, 0))
            while not groups:
                await asyncio.sleep(0.001)
            others = [asyncio.create_task(waits.ask(gather, number)) for number in range(1, 5)]
            await asyncio.sleep(0)
            may_end.set()
            assert await asyncio.gather(first, *others) == [0, 1, 2, 3, 4]
        gather.close()

    asyncio.run(ask())
    assert groups == [[0], [1, 2, 3, 4]]


def test_a_thread_has_no_loop_to_wait_for() -> None:
    with pytest.raises(AssertionError, match="without one"):
        at_once(asyncio.sleep(0))


def test_work_that_has_begun_is_not_called_undone() -> None:
    revocable = loop_module._Revocable(lambda transaction: None)
    revocable(None)  # type: ignore[arg-type]
    assert isinstance(revocable.give_up(), CommitUnknown)


def test_work_that_was_given_up_does_not_begin() -> None:
    done: list[int] = []
    revocable = loop_module._Revocable(lambda transaction: done.append(1))
    assert not isinstance(revocable.give_up(), CommitUnknown)
    with pytest.raises(loop_module.GivenUp):
        revocable(None)  # type: ignore[arg-type]
    assert done == []


class Pieces(InPieces):
    """granian's side of an upload: hands over what it is given, then ends, or waits for ever."""

    def __init__(self, *pieces: bytes, stalls: bool = False) -> None:
        self._pieces = [*pieces]
        self._stalls = stalls

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._stalls:
            await asyncio.Event().wait()
        raise StopAsyncIteration


class TestRoom:
    def test_bodies_take_turns_in_it(self) -> None:
        """Four bodies that fill it three times over: one of those that wait may always go on."""

        async def read_all() -> list[bytes]:
            room = Room(most=10)

            async def read(letter: bytes) -> bytes:
                with room.place() as place:
                    upload = Upload(Pieces(letter * 4, letter * 4, b""), None)
                    return await read_in_pieces(upload, place, most=100)

            return await asyncio.gather(*[read(letter) for letter in (b"a", b"b", b"c", b"d")])

        assert asyncio.run(read_all()) == [b"a" * 8, b"b" * 8, b"c" * 8, b"d" * 8]

    def test_without_any_a_body_is_refused_in_time(self) -> None:
        async def read() -> None:
            room = Room(most=10, within_s=0.1)
            with room.place() as first, room.place() as second, room.place() as third:
                await first.take(10)
                await second.take(1)  # the one that may go on
                with pytest.raises(Overloaded):
                    await third.take(1)

        asyncio.run(read())

    def test_is_free_again_after_a_client_has_left(self) -> None:
        async def read() -> bytes:
            room = Room(most=10, within_s=0.1)
            for _ in range(5):
                with contextlib.suppress(CutOff), room.place() as place:
                    await read_in_pieces(Upload(Pieces(b"x" * 10, b"", b""), None), place, most=100)
            with room.place() as place:
                return await read_in_pieces(Upload(Pieces(b"y" * 10, b""), None), place, most=100)

        assert asyncio.run(read()) == b"y" * 10
