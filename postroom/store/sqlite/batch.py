"""Runs a batch of works in one SQLite transaction; where one raises, the others are run again without it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import apsw

from postroom.core import failpoint
from postroom.core.events import Happened
from postroom.store.sqlite.connections import load_queries
from postroom.store.sqlite.faults import DAMAGED, NOT_NOW, translation
from postroom.store.sqlite.writer_lock import WriterLock
from postroom.store.transaction import Transaction
from postroom.store.writer import Work, WorkResult


def commit_works(
    connection: apsw.Connection,
    works: Sequence[Work[object]],
    path: Path,
    lock: WriterLock,
    happened: list[Happened] | None = None,
) -> list[WorkResult]:
    """Commit the works that do not fail, in one transaction; return the result of each, and note what has happened."""
    results: list[WorkResult | None] = [None] * len(works)
    while works and not _try_batch(connection, works, results, path, lock, happened):
        if happened is not None:
            happened.clear()
    return [result for result in results if result is not None]


def _try_batch(
    connection: apsw.Connection,
    works: Sequence[Work[object]],
    results: list[WorkResult | None],
    path: Path,
    lock: WriterLock,
    happened: list[Happened] | None,
) -> bool:
    """Commit every work that has not failed yet; False when another one failed and all must be run again."""
    connection.execute("BEGIN IMMEDIATE")
    changes = connection.total_changes()
    try:
        transaction = Transaction(connection, load_queries(), happened=happened)
        for index, work in enumerate(works):
            before = results[index]
            if before is not None and before.error is not None:
                continue
            results[index] = result = _run(work, transaction, path)
            if result.error is not None:
                return False
        transaction.write_counts()
        if connection.total_changes() != changes:
            lock.note_write()  # before the commit, which may checkpoint too
        failpoint.hit("store.commit")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with suppress(apsw.Error):  # the first error says more
                connection.execute("ROLLBACK")
    return True


def _run(work: Work[object], transaction: Transaction, path: Path) -> WorkResult:
    try:
        return WorkResult(work(transaction))
    except (*NOT_NOW, *DAMAGED):
        raise  # the fault is the database's, so nobody's work can be committed
    except Exception as error:
        return WorkResult(error=translation(path, error) if isinstance(error, apsw.Error) else error)
