"""How statements go to PostgreSQL: each at once or, in a pipeline, the frequent ones of a batch as one statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar, cast

import psycopg
from aiosql.adapters.pyformat import PyFormatAdapter
from aiosql.queries import Queries
from psycopg.rows import TupleRow

from postroom.store.postgres.connect import RELIED_ON
from postroom.store.queries import load
from postroom.store.transaction import Transaction

V = TypeVar("V")
# The statements that also have a form for many at once, each with the key that tells its rows apart.
MANY_AT_ONCE = {
    "hold_issued_key": "key_id",
    "hold_file_key": "file_id",
    "accept_message": "request_id",
    "add_idempotency": "request_id",
    "claim_job": "job_id",
    "mark_dot": "job_id",
    "complete_sent": "job_id",
    "raise_total": "name",
}
_LARGE = 262_144  # octets of a message that goes alone
# Both run while the server reads a statement: the first where others are under way with it, the second where none is.
_WAITED_FOR = ("statement_timeout", "idle_in_transaction_session_timeout")
_PATIENCE = "SELECT " + ", ".join(f"set_config('{name}', '120s', true)" for name in _WAITED_FOR)
_NO_PATIENCE = "SELECT " + ", ".join(f"set_config('{name}', {RELIED_ON[name]}, true)" for name in _WAITED_FOR)


class Session:
    """A connection, and how statements go over it: each at once, or, with a pipeline, together.

    What a batch does most often (`MANY_AT_ONCE`) gathers, and goes out in one statement for all before anything else does.
    These never touch the same rows within a batch, so their order among themselves means nothing.
    """

    def __init__(
        self,
        connection: psycopg.Connection[TupleRow],
        queries: Queries,
        pipeline: psycopg.Pipeline | None = None,
    ) -> None:
        self.connection = connection
        self.pipeline = pipeline
        self._queries = queries
        self._gathered: dict[str, _Gathered] = {}

    def cursor(self) -> psycopg.Cursor[TupleRow]:
        self.send()
        return self.connection.cursor(binary=True)

    def change(self, name: str, statement: str, parameters: Mapping[str, object]) -> int | _One | Changed:
        """Run a statement that changes rows; return how many, or what will know it once the answers are there."""
        held = {key: without_nul(value) for key, value in parameters.items()}
        if self.pipeline is None:
            with self._patiently(held):
                return self.connection.execute(statement.encode(), held).rowcount
        if name in MANY_AT_ONCE and _octets(held, "mime") < _LARGE:
            gathered = self._gathered.setdefault(name, _Gathered(self, MANY_AT_ONCE[name]))
            return gathered.add(held)
        self.send()
        with self._patiently(held):
            return Changed(self.connection.execute(statement.encode(), held), self.pipeline)

    @contextmanager
    def _patiently(self, parameters: Mapping[str, object]) -> Iterator[None]:
        """Have the server wait for a large message to arrive: its time for a statement runs while it reads one."""
        if _octets(parameters, "mime", "octets") < _LARGE:
            yield
            return
        self.connection.execute(_PATIENCE)
        yield
        self.connection.execute(_NO_PATIENCE)

    def send(self) -> None:
        """Send what has gathered."""
        waiting, self._gathered = self._gathered, {}
        for name, gathered in waiting.items():
            gathered.send(getattr(self._queries, f"{name}_many").sql)


def session_of(transaction: Transaction) -> Session:
    """Return what a transaction of this engine runs over."""
    return cast("Session", transaction.connection)


class Changed:
    """How many rows a statement has changed: known once the answers are there."""

    __slots__ = ("_cursor", "_pipeline")

    def __init__(self, cursor: psycopg.Cursor[TupleRow], pipeline: psycopg.Pipeline) -> None:
        self._cursor = cursor
        self._pipeline = pipeline

    def __int__(self) -> int:
        if self._cursor.rowcount < 0:
            self._pipeline.sync()
        return self._cursor.rowcount

    def __bool__(self) -> bool:
        return int(self) > 0


class _Gathered:
    """The parameters of one statement for many, and the keys of the rows that it has changed."""

    def __init__(self, session: Session, key: str) -> None:
        self._session = session
        self._key = key
        self._rows: list[Mapping[str, object]] = []
        self._cursor: psycopg.Cursor[TupleRow] | None = None
        self._changed: set[object] | None = None

    def add(self, row: Mapping[str, object]) -> _One:
        self._rows.append(row)
        return _One(self, row[self._key])

    def send(self, statement: str) -> None:
        columns = {name: [row[name] for row in self._rows] for name in self._rows[0]}
        self._cursor = self._session.connection.execute(statement.encode(), columns)

    def has_changed(self, key: object) -> bool:
        if self._changed is None:
            if self._cursor is None:
                self._session.send()
            assert self._cursor is not None
            self._changed = {row[0] for row in self._cursor.fetchall()}
        return key in self._changed


class _One:
    """Whether one of many was changed."""

    __slots__ = ("_all", "_key")

    def __init__(self, gathered: _Gathered, key: object) -> None:
        self._all = gathered
        self._key = key

    def __bool__(self) -> bool:
        return self._all.has_changed(self._key)


class _Adapter(PyFormatAdapter):
    """Hands what changes rows to the session, which knows when it goes out."""

    def insert_update_delete(self, conn: Session, query_name: str, sql: str, parameters: Any) -> Any:
        return conn.change(query_name, sql, parameters)


def without_nul(value: V) -> V:
    """Return a text with NUL spelt out; anything else as it is."""
    if isinstance(value, str) and "\0" in value:
        return cast("V", value.replace("\0", "\\x00"))
    return value


def _octets(parameters: Mapping[str, object], *names: str) -> int:
    """Return how many octets the contents among the parameters have."""
    contents = (parameters.get(name) for name in names)
    return sum(len(each) for each in contents if isinstance(each, (bytes, bytearray, memoryview)))


@cache
def load_queries() -> Queries:
    """Return the named queries, bound to this engine's driver."""
    return load("postgres", _Adapter)
