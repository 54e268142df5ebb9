"""Numbered, forward-only migrations, each in one transaction: a kill leaves all of it or nothing."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postroom.core import failpoint
from postroom.core.errors import SchemaMismatch
from postroom.store.engine import Engine


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


def migrate(engine: Engine) -> list[str]:
    """Bring the database up to date; return the names of what was applied.

    Several starting processes may race: each migration is checked and applied under the
    write lock. Raises SchemaMismatch when the database is newer than the code.
    """
    if _is_up_to_date(engine):  # a role with rights on the data alone needs no more
        return []
    applied: list[str] = []
    for migration in load_migrations(engine.migrations):
        with engine.exclusively() as (connection, q):
            q.create_migration_table(connection)
            if _is_applied(connection, q, migration):
                continue
            engine.run_script(migration.sql)
            failpoint.hit("migrate.inside")
            q.insert_migration(
                connection,
                version=migration.version,
                name=migration.name,
                checksum=migration.checksum,
                now=time.time_ns() // 1000,
            )
            applied.append(migration.name)
    check(engine)
    return applied


def _is_up_to_date(engine: Engine) -> bool:
    try:
        check(engine)
    except SchemaMismatch:
        return False
    return True


def _is_applied(connection: Any, q: Any, migration: Migration) -> bool:
    checksum = q.applied_migration(connection, version=migration.version)
    if checksum is not None and checksum != migration.checksum:
        raise SchemaMismatch(
            f"migration {migration.name} was applied to this database with other contents than this version of "
            f"Postroom has: the two do not belong together"
        )
    return checksum is not None


def check(engine: Engine) -> None:
    """Raise SchemaMismatch unless the database has exactly the migrations that this code needs."""
    needed = load_migrations(engine.migrations)
    applied, newest = [], 0
    if engine.has_table("schema_migration"):
        with engine.reading() as (connection, q):
            newest = q.newest_migration(connection)
            applied = [_is_applied(connection, q, migration) for migration in needed]
    if not all(applied) or len(applied) < len(needed):
        raise SchemaMismatch("the database is not prepared for this version: run `postroom migrate`")
    if newest > len(needed):
        raise SchemaMismatch(
            f"the database is newer (schema {newest}) than this version of Postroom (schema {len(needed)}): "
            f"update Postroom"
        )
