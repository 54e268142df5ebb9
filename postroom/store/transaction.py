"""An open transaction: its statements, and the nouns that read and write with them.

A `Transaction` is handed to a piece of work by the group commit, or by the store for a read, and lives as long as
that work. Each move is guarded in SQL by state and claim token; a row count other
than one raises, and raising undoes the whole piece of work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar, cast

from aiosql.queries import Queries

from postroom.core.clock import Instant
from postroom.core.errors import LeaseLost
from postroom.core.events import Happened
from postroom.store.acceptance import Acceptance
from postroom.store.accounts import Accounts
from postroom.store.aliases import Aliases
from postroom.store.attempts import Attempts
from postroom.store.audit import Audit
from postroom.store.captures import Captures
from postroom.store.chores import ChoreJobs
from postroom.store.closing import Closings
from postroom.store.connections import Connections
from postroom.store.contents import Contents
from postroom.store.erasure import Erasure
from postroom.store.events import Events
from postroom.store.findings import Findings
from postroom.store.holds import Holds
from postroom.store.issued_keys import IssuedKeys
from postroom.store.key_changes import KeyChanges
from postroom.store.keys import Keys
from postroom.store.log_lines import LogLines
from postroom.store.managed_accounts import ManagedAccounts
from postroom.store.messages import Messages
from postroom.store.notices import Notices
from postroom.store.noun import Noun
from postroom.store.oauth_grants import OAuthGrants
from postroom.store.pace import AccountPace
from postroom.store.pool_moves import PoolMoves
from postroom.store.pools import Pools
from postroom.store.projection import Projection
from postroom.store.queries import Changed, Connection, Session
from postroom.store.queue import Queue
from postroom.store.recovery import Recovery
from postroom.store.retention import Pruning
from postroom.store.server_words import ServerWords
from postroom.store.settings import StoredSettings
from postroom.store.statistics import Statistics
from postroom.store.symptoms import Symptoms
from postroom.store.totals import Totals
from postroom.store.usage import Usage
from postroom.store.watermarks import Watermarks
from postroom.store.workers import Workers
from postroom.store.writer import Work

P = ParamSpec("P")
T = TypeVar("T")
KEYS_REVISION = "accounts_version"  # setting: a number that every change of keys or their accounts raises
Counts: TypeAlias = tuple[Counter[int], Counter[tuple[str, str]]]
Over = TypeVar("Over", bound="Noun | Transaction")


def work(function: Callable[Concatenate[Over, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Work[T]:
    """Return the work of calling a noun's function, or one of the open transaction, with these arguments."""
    noun: type[Noun] | None = getattr(function, "noun", None)
    call = cast("Callable[..., T]", function)
    if noun is None and not (args or kwargs):
        return call
    if noun is None:
        return lambda transaction: call(transaction, *args, **kwargs)
    return lambda transaction: call(noun(transaction), *args, **kwargs)


def must_have_changed(changed: Changed) -> None:
    """Raise LeaseLost unless a statement has changed a row."""
    if not changed:
        raise LeaseLost


