"""Numbered, forward-only migrations, each in one transaction: a kill leaves all of it or nothing."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postroom.errors import SchemaMismatch
from postroom.failpoint import passing

_CREATE = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at INTEGER NOT NULL
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(folder: Path) -> list[Migration]:
    """Return the migrations of an engine, in order. The numbers must run from 1 without a gap."""
    migrations = [
        Migration(int(path.name.split("_")[0]), path.stem, path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.sql"))
    ]
    assert [migration.version for migration in migrations] == list(range(1, len(migrations) + 1))
    return migrations


def migrate(engine: Any) -> list[str]:
    """Bring the database up to date; return the names of what was applied.

    Several starting processes may race: each migration is checked and applied under the
    write lock. Raises SchemaMismatch when the database is newer than the code.
    """
    applied: list[str] = []
    for migration in load_migrations(engine.migrations):
        with engine.exclusively() as connection:
            connection.execute(_CREATE)
            if _is_applied(connection, migration):
                continue
            engine.run_script(migration.sql)
            passing("migrate.inside")
            connection.execute(
                "INSERT INTO schema_migration VALUES (?, ?, ?, ?)",
                (migration.version, migration.name, migration.checksum, time.time_ns() // 1000),
            )
            applied.append(migration.name)
    check(engine)
    return applied


def _is_applied(connection: Any, migration: Migration) -> bool:
    row = connection.execute(
        "SELECT checksum FROM schema_migration WHERE version = ?", (migration.version,)
    ).fetchone()
    if row is not None and row[0] != migration.checksum:
        raise SchemaMismatch(
            f"migration {migration.name} was applied to this database with other contents than this version of "
            f"Postroom has: the two do not belong together"
        )
    return row is not None


def check(engine: Any) -> None:
    """Raise SchemaMismatch unless the database has exactly the migrations that this code needs."""
    needed = load_migrations(engine.migrations)
    with engine.reading() as (connection, _):
        exists = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migration'").fetchone()
        newest = (
            connection.execute("SELECT max(version) FROM schema_migration").fetchone()[0] if exists else 0
        )
        applied = [_is_applied(connection, migration) for migration in needed] if exists else []
    if not all(applied) or len(applied) < len(needed):
        raise SchemaMismatch("the database is not prepared for this version: run `postroom migrate`")
    if newest > len(needed):
        raise SchemaMismatch(
            f"the database is newer (schema {newest}) than this version of Postroom (schema {len(needed)}): "
            f"update Postroom"
        )
