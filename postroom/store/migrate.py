"""Applies the numbered, forward-only migrations, each in one transaction."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from postroom.core import failpoint
from postroom.core.errors import SchemaMismatch
from postroom.store.dialect import Dialect, render
from postroom.store.engine import Engine

if TYPE_CHECKING:
    from postroom.store.transaction import Transaction

SCHEMA = Path(__file__).with_name("schema")
FIRST_SHARED = 15


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(folder: Path, dialect: Dialect) -> list[Migration]:
    """Return the migrations of an engine, in order: first its own, then those that both engines share.

    Its own run from 1, the shared ones from 15, without a gap. PostgreSQL's own end at 11 and SQLite's at 14:
    PostgreSQL has no 12 to 14 (docs/decisions/0007-one-schema-text.md).
    """
    own = [_load(path) for path in sorted((folder / dialect).glob("*.sql"))]
    shared = [_load(path, dialect) for path in sorted(folder.glob("0*.sql"))]
    assert [migration.version for migration in own] == list(range(1, len(own) + 1))
    assert [migration.version for migration in shared] == list(
        range(FIRST_SHARED, FIRST_SHARED + len(shared))
    )
    return own + shared


def _load(path: Path, dialect: Dialect | None = None) -> Migration:
    text = path.read_text(encoding="utf-8")
    sql = text if dialect is None else render(text, dialect)
    return Migration(int(path.name.split("_")[0]), path.stem, sql)


def migrate(engine: Engine) -> list[str]:
    """Bring the database up to date; return the names of what was applied.

    Several starting processes may race: each migration is checked and applied under the
    write lock. Raises SchemaMismatch when the database is newer than the code.
    """
    if _is_up_to_date(engine):  # a role with rights on the data alone needs no more
        return []
    applied: list[str] = []
    for migration in load_migrations(engine.migrations, engine.dialect):
        with engine.exclusively() as transaction:
            transaction.change("create_migration_table")
            if _is_applied(transaction, migration):
                continue
            engine.take_all_tables()
            if migration.version >= FIRST_SHARED:
                _end_older_processes(transaction)
            engine.run_script(migration.sql)
            failpoint.hit("migrate.inside")
            transaction.change(
                "insert_migration",
                version=migration.version,
                name=migration.name,
                checksum=migration.checksum,
                now=time.time_ns() // 1000,
            )
            applied.append(migration.name)
    check(engine)
    return applied


def _end_older_processes(transaction: Transaction) -> None:
    """Have the workers that are at work, which are of an earlier version, end without sending another message.

    When they claim or renew their lease they find themselves declared gone, and before a final dot their claim taken
    away. A worker of this version gives back what they have in hand. Where the dot is out they may record the answer.
    The order of the locks is that of a claim: the worker, then its jobs.
    """
    transaction.change("end_all_workers", now=time.time_ns() // 1000)
    transaction.change("disown_claims")


def _is_up_to_date(engine: Engine) -> bool:
    try:
        check(engine)
    except SchemaMismatch:
        return False
    return True


def _is_applied(transaction: Transaction, migration: Migration) -> bool:
    checksum = transaction.value(str, "applied_migration", version=migration.version)
    if checksum is not None and checksum != migration.checksum:
        raise SchemaMismatch(
            f"migration {migration.name} was applied to this database with other contents than this version of "
            f"Postroom has: the two do not belong together"
        )
    return checksum is not None


def check(engine: Engine) -> None:
    """Raise SchemaMismatch unless the database has exactly the migrations that this code needs."""
    needed = load_migrations(engine.migrations, engine.dialect)
    applied, newest = [], 0
    if engine.has_table("schema_migration"):
        with engine.reading() as transaction:
            newest = transaction.value(int, "newest_migration") or 0
            applied = [_is_applied(transaction, migration) for migration in needed]
    if not all(applied) or len(applied) < len(needed):
        raise SchemaMismatch("the database is not prepared for this version: run `postroom migrate`")
    if newest > needed[-1].version:
        raise SchemaMismatch(
            f"the database is newer (schema {newest}) than this version of Postroom (schema {needed[-1].version}): "
            f"update Postroom"
        )
