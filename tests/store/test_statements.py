"""Every named statement, prepared on each engine: its parameters are its calls', its columns its rows' fields."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import apsw.ext
import psycopg
import pytest

from postroom.store.postgres.session import MANY_AT_ONCE
from postroom.store.postgres.session import load_queries as load_postgres
from postroom.store.sqlite.connections import load_queries as load_sqlite
from postroom.store.sqlite.connections import view_script
from tests.servers.installation import ROOT
from tests.store.database import Database

STORE = ROOT / "postroom" / "store"
SESSION = {"rows", "packed", "row", "column", "value", "change", "count_changed"}
NUMBERS = {"latest", "latest_resume"}  # in a CASE, where PostgreSQL would take them for texts
TEXTS = {"reason", "messages", "detail", "said", "lacks", "key", "name"}
_TEXT, _BIGINT = 25, 20  # the types' oids
ONE_COLUMN = {"column", "value"}


@dataclass(frozen=True, slots=True)
class Use:
    """One call of a statement: where, by which method, with which parameters and which type of rows."""

    where: str
    method: str
    parameters: frozenset[str]
    fields: tuple[str, ...] | None


def _uses(path: Path) -> Iterator[tuple[str, Use]]:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SESSION
        ):
            continue
        names = [
            each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        if not names or not (_is_session(node.func.value)):
            continue
        where = f"{path.name}:{node.lineno}"
        assert all(each.arg is not None for each in node.keywords), f"{where}: parameters in a bag"
        kind = node.args[0]
        fields = None
        if node.func.attr in ("rows", "packed", "row"):
            assert isinstance(kind, ast.Name), f"{where}: the type of the rows is no name"
            fields = tuple(getattr(module, kind.id)._fields)
        yield (
            names[0],
            Use(where, node.func.attr, frozenset(str(each.arg) for each in node.keywords), fields),
        )


def _is_session(node: ast.expr) -> bool:
    """Whether calls on this are statements: `self._tx`, a transaction."""
    return ast.unparse(node).rpartition(".")[2] in ("_tx", "transaction", "self")


USES: list[tuple[str, Use]] = [use for path in sorted(STORE.rglob("*.py")) for use in _uses(path)]


def _statements(engine: str) -> dict[str, str]:
    queries: Any = load_sqlite() if engine == "sqlite" else load_postgres()
    return {
        name: getattr(queries, name).sql for name in queries.available_queries if not name.endswith("_cursor")
    }


@pytest.fixture
def statements(engine: str) -> dict[str, str]:
    return _statements(engine)


def _described(database: Database, sql: str) -> tuple[set[str], tuple[str, ...]]:
    """Prepare a statement; return its parameters and the names of its columns."""
    if database.url.startswith("sqlite"):
        with apsw.Connection(database.url.removeprefix("sqlite:///")) as connection:
            connection.execute(view_script())
            found = apsw.ext.query_info(connection, sql)
        return {name for name in found.bindings_names if name}, tuple(name for name, _ in found.description)
    with psycopg.connect(database.url) as connection_:
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", sql)))
        numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", sql).replace(
            "%%", "%"
        )
        told = _prepared(
            connection_.pgconn,
            numbered.encode(),
            names,
            [_BIGINT if name in NUMBERS else 0 for name in names],
        )
        columns = [told.fname(number) or b"" for number in range(told.nfields)]
        return set(names), tuple(name.decode() for name in columns)


def _packed(sql: str) -> tuple[str, ...]:
    """Return the columns that a statement gives as an array."""
    found = re.search(r"json_(?:build_)?array\(([^()]+)\)", sql)
    assert found, sql
    return tuple(re.split(r",\s*", found[1]))


def _prepared(
    connection: psycopg.pq.abc.PGconn, sql: bytes, names: list[str], types: list[int]
) -> psycopg.pq.abc.PGresult:
    """Prepare and describe a statement; a parameter whose type it does not show is a number, or a text by its name."""
    prepared = connection.prepare(b"looked_at", sql, types)
    unknown = re.search(rb"could not determine data type of parameter \$(\d+)", prepared.error_message)
    if unknown:
        number = int(unknown[1]) - 1
        types[number] = _TEXT if names[number] in TEXTS else _BIGINT
        return _prepared(connection, sql, names, types)
    assert prepared.status == psycopg.pq.ExecStatus.COMMAND_OK, prepared.error_message.decode()
    return connection.describe_prepared(b"looked_at")


def test_every_statement_is_used_and_every_use_names_one(statements: dict[str, str], engine: str) -> None:
    used = {name for name, _ in USES}
    if engine == "postgres":
        used |= {f"{name}_many" for name in MANY_AT_ONCE}
    assert used == statements.keys()


def test_parameters_and_columns_are_those_of_the_calls(
    database: Database, statements: dict[str, str]
) -> None:
    described = {name: _described(database, sql) for name, sql in statements.items()}
    for name, use in USES:
        parameters, columns = described[name]
        assert use.parameters == parameters, f"{use.where}: {name} takes {sorted(parameters)}"
        if use.method == "packed":
            assert len(columns) == 1, f"{use.where}: {name} gives {columns}"
            columns = _packed(statements[name])
        if use.fields is not None:
            assert use.fields == columns, f"{use.where}: {name} gives {columns}"
        if use.method in ONE_COLUMN:
            assert len(columns) == 1, f"{use.where}: {name} gives {columns}"


def test_those_for_many_take_what_the_one_takes(database: Database, statements: dict[str, str]) -> None:
    for name in MANY_AT_ONCE:
        if f"{name}_many" in statements:
            assert (
                _described(database, statements[name])[0]
                == _described(database, statements[f"{name}_many"])[0]
            )
