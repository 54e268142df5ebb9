"""The only SQL and the only database drivers: `open_store(url)` gives a Store.

Reads are methods here, one for each named query that somebody needs. Writes are
methods of `Transaction`: hand `Store.write` a piece of work that calls them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from postroom.core import pace
from postroom.core.account import Account, AccountState, Secret, Security, ServerLacks
from postroom.core.clock import SECOND, Instant
from postroom.core.decide import STEP_BACK
from postroom.core.errors import ConfigError, LeaseLost, SchemaMismatch, SessionInDoubt, StoreError
from postroom.core.job import LargeContent
from postroom.core.message import MessageState, MessageStatus
from postroom.core.stored_text import PIECE
from postroom.store import migrate as _migrate
from postroom.store.engine import Engine, Server
from postroom.store.listing import (
    JobCounts,
    Listed,
    job_counts_of,
    listed_message,
    message_status,
    newest,
    overall,
)
from postroom.store.sqlite.copies import (
    is_absent,
)
from postroom.store.sqlite.engine import SQLiteEngine
from postroom.store.transaction import (
    LONGEST_PARK,
    REFUSED_LOGIN,
    slots_of_the_day,
)
from postroom.store.writer import GroupCommit, Settled, Take, Work

T = TypeVar("T")
P = ParamSpec("P")
MOVED = "moved_to"  # setting of a database that was moved elsewhere: where to
MOVING = "moving_from"  # setting of a database that is being filled: where from
SECRET_CHECK = "vault"  # noqa: S105  # setting: the fingerprint of the secret key that all is stored with
_TRIED = "tried"  # setting: when it was last seen that something can be written
_NEWEST_COUNTS_S = 10.0
_SCHEME = "sqlite:///"
_SOON = 60 * SECOND  # how long before an account may send its jobs are looked at


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """An account as the database has it: the password still encrypted."""

    account: Account
    credential: bytes | None


@dataclass(frozen=True, slots=True)
class StoredSecrets:
    """What tells which secret key a database was written with; the check value alone where there is one."""

    check: str | None  # the secret's fingerprint
    credentials: tuple[bytes, ...]
    keys: frozenset[bytes]  # digests

    @property
    def is_empty(self) -> bool:
        return self.check is None and not self.credentials and not self.keys


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    id: int
    host: str
    pid: int
    lock_file: str
    lease_until: Instant


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a message, or to one delivery of it."""

    at: Instant
    kind: str
    forward_path: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One finished message, as email_log.txt wants it."""

    message_id: int
    request_id: str
    sender: str
    recipients: tuple[str, ...]
    accepted_at: Instant
    status: str


WordsOf = Literal["deliveries", "events", "attempts", "accounts"]
_WORDS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class StoredWords:
    """Words of an account's server in a row: a reason and a reply; where there is one column, it is in both."""

    id: int
    account_id: int
    first: str | None
    second: str | None


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Lines that were on their way into the file, from this offset in bytes."""

    id: int
    start: int
    lines: tuple[LogLine, ...]


def _twice(read: Callable[Concatenate[Store, P], T]) -> Callable[Concatenate[Store, P], T]:
    """Let a method that only reads do so once more, where the session may have been to blame."""

    @wraps(read)
    def again(self: Store, /, *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return read(self, *arguments, **named)
        except SessionInDoubt:
            return read(self, *arguments, **named)

    return again


class Store:
    """All that Postroom remembers. Safe to use from several threads; never across a fork."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_remote = engine.is_remote  # whether reading means to wait for a server
        self._committer = GroupCommit(self._commit)
        self._newest: tuple[float, StoreError | None] = (float("-inf"), None)  # when, and what became of it

    # -- life

    def migrate(self) -> list[str]:
        """Bring the schema up to date; return the names of the migrations applied."""
        applied = _migrate.migrate(self._engine)
        self._engine.check_rights()
        return applied

    @_twice
    def check_schema(self) -> None:
        """Raise SchemaMismatch unless the schema is the one that this code needs."""
        _migrate.check(self._engine)
        self._engine.check_rights()

    def close(self) -> None:
        self._engine.close()

    # -- writing

    def _commit(self, take: Callable[[], Sequence[Work[Any]]]) -> list[Settled]:
        try:
            settled = self._engine.commit_batch(take)
        except StoreError as error:
            self._newest = time.monotonic(), error
            raise
        errors = [result.error for result in settled]
        faults = [
            error for error in errors if isinstance(error, StoreError) and not isinstance(error, LeaseLost)
        ]
        self._newest = time.monotonic(), faults[0] if faults and len(faults) == len(errors) else None
        return settled

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
            self.write(lambda transaction: transaction.set_setting(_TRIED, str(time.time_ns() // 1000)))

    def write(self, work: Work[T]) -> T:
        """Return what `work` returned, once it is committed and flushed to disk.

        `work` may run twice (another piece of work in its transaction failed), so it
        must have no effect but on the transaction. Raises what `work` raised, or
        StoreUnavailable when nothing could be made durable.
        """
        return self._committer.run(work)

    def write_all(self, works: Sequence[Work[Any]]) -> list[Settled]:
        """Commit several works in order, together where they fit; each settles by itself."""
        return self._committer.run_all(works)

    def write_late(self, take: Take) -> list[Settled]:
        """Commit the works that `take` hands over once a transaction can begin; each settles by itself."""
        return self._committer.run_late(take)

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
        """Drop what is kept to settle commits whose answer was lost, as far as nobody can need it any more."""
        self._engine.forget_commits()

    def fold_counts(self) -> None:
        """Have `job_counts` cost no more than it needs to."""
        self._engine.fold_counts()

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

    @_twice
    def stored_secrets(self) -> StoredSecrets:
        """Return what tells which secret key the database was written with; of any schema, or before the first one."""
        if not self._engine.has_table("setting"):
            return StoredSecrets(None, (), frozenset())
        with self._engine.reading() as (db, q):
            check: str | None = q.read_setting(db, name=SECRET_CHECK)
            if check is not None:
                return StoredSecrets(check, (), frozenset())
            credentials = tuple(bytes(row[0]) for row in q.stored_credentials(db))
            return StoredSecrets(None, credentials, frozenset(bytes(row[0]) for row in q.active_keys(db)))

    @_twice
    def setting(self, name: str) -> str | None:
        with self._engine.reading() as (db, q):
            value: str | None = q.read_setting(db, name=name)
        return value

    @_twice
    def accounts(self) -> list[StoredAccount]:
        with self._engine.reading() as (db, q):
            return [_stored_account(row) for row in q.all_accounts(db)]

    @_twice
    def account(self, account_id: int) -> StoredAccount | None:
        with self._engine.reading() as (db, q):
            row = q.one_account(db, account_id=account_id)
        return _stored_account(row) if row else None

    def refused_password(self, account_id: int) -> str | None:
        """Return the digest of the password that an account's server refused last; None since it took one."""
        return self.setting(f"{REFUSED_LOGIN}{account_id}")

    @_twice
    def last_reason(self, account_id: int) -> str | None:
        """Return why the newest message of an account that was not sent was not, or None."""
        with self._engine.reading() as (db, q):
            reason: str | None = q.last_reason(db, account_id=account_id)
        return reason

    @_twice
    def recipients_used(self, account_id: int, now: Instant) -> int:
        """Return how many recipients of its daily limit an account has used in the 24 hours until now."""
        with self._engine.reading() as (db, q):
            used: int = q.usage_since(db, account_id=account_id, **slots_of_the_day(now))[0]
        return used

    @_twice
    def active_keys(self) -> dict[bytes, int]:
        """Return the digest of every working key with the id of its account."""
        with self._engine.reading() as (db, q):
            return dict(q.active_keys(db))

    @_twice
    def server_words(self, kind: WordsOf, after: int) -> list[StoredWords]:
        """Return what servers have said, as far as it is stored: the next of a kind after a row's id; none at the end."""
        with self._engine.reading() as (db, q):
            match kind:
                case "deliveries":
                    rows = q.words_of_deliveries(db, after=after, most=_WORDS_AT_ONCE)
                case "events":
                    rows = q.words_of_events(db, after=after, most=_WORDS_AT_ONCE)
                case "attempts":
                    rows = q.words_of_attempts(db, after=after, most=_WORDS_AT_ONCE)
                case _:
                    rows = q.words_of_accounts(db, after=after, most=_WORDS_AT_ONCE)
            return [StoredWords(*row) for row in rows]

    @_twice
    def used_keys(self) -> set[bytes]:
        """Return the digests of the working keys that have been used with success."""
        with self._engine.reading() as (db, q):
            return {bytes(row[0]) for row in q.used_keys(db)}

    @_twice
    def is_key_used(self, digest: bytes) -> bool:
        """Whether there is such a working key, and it has been used with success."""
        with self._engine.reading() as (db, q):
            return bool(q.key_is_used(db, digest=digest))

    @_twice
    def accounts_due(self, now: Instant) -> list[StoredAccount]:
        """Return the accounts that may send and have mail due."""
        watermarks = self._engine.watermarks
        due_from = watermarks.of_all() if watermarks else 0
        with self._engine.reading() as (db, q):
            rows = q.accounts_due(db, now=now, soon=now + _SOON, due_from=due_from)
            found = [_stored_account(row) for row in rows]
        if watermarks:
            watermarks.note_accounts(due_from, now, [stored.account.id for stored in found])
        return [stored for stored in found if _may_send(stored.account, now)]

    @_twice
    def piece_of_content(self, content: LargeContent, number: int) -> bytes:
        """Return the piece with this number, from 0, of a large content; nothing where there is none."""
        with self._engine.reading() as (db, q):
            piece = q.piece_of(db, message_id=content.message_id, number=number)
            if piece is None:  # it was stored as a whole
                first = number * PIECE + 1
                piece = q.part_of(db, message_id=content.message_id, first=first, octets=PIECE)
        return bytes(piece) if piece is not None else b""

    @_twice
    def connections(self) -> int:
        """Return how many SMTP connections are open, or being opened, in all workers."""
        with self._engine.reading() as (db, q):
            count: int = q.count_connections(db)
        return count

    @_twice
    def waits_too_long(self, now: Instant, longest_wait: Instant) -> bool:
        """Whether anything waits for a time that only a clock that was ahead can have set (`Transaction.mend_times`)."""
        with self._engine.reading() as (db, q):
            soon, latest = now + STEP_BACK, now + longest_wait
            return bool(q.waits_too_long(db, soon=soon, latest=latest, latest_resume=now + LONGEST_PARK))

    @_twice
    def living_workers(self) -> list[WorkerRecord]:
        with self._engine.reading() as (db, q):
            return [WorkerRecord(*row) for row in q.living_workers(db)]

    @_twice
    def newest_message(self) -> tuple[str, Instant] | None:
        """Return the id of the message that came last, and when it was accepted."""
        with self._engine.reading() as (db, q):
            row = q.newest_message(db)
        return (row[0], row[1]) if row else None

    @_twice
    def tokens_of(self, worker_id: int) -> set[int]:
        """Return the claim tokens of the jobs that the database has as this worker's."""
        with self._engine.reading() as (db, q):
            return {row[0] for row in q.tokens_of(db, worker_id=worker_id)}

    @_twice
    def gone_with_hands_full(self) -> list[int]:
        """Return the buried workers that still own jobs or connections."""
        with self._engine.reading() as (db, q):
            return [row[0] for row in q.gone_with_hands_full(db)]

    @_twice
    def status(self, request_id: str) -> MessageStatus | None:
        """Return what became of a message so far, or None when there is none by that id."""
        with self._engine.reading() as (db, q):
            found = q.message_state(db, request_id=request_id)
            if found is None:
                return None
            deliveries = list(q.deliveries_of(db, message_id=found[0]))
        return message_status(request_id, found[1:], deliveries)

    @_twice
    def newest_messages(self, most: int, account: str | None = None, *, held_only: bool) -> list[Listed]:
        """Return the messages that came last, the newest first; of one mailbox, or only those that wait for a person."""
        with self._engine.reading() as (db, q):
            ids = newest(db, q, most, account, held_only=held_only)
            rows = list(q.listed_messages(db, messages=json.dumps(ids)))
        found = [listed_message(list(of_one)) for _, of_one in groupby(rows, key=lambda row: row[0])]
        return found[::-1]

    @_twice
    def octets_of(self, account_id: int) -> int:
        """Return the octets of an account's messages whose content is kept."""
        with self._engine.reading() as (db, q):
            octets: int = q.octets_of(db, account_id=account_id)
            return octets

    @_twice
    def job_counts(self) -> dict[int, JobCounts]:
        """Return for each account how many messages it has taken on and what became of them, ever."""
        with self._engine.reading() as (db, q):
            rows = list(q.job_counts(db))
            held: dict[int, int] = dict(q.held_counts(db))
        counts: dict[int, dict[str, int]] = {}
        for account_id, state, jobs in rows:
            counts.setdefault(account_id, {})[state] = jobs
        return {
            account_id: job_counts_of(found, held.get(account_id, 0)) for account_id, found in counts.items()
        }

    @_twice
    def ids_between(self, first: str, last: str, most: int) -> list[str]:
        """Return the ids of messages from `first` to `last`, both among them, in their order."""
        with self._engine.reading() as (db, q):
            return [row[0] for row in q.messages_between(db, first=first, last=last, most=most)]

    @_twice
    def held_messages(self) -> list[str]:
        """Return the ids of all messages that wait for a person, oldest first."""
        with self._engine.reading() as (db, q):
            return [row[0] for row in q.held_messages(db)]

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy of the database into a file that is not there yet, while others use it."""
        self._engine.copy_to(path)

    @_twice
    def events(self, request_id: str) -> list[Event]:
        """Return everything that happened to a message, oldest first."""
        with self._engine.reading() as (db, q):
            found = q.message_state(db, request_id=request_id)
            return [Event(*row) for row in q.events_of(db, message_id=found[0])] if found else []

    @_twice
    def unwritten_log_lines(self, most: int) -> list[LogLine]:
        with self._engine.reading() as (db, q):
            return _log_lines(q.unwritten_log_lines(db, count=most))

    @_twice
    def open_log_batch(self, writer: str) -> LogBatch | None:
        """Return the batch of log lines that this writer's crash may have left half written, if there is one."""
        with self._engine.reading() as (db, q):
            batch = q.open_log_batch(db, writer=writer)
            if batch is None:
                return None
            lines = _log_lines(q.log_lines_of_batch(db, batch=batch[0]))
        return LogBatch(batch[0], batch[1], tuple(lines))


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


def _may_send(account: Account, now: Instant) -> bool:
    resumes = account.state is AccountState.ACTIVE or (
        account.resume_at is not None and account.resume_at <= now
    )
    return resumes and pace.is_due(account.paid_until, now)


def _stored_account(row: tuple[Any, ...]) -> StoredAccount:
    (id_, email, name, host, port, security, username, credential, daily_limit, connections, *more) = row
    logins_per_minute, pipelining, chunking, *state = more
    account = Account(
        id=id_,
        email=email,
        name=name,
        host=host,
        port=port,
        security=Security(security) if security else None,
        username=username,
        password=Secret(""),
        daily_limit=daily_limit,
        connections=connections,
        logins_per_minute=logins_per_minute,
        pipelining=None if pipelining is None else bool(pipelining),
        chunking=None if chunking is None else bool(chunking),
        state=AccountState(state[0]),
        state_reason=state[1],
        state_since=state[2],
        resume_at=state[3],
        worked_at=state[4],
        worked_with=state[5],
        passed_at=state[6],
        gap=state[7],
        paid_until=state[8],
        server_lacks=_server_lacks(state[9]),
    )
    return StoredAccount(account, credential)


def _server_lacks(text: str | None) -> ServerLacks | None:
    if text is None:
        return None
    found = json.loads(text)
    return ServerLacks(found["server"], tuple(found["extensions"]), found["said"], found["since"])


def _log_lines(rows: Iterable[tuple[Any, ...]]) -> list[LogLine]:
    """Gather the rows of each line, of which there is one for each recipient."""
    return [
        _log_line(head, [(path, state, reason, 0) for *_, path, state, reason in group])
        for head, group in groupby(rows, key=itemgetter(0, 1, 2, 3))
    ]


def _log_line(head: tuple[Any, ...], deliveries: list[tuple[str, str, str | None, int]]) -> LogLine:
    message_id, request_id, sender, accepted_at = head
    state, reason = overall("done", deliveries)
    if any(state == "cancelled" for _, state, _, _ in deliveries):
        state = MessageState.CANCELLED
    status = f"{state.value} ({reason})" if reason else state.value
    recipients = tuple(row[0] for row in deliveries)
    return LogLine(message_id, request_id, sender, recipients, accepted_at, status)