class Transaction(Session):
    """One open transaction; one that only reads sees the last committed state. Only the engines make them."""

    def __init__(
        self,
        connection: Connection,
        queries: Queries,
        guard: Callable[[Changed], None] = must_have_changed,
        watermarks: Watermarks | None = None,
        *,
        results_deferred: bool = False,
        happened: list[Happened] | None = None,
    ) -> None:
        super().__init__(connection, queries)
        self.happened = happened  # the events of messages, for those who listen; None: nobody does
        self.guard = guard  # raise LeaseLost unless a statement changed a row: at once, or before the commit
        self.watermarks = watermarks
        self.results_deferred = (
            results_deferred  # what a statement has changed is known before the commit only
        )
        self.has_new_work = False  # whether there are jobs that a worker may take now
        self.held_keys: set[bytes] = set()  # digests of API keys that work until the commit
        self._keys_changed = False
        self._changed_keys: set[str] | None = set()  # what of them; None: anything
        self.accepted: Counter[int] = Counter()  # messages by account; written by `write_counts`
        self.totalled: Counter[tuple[str, str]] = Counter()  # by name and label; written by `write_counts`
        self.left: dict[int, Instant] = {}  # accounts claimed of, and when what is left of each is due

    def write_counts(self) -> None:
        """Write once for all works, before the commit: what they have counted, and that keys have changed."""
        if self._keys_changed:
            self.change("raise_revision", name=KEYS_REVISION)
            words = self._changed_keys
            KeyChanges(self).note(KEYS_REVISION, None if words is None else frozenset(words))
        for account_id, jobs in self.accepted.items():
            self.change("count_accepted", account_id=account_id, jobs=jobs)
        for (name, label), value in self.totalled.items():
            if value:
                self.change("raise_total", name=name, label=label, value=value)

    def counted(self) -> Counts:
        """Return what was counted up to here, to go back to (`restore`) where the next work is undone."""
        return self.accepted.copy(), self.totalled.copy()

    def restore(self, counts: Counts) -> None:
        self.accepted, self.totalled = counts

    def note_keys_changed(self, *, account_id: int | None = None, key_id: int | None = None) -> None:
        """Have every web process read what was changed again after this commit (KEYS_REVISION).

        Each function that changes which keys work, or the account of one as web processes use it, calls this: with the
        account where nothing but it and its keys have changed, with the issued key where it alone has.
        """
        self._keys_changed = True
        if account_id is None and key_id is None:
            self._changed_keys = None
        elif self._changed_keys is not None:
            self._changed_keys.add(f"k{key_id}" if account_id is None else f"a{account_id}")

    def committed(self) -> None:
        """Note what is known only now that it is committed."""
        for account_id, first_left in self.left.items():
            if self.watermarks:
                self.watermarks.note_claim(account_id, first_left)

    @property
    def acceptance(self) -> Acceptance:
        return Acceptance(self)

    @property
    def accounts(self) -> Accounts:
        return Accounts(self)

    @property
    def aliases(self) -> Aliases:
        return Aliases(self)

    @property
    def audit(self) -> Audit:
        return Audit(self)

    @property
    def closings(self) -> Closings:
        return Closings(self)

    @property
    def attempts(self) -> Attempts:
        return Attempts(self)

    @property
    def captures(self) -> Captures:
        return Captures(self)

    @property
    def chores(self) -> ChoreJobs:
        return ChoreJobs(self)

    @property
    def connections(self) -> Connections:
        return Connections(self)

    @property
    def contents(self) -> Contents:
        return Contents(self)

    @property
    def erasure(self) -> Erasure:
        return Erasure(self)

    @property
    def events(self) -> Events:
        return Events(self)

    @property
    def findings(self) -> Findings:
        return Findings(self)

    @property
    def holds(self) -> Holds:
        return Holds(self)

    @property
    def issued_keys(self) -> IssuedKeys:
        return IssuedKeys(self)

    @property
    def keys(self) -> Keys:
        return Keys(self)

    @property
    def log_lines(self) -> LogLines:
        return LogLines(self)

    @property
    def managed_accounts(self) -> ManagedAccounts:
        return ManagedAccounts(self)

    @property
    def messages(self) -> Messages:
        return Messages(self)

    @property
    def notices(self) -> Notices:
        return Notices(self)

    @property
    def oauth_grants(self) -> OAuthGrants:
        return OAuthGrants(self)

    @property
    def pace(self) -> AccountPace:
        return AccountPace(self)

    @property
    def pool_moves(self) -> PoolMoves:
        return PoolMoves(self)

    @property
    def pools(self) -> Pools:
        return Pools(self)

    @property
    def queue(self) -> Queue:
        return Queue(self)

    @property
    def recovery(self) -> Recovery:
        return Recovery(self)

    @property
    def projection(self) -> Projection:
        return Projection(self)

    @property
    def pruning(self) -> Pruning:
        return Pruning(self)

    @property
    def server_words(self) -> ServerWords:
        return ServerWords(self)

    @property
    def settings(self) -> StoredSettings:
        return StoredSettings(self)

    @property
    def symptoms(self) -> Symptoms:
        return Symptoms(self)

    @property
    def totals(self) -> Totals:
        return Totals(self)

    @property
    def statistics(self) -> Statistics:
        return Statistics(self)

    @property
    def usage(self) -> Usage:
        return Usage(self)

    @property
    def workers(self) -> Workers:
        return Workers(self)
