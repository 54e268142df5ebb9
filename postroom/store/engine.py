"""The interface that both database engines implement for the Store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from postroom.core.events import EventListener
from postroom.store.dialect import Dialect
from postroom.store.watermarks import Watermarks
from postroom.store.writer import Work, WorkResult

if TYPE_CHECKING:
    from postroom.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Server:
    """Which server has the database: PostgreSQL's system identifier, and its timeline, which grows at each promotion."""

    system: str | None
    timeline: int


class Engine(Protocol):
    """A database. Every method raises StoreUnavailable when it cannot be reached or written just now."""

    dialect: Dialect
    migrations: Path
    is_remote: bool
    watermarks: Watermarks | None  # where to begin to look for jobs; None: at the beginning
    listener: EventListener | None  # is told the events of messages that each commit has caused

    def reading(self) -> AbstractContextManager[Transaction]:
        """Lend a transaction that sees the last committed state, and only reads."""

    def commit_batch(self, take: Callable[[], Sequence[Work[object]]]) -> list[WorkResult]:
        """Run works in one transaction, taken when it can begin. One that raises is undone alone; the rest are run again."""

    def exclusively(self) -> AbstractContextManager[Transaction]:
        """Hold the only write transaction; commit at the end, roll back on any error."""

    def take_all_tables(self) -> None:
        """Have no other process use a table until the transaction that is open ends (see `exclusively`)."""

    def run_script(self, sql: str) -> None:
        """Run a migration's statements inside the transaction that is open (see `exclusively`)."""

    def has_table(self, name: str) -> bool:
        """Whether there is a table of this name."""

    def change_counter(self) -> int:
        """Return a number that changes when any process has committed mail; it costs no look at the database."""

    def check_rights(self) -> None:
        """Raise ConfigError, with what is missing, unless we may read and write every table; looked at once."""

    def server(self) -> Server | None:
        """Return which server has the database; None where there is none, or it does not say."""

    def check_place(self) -> None:
        """Raise StoreUnavailable when what is committed would not be found again; it costs no look at the database."""

    def try_write(self) -> None:
        """Write something and undo it. Raises StoreError when that cannot be done."""

    def forget_commits(self) -> None:
        """Drop the old marks of commits, which tell of a commit whose answer was lost."""

    def fold_counts(self) -> None:
        """Have what counts an account's jobs take no more rows than it needs."""

    def scrub(self) -> None:
        """Leave nothing of what was deleted in the database's files, as far as the engine can do that now."""

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy into a new file, while others use the database."""

    def free_bytes(self) -> int:
        """Return how much room is left where the database is, as far as that can be known."""

    def used_bytes(self) -> int:
        """Return how much room the database takes, as far as that can be known."""

    def close(self) -> None:
        """Close all connections."""
