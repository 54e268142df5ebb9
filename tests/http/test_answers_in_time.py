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
from postroom.web import hub as hub_module
from postroom.web.hub import Hub
from postroom.web.upload import CutOff, Overloaded, Room, Upload, read_in_pieces

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


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_commit_that_waits_for_too_long_is_not_made(
    store: Store, locked: Callable[[], None], monkeypatch: pytest.MonkeyPatch, in_thread: bool
) -> None:
    monkeypatch.setattr(hub_module, "ANSWER_WITHIN_S", 0.2)

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        hub = Hub(store)
        hub.start(loop)
        try:
            with pytest.raises(StoreUnavailable, match="not free in time") as refusal:
                await (
                    hub.run_in_thread(loop.time() + 0.2, hub.write, write)
                    if in_thread
                    else hub.run(hub.write, write)
                )
            assert not isinstance(refusal.value, CommitUnknown)
            locked()
            monkeypatch.setattr(hub_module, "ANSWER_WITHIN_S", 60)
            await hub.run(hub.write, lambda transaction: transaction.settings.set("later", "yes"))
            assert (store.read(StoredSettings.get, SETTING), store.read(StoredSettings.get, "later")) == (
                None,
                "yes",
            )
        finally:
            hub.close()

    asyncio.run(ask())


def test_the_loop_waits_less_for_the_lock_while_a_thread_computes(store: Store) -> None:
    usual = sys.getswitchinterval()

    async def compute() -> list[float]:
        hub = Hub(store)
        hub.start(loop := asyncio.get_running_loop())
        try:
            found = await asyncio.gather(
                *(hub.run_in_thread(loop.time() + 60, sys.getswitchinterval) for _ in range(3))
            )
        finally:
            hub.close()
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
        hub = Hub(store)
        asking, patiently = hub.together(answer, 0.1), hub.together(answer, 60)
        if on_the_loop:
            hub.start(asyncio.get_running_loop())
        try:
            with pytest.raises(TimeoutError):
                await hub.run(asking, 1) if on_the_loop else asking(1)
            answered.set()
            assert (await hub.run(patiently, 2) if on_the_loop else patiently(2)) == 20
        finally:
            answered.set()
            hub.close()

    asyncio.run(ask())


def test_an_answer_that_came_while_the_loop_stood_still_is_taken(store: Store) -> None:
    """The loop finds both at once then, the answer and the alarm."""

    async def ask() -> None:
        loop = asyncio.get_running_loop()

        def answer(questions: Sequence[int]) -> list[int]:
            loop.call_soon_threadsafe(time.sleep, 0.5)
            return list(questions)

        hub = Hub(store)
        hub.start(loop)
        try:
            assert await hub.run(hub.together(answer, 0.2), 1) == 1
        finally:
            hub.close()

    uvloop.run(ask())  # as granian does


def test_work_that_has_begun_is_not_called_undone() -> None:
    promise = hub_module._Promise(lambda transaction: None)
    promise(None)  # type: ignore[arg-type]
    assert isinstance(promise.give_up(), CommitUnknown)


def test_work_that_was_given_up_does_not_begin() -> None:
    done: list[int] = []
    promise = hub_module._Promise(lambda transaction: done.append(1))
    assert not isinstance(promise.give_up(), CommitUnknown)
    with pytest.raises(hub_module._GivenUp):
        promise(None)  # type: ignore[arg-type]
    assert done == []


class Pieces:
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
