"""What a worker notices of itself: a commit or a renewal that does not come back, and that another version is installed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from postroom.accounts.vault import Vault
from postroom.settings import Settings
from postroom.store.async_writer import AsyncWriter
from postroom.store.store import Store
from postroom.worker.worker import Worker

pytestmark = pytest.mark.only("sqlite")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_commit_that_does_not_come_back_is_noticed(store: Store) -> None:
    goes_on = threading.Event()

    async def commit() -> None:
        with closing(AsyncWriter(store)) as async_writer:
            assert async_writer.under_way.seconds == 0
            done = async_writer.submit(lambda transaction: goes_on.wait(60))
            try:
                await until(lambda: async_writer.under_way.seconds > 0.05)
            finally:
                goes_on.set()
            assert await done
            assert async_writer.under_way.seconds == 0

    asyncio.run(commit())


def test_a_worker_whose_renewal_does_not_come_back_is_stalled(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    goes_on, began = threading.Event(), threading.Event()

    async def work() -> None:
        worker = Worker(settings, store, Vault.open(settings, tmp_path), var=tmp_path)
        renew = worker._registration.renew

        def hang() -> bool:
            began.set()
            return goes_on.wait(60) and renew()

        monkeypatch.setattr(worker._registration, "renew", hang)
        running = asyncio.create_task(worker.run())
        try:
            await until(began.is_set)
            worker._chores._renewed -= 1000
            assert worker.stalled_s() > 900
            goes_on.set()
            await until(lambda: worker.stalled_s() < 900)
        finally:
            goes_on.set()
            worker._chores._renewed -= 1000
            worker.stop()
            assert worker.stalled_s() == 0, "while it ends it waits for what is in hand, and renews nothing"
            await running

    asyncio.run(work())
