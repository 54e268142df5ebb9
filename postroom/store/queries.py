"""Loads the named statements of store/sql/ (aiosql) and gives their rows types.

A statement is called by its name and its parameters; the type of its rows, a NamedTuple, has a field for each of its
columns. tests/store/test_statements.py compares both with the SQL on each engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar, cast

import aiosql
from aiosql.queries import Queries
from aiosql.types import SyncDriverAdapterProtocol

_FOLDER = Path(__file__).parent / "sql"
_DEFINITION = re.compile(r"^-- define (\w+)\n(.+?\n)\n", re.MULTILINE | re.DOTALL)
Parameter: TypeAlias = "str | bytes | int | None"
V = TypeVar("V", str, bytes, int)


R = TypeVar("R", bound="tuple[object, ...]")  # a NamedTuple


class Changed(Protocol):
    """Whether a statement has changed a row; on PostgreSQL perhaps not known before the end of a batch."""

    def __bool__(self) -> bool: ...


class Connection(Protocol):
    """A driver's connection: whatever the engine's adapter of aiosql takes."""

    def cursor(self) -> object: ...


def load(engine: str, adapter: Callable[[], SyncDriverAdapterProtocol]) -> Queries:
    """Return the named statements of an engine (`sqlite` or `postgres`), bound to its driver by `adapter`."""
    files = [*sorted(_FOLDER.glob("*.sql")), *sorted((_FOLDER / engine).glob("*.sql"))]
    text = _with_definitions("\n".join(path.read_text(encoding="utf-8") for path in files))
    queries: Queries = aiosql.from_str(text, adapter, mandatory_parameters=False)
    return queries


def _maker(kind: type[R]) -> Callable[[Iterable[object]], R]:
    """Return how a NamedTuple is made of a row."""
    return kind._make  # type: ignore[attr-defined,no-any-return]


def _with_definitions(text: str) -> str:
    """Put what `-- define NAME` names, up to the next empty line, in the places of `{NAME}`."""
    for name, meaning in _DEFINITION.findall(text):
        text = text.replace(f"{{{name}}}", meaning.strip())
    return _DEFINITION.sub("", text)


class Session:
    """A connection and the named statements."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self.connection = connection
        self.queries = queries

    def rows(self, kind: type[R], name: str, /, **parameters: Parameter) -> list[R]:
        """Return all rows of a statement."""
        return list(map(_maker(kind), getattr(self.queries, name)(self.connection, **parameters)))

    def packed(self, kind: type[R], name: str, /, **parameters: Parameter) -> list[R]:
        """Return all rows of a statement that gives them as one JSON array of arrays, for chores that read many of them.

        SQLite's driver gives up Python's lock for each row, and each time the threads that wait for it may change.
        """
        found: str = getattr(self.queries, name)(self.connection, **parameters)
        return list(map(_maker(kind), json.loads(found)))

    def row(self, kind: type[R], name: str, /, **parameters: Parameter) -> R | None:
        """Return the first row of a statement, or None."""
        found = getattr(self.queries, name)(self.connection, **parameters)
        return None if found is None else _maker(kind)(found)

    def column(self, kind: type[V], name: str, /, **parameters: Parameter) -> list[V]:
        """Return the only column of a statement's rows."""
        return [found for (found,) in getattr(self.queries, name)(self.connection, **parameters)]

    def value(self, kind: type[V], name: str, /, **parameters: Parameter) -> V | None:
        """Return the only column of a statement's first row, or None."""
        return cast("V | None", getattr(self.queries, name)(self.connection, **parameters))

    def change(self, name: str, /, **parameters: Parameter) -> Changed:
        """Run a statement that changes rows; return whether it did."""
        return cast("Changed", getattr(self.queries, name)(self.connection, **parameters))

    def count_changed(self, name: str, /, **parameters: Parameter) -> int:
        """Run a statement that changes rows; return how many it did."""
        return int(getattr(self.queries, name)(self.connection, **parameters))
