"""The store: `open_store(url)` chooses an engine; `Store.read` and `Store.write` run the functions of its nouns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from postroom.core.errors import ConfigError, LeaseLost, SchemaMismatch, SessionInDoubt, StoreError
from postroom.core.events import EventListener
from postroom.core.measures import Measures
from postroom.store import migrate as _migrate
from postroom.store.engine import Engine, Server
from postroom.store.settings import StoredSettings
from postroom.store.sqlite.copies import is_absent
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.transaction import Over, Transaction, work
from postroom.store.writer import GroupCommit, Take, Work, WorkResult

T = TypeVar("T")
P = ParamSpec("P")
MOVED = "moved_to"  # setting of a database that was moved elsewhere: where to
MOVING = "moving_from"  # setting of a database that is being filled: where from
SECRET_CHECK = "vault"  # noqa: S105  # setting: the fingerprint of the secret key that all is stored with
_TRIED = "tried"  # setting: when it was last seen that something can be written
_NEWEST_COUNTS_S = 10.0
_SCHEME = "sqlite:///"


@dataclass(frozen=True, slots=True)
class StoredSecrets:
    """What tells which secret key a database was written with; the check value alone where there is one."""

    check: str | None  # the secret's fingerprint
    credentials: tuple[bytes, ...]
    keys: frozenset[bytes]  # digests

    @property
    def is_empty(self) -> bool:
        return self.check is None and not self.credentials and not self.keys


def _twice(read: Callable[[], T]) -> T:
    """Read once more where the session may have been to blame."""
    try:
        return read()
    except SessionInDoubt:
        return read()


class Store:
    """All that Postroom remembers. Safe to use from several threads; never across a fork."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_remote = engine.is_remote  # whether reading means to wait for a server
        self.measures = Measures()  # of this process: the one thing that all its parts have is the store
        self._group_commit = GroupCommit(self._commit, measures=self.measures)
        self._newest: tuple[float, StoreError | None] = (float("-inf"), None)  # when, and what became of it

    # -- life

    def migrate(self) -> list[str]:
        """Bring the schema up to date; return the names of the migrations applied."""
        applied = _migrate.migrate(self._engine)
        self._engine.check_rights()
        return applied

    def check_schema(self) -> None:
        """Raise SchemaMismatch unless the schema is the one that this code needs."""
        _twice(lambda: _migrate.check(self._engine))
        self._engine.check_rights()

    def listen(self, listener: EventListener | None) -> None:
        """Have a listener told the events of messages that this process commits from now on."""
        self._engine.listener = listener

    def close(self) -> None:
        self._engine.close()

    # -- writing

    def _commit(self, take: Callable[[], Sequence[Work[object]]]) -> list[WorkResult]:
        try:
            results = self._engine.commit_batch(take)
        except StoreError as error:
            self._newest = time.monotonic(), error
            raise
        errors = [result.error for result in results]
        faults = [
            error for error in errors if isinstance(error, StoreError) and not isinstance(error, LeaseLost)
        ]
        self._newest = time.monotonic(), faults[0] if faults and len(faults) == len(errors) else None
        return results

    def check_writable(self) -> None:
        """Raise StoreError when the newest commit failed, or, where there was none of late, when nothing can be written.

        A write that is undone is tried then; after a commit that failed, one that is not, for a full disk takes the former.
        """
        at, error = self._newest
        if time.monotonic() - at < _NEWEST_COUNTS_S:
            if error is not None:
                raise error
            self._engine.check_place()
        elif error is None:
            self._engine.try_write()
        else:
            self.write(StoredSettings.set, _TRIED, str(time.time_ns() // 1000))

    def write(
        self, function: Callable[Concatenate[Over, P], T], /, *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Return what a noun's function, or one of the open transaction, returned, once that is committed and flushed.

        `function` may run twice (another piece of work in its transaction failed), so it
        must have no effect but on the transaction. Raises what it raised, or
        StoreUnavailable when nothing could be made durable.
        """
        return self._group_commit.run(work(function, *arguments, **named))

    def write_all(self, works: Sequence[Work[object]]) -> list[WorkResult]:
        """Commit several works in order, together where they fit; each has a result of its own."""
        return self._group_commit.run_all(works)

    def write_late(self, take: Take) -> list[WorkResult]:
        """Commit the works that `take` hands over once a transaction can begin; each has a result of its own."""
        return self._group_commit.run_late(take)

    def server(self) -> Server | None:
        """Return which server has the database; None on SQLite, or where the server does not say."""
        return self._engine.server()

    def is_in_place(self) -> bool:
        """Whether what is committed would be found after a restart: nobody has taken the database's files away."""
        try:
            self._engine.check_place()
        except StoreError:
            return False
        return True

    def forget_commits(self) -> None:
        """Drop the marks of commits that cannot be asked for any more."""
        self._engine.forget_commits()

    def fold_counts(self) -> None:
        """Have `job_counts` cost no more than it needs to."""
        self._engine.fold_counts()

    def scrub(self) -> None:
        """Leave nothing of what was erased in the database's files; on PostgreSQL its vacuum does that in its time."""
        self._engine.scrub()

    def free_bytes(self) -> int:
        """Return how much room is left where the database is."""
        return self._engine.free_bytes()

    def used_bytes(self) -> int:
        """Return how much room the database takes, as far as that can be known."""
        return self._engine.used_bytes()

    def change_counter(self) -> int:
        """Return a number that changes with every commit of any process."""
        return self._engine.change_counter()

    # -- reading

    def read(
        self, function: Callable[Concatenate[Over, P], T], /, *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Return what a noun's function finds in the last committed state."""
        look = work(function, *arguments, **named)

        def once() -> T:
            with self._engine.reading() as transaction:
                return look(transaction)

        return _twice(once)

    def stored_secrets(self) -> StoredSecrets:
        """Return what tells which secret key the database was written with; of any schema, or before the first one."""
        if not _twice(lambda: self._engine.has_table("setting")):
            return StoredSecrets(None, (), frozenset())
        return self.read(_stored_secrets)

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy of the database into a file that is not there yet, while others use it."""
        self._engine.copy_to(path)


def _stored_secrets(transaction: Transaction) -> StoredSecrets:
    check = transaction.settings.get(SECRET_CHECK)
    if check is not None:
        return StoredSecrets(check, (), frozenset())
    return StoredSecrets(None, transaction.accounts.credentials(), frozenset(transaction.keys.active()))


def sqlite_path(url: str) -> Path | None:
    """Return the database file that a URL names; None where it names a server."""
    return Path(url.removeprefix(_SCHEME)) if url.startswith(_SCHEME) else None


def open_store(
    url: str,
    *,
    create: bool = True,
    bouncer: bool = False,
    on_broken: Callable[[str], None] = lambda reason: None,
) -> Store:
    """Open the database at `url`, behind a pgbouncer in transaction mode if `bouncer`.

    `on_broken` is told when the disk has failed and nothing can be written any more.

    Raises ConfigError when it cannot be used at all, and SchemaMismatch when it is not
    there and may not be made.
    """
    if url.startswith(_SCHEME):
        path = Path(url.removeprefix(_SCHEME))
        if not create and is_absent(path):
            raise SchemaMismatch(
                f"there is no database at {path.absolute()}: run `postroom serve` or `postroom migrate` there, "
                "or name the installation's folder with --home DIR"
            )
        return Store(SQLiteEngine(path, on_broken=on_broken))
    if url.partition("://")[0] not in ("postgresql", "postgres"):
        raise ConfigError("DATABASE_URL", "use sqlite:///path/to/file or postgresql://user@host/database")
    from postroom.store.postgres.engine import PostgresEngine  # only who needs it pays for the driver

    engine = PostgresEngine(url, bouncer=bouncer)
    engine.check()
    return Store(engine)
