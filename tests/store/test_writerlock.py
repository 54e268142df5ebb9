"""The turns of writers; every WriterLock here stands for a process of its own."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

from postroom.core.errors import StoreUnavailable
from postroom.store.sqlite.writer_lock import WriterLock
from tests.servers.waiting import eventually

Open = Callable[[float], WriterLock]


@pytest.fixture
def open_lock(tmp_path: Path) -> Iterator[Open]:
    opened: list[WriterLock] = []

    def open_lock(longest_wait_s: float) -> WriterLock:
        opened.append(WriterLock(tmp_path / "lock", longest_wait_s))
        return opened[-1]

    yield open_lock
    for lock in opened:
        lock.close()


def is_free(lock: WriterLock) -> bool:
    with suppress(StoreUnavailable), lock:
        return True
    return False


def ushers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "usher"}


def test_a_writer_waits_for_the_one_before_it(open_lock: Open) -> None:
    first, second = open_lock(60), open_lock(60)
    with ThreadPoolExecutor(1) as threads:
        with first:
            entered = threads.submit(is_free, second)
            eventually(lambda: second._wanted, 60, "the second to wait")
            assert not entered.done()
        assert entered.result(60)
    assert is_free(first)


def test_who_waits_in_vain_is_told_and_holds_nobody_up_later(open_lock: Open) -> None:
    holder, impatient, other = open_lock(60), open_lock(0.05), open_lock(0)
    with (
        holder,
        pytest.raises(StoreUnavailable, match=r"another process has held .*lock for 0\.05 s"),
        impatient,
    ):
        pass
    eventually(lambda: not impatient._queues, 60, "the usher to come back")
    eventually(lambda: is_free(other), 60, "the lock to be free")
    assert is_free(impatient)


def test_who_asks_again_has_kept_its_place(open_lock: Open) -> None:
    holder, impatient = open_lock(60), open_lock(2)
    with ThreadPoolExecutor(1) as threads:
        with holder:
            assert not is_free(impatient)
            again = threads.submit(is_free, impatient)
            eventually(lambda: impatient._wanted, 60, "it to wait again")
        assert again.result(60)
    assert is_free(open_lock(0))


def test_who_is_interrupted_leaves_the_queue(open_lock: Open) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    holder, waiting = open_lock(60), open_lock(60)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with holder:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt), waiting:
                pass
    finally:
        signal.signal(signal.SIGALRM, before)
    eventually(lambda: not waiting._queues, 60, "the usher to come back")
    other = open_lock(0)
    eventually(lambda: is_free(other), 60, "the lock to be free")


@pytest.mark.parametrize("released_first", [True, False])
def test_closing_ends_the_usher_and_closes_the_file(
    open_lock: Open, released_first: bool, tmp_path: Path
) -> None:
    before = ushers()
    holder, closed = open_lock(60), WriterLock(tmp_path / "lock", 0.05)
    descriptor = closed._fd
    with holder:
        assert not is_free(closed)
        [usher] = ushers() - before
        if not released_first:
            closed.close()
    if released_first:
        eventually(lambda: is_free(closed), 60, "the lock to be free")
        closed.close()
    usher.join(60)
    assert not usher.is_alive()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert is_free(holder)


def test_two_are_never_inside_however_hasty_they_are(open_lock: Open) -> None:
    inside = threading.Lock()  # what must never be found taken
    entered = [0] * 4

    def come_and_go(number: int) -> None:
        chance, lock = random.Random(number), open_lock(0.0005)
        now = time.monotonic()
        while time.monotonic() < now + 1.5 or (not entered[number] and time.monotonic() < now + 60):
            with suppress(StoreUnavailable), lock:
                assert inside.acquire(blocking=False), "two are inside"
                time.sleep(chance.choice([0, 0.0002, 0.001]))
                inside.release()
                entered[number] += 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, range(4)))
    assert min(entered) > 0, "and everybody has a turn"
    other = open_lock(0)
    eventually(lambda: is_free(other), 60, "the lock to be free")
