"""The parts that all account senders of a worker share: settings, store, writer, clock, jobs in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from postroom.accounts.vault import Vault
from postroom.core.clock import Clock
from postroom.settings import Settings
from postroom.store.async_writer import AsyncWriter
from postroom.store.store import Store
from postroom.telemetry.finished_messages import FinishedMessages
from postroom.worker.mail.connect import ServerConnector

T = TypeVar("T")


@dataclass(slots=True)
class Context:
    """What all account senders of a worker share."""

    settings: Settings
    store: Store
    vault: Vault
    async_writer: AsyncWriter
    clock: Clock
    worker_id: int
    var: Path
    connector: ServerConnector
    request_work: Callable[[], None]
    finished: Callable[[], None]
    bytes_in_hand: int = 0
    in_hand: set[int] = field(default_factory=set)  # claim tokens, until what became of each is recorded
    marked: set[int] = field(
        default_factory=set
    )  # claim tokens whose dot was to leave since they were last taken
    finished_messages: FinishedMessages = field(default_factory=FinishedMessages)
    draining: bool = False
    workers: int = 1  # that are alive, this one among them

    def take_marked(self) -> set[int]:
        taken, self.marked = self.marked, set()
        return taken

    async def read(self, call: Callable[[], T]) -> T:
        """Return what `call` reads from the store: at once from a file of this machine, in a thread from a server."""
        return await asyncio.to_thread(call) if self.store.is_remote else call()
