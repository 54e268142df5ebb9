"""Writes postroom/store/schema/sqlite.sql and postgres.sql: what all migrations together make, read from real databases.

`python -m tools.schema` rewrites both; it starts a PostgreSQL of its own. A test compares them with what migrations make.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import psycopg

from postroom.store.dialect import Dialect
from postroom.store.migrate import SCHEMA
from postroom.store.store import open_store
from tests.servers.postgres import Postgres

_HEAD = "-- What all migrations make of an empty {} database. Written by `python -m tools.schema`; a test compares it.\n"
_SQLITE = """
SELECT sql FROM sqlite_schema
WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'
ORDER BY tbl_name, type <> 'table', type, name
"""
_TABLES = "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), attnotnull, attidentity, pg_get_expr(adbin, adrelid),
       attstorage <> typstorage
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum JOIN pg_type ON pg_type.oid = atttypid
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# Newer servers keep NOT NULL as constraints too.
_CONSTRAINTS = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = %s::regclass AND contype <> 'n' ORDER BY contype = 'c', conname
"""
_INDEXES = """
SELECT pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = %s::regclass AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid AND contype <> 'f')
ORDER BY 1
"""
_TRIGGERS = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal ORDER BY 1"
_FUNCTIONS = (
    "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY proname"
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column, in terms that both engines share: its kind is integer, text or octets."""

    table: str
    name: str
    kind: str
    is_nullable: bool


_KINDS = {
    "INTEGER": "integer",
    "SMALLINT": "integer",
    "BIGINT": "integer",
    "TEXT": "text",
    "BLOB": "octets",
    "BYTEA": "octets",
}


def file_of(dialect: Dialect) -> Path:
    return SCHEMA / f"{dialect}.sql"


def sqlite_text(path: Path) -> str:
    """Return the schema of an SQLite database."""
    with closing(apsw.Connection(str(path))) as connection:
        statements = [str(row[0]) for row in connection.execute(_SQLITE)]
    return _HEAD.format("SQLite") + "".join(f"\n{statement};\n" for statement in statements)


def sqlite_columns(path: Path) -> set[Column]:
    with closing(apsw.Connection(str(path))) as connection:
        tables = [
            str(row[0]) for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        return {
            Column(table, str(name), _KINDS[str(type_)], not (not_null or key))
            for table in tables
            if not table.startswith("sqlite_")
            for _, name, type_, not_null, _, key in connection.execute(f"PRAGMA table_info({table})")
        }


def postgres_text(url: str) -> str:
    """Return the schema of a PostgreSQL database, the same from every version of the server."""
    with psycopg.connect(url, autocommit=True) as connection:
        tables = [
            _table(connection, name, options) for name, options in connection.execute(_TABLES).fetchall()
        ]
        functions = [f"\n{row[0].strip()};\n" for row in connection.execute(_FUNCTIONS).fetchall()]
    return _HEAD.format("PostgreSQL") + "".join(tables + functions)


def postgres_columns(url: str) -> set[Column]:
    with psycopg.connect(url, autocommit=True) as connection:
        return {
            Column(table, name, _KINDS[type_.upper()], not not_null)
            for table, _ in connection.execute(_TABLES).fetchall()
            for name, type_, not_null, *_ in connection.execute(_COLUMNS, [table]).fetchall()
            if type_.upper() in _KINDS
        }


def _table(connection: psycopg.Connection[Any], name: str, options: list[str] | None) -> str:
    lines = [_column(*row) for row in connection.execute(_COLUMNS, [name]).fetchall()]
    lines += [
        f"CONSTRAINT {each} {text}" for each, text in connection.execute(_CONSTRAINTS, [name]).fetchall()
    ]
    more = [
        row[0]
        for look in (_INDEXES, _TRIGGERS)
        for row in connection.execute(look.encode(), [name]).fetchall()
    ]
    having = f" WITH ({', '.join(sorted(options))})" if options else ""
    body = ",\n    ".join(lines)
    return f"\nCREATE TABLE {name} (\n    {body}\n){having};\n" + "".join(
        f"{statement};\n" for statement in more
    )


def _column(name: str, type_: str, not_null: bool, identity: str, default: str | None, external: bool) -> str:
    parts = [name, type_, "STORAGE EXTERNAL" if external else "", "NOT NULL" if not_null else ""]
    parts += ["GENERATED BY DEFAULT AS IDENTITY" if identity else "", f"DEFAULT {default}" if default else ""]
    return " ".join(part for part in parts if part)


def _write() -> None:
    with tempfile.TemporaryDirectory() as folder, Postgres() as server:
        path = Path(folder) / "postroom.db"
        url = server.url(server.create_database())
        for each in (f"sqlite:///{path}", url):
            store = open_store(each)
            store.migrate()
            store.close()
        file_of("sqlite").write_text(sqlite_text(path), encoding="utf-8")
        file_of("postgres").write_text(postgres_text(url), encoding="utf-8")


if __name__ == "__main__":
    _write()
