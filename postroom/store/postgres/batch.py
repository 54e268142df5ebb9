"""Runs a batch of works on PostgreSQL: in pipeline mode, or one by one with savepoints where one of them fails."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from aiosql.queries import Queries
from psycopg.rows import TupleRow

from postroom.core.events import EventListener, Happened
from postroom.store.events import tell
from postroom.store.postgres.errors import DAMAGED, HELD_UP, NOT_NOW, may_be_the_session, translated
from postroom.store.postgres.session import Session
from postroom.store.postgres.writing import WritingConnection
from postroom.store.transaction import Transaction
from postroom.store.watermarks import Watermarks
from postroom.store.writer import Work, WorkResult


def _is_everybodys(fault: Exception, *, is_new: bool) -> bool:
    if isinstance(fault, HELD_UP):
        return False
    return isinstance(fault, (*NOT_NOW, *DAMAGED)) or (may_be_the_session(fault) and not is_new)


class Batch:
    """Works that are committed together."""

    def __init__(
        self,
        writing: WritingConnection,
        queries: Queries,
        watermarks: Watermarks | None,
        where: str,
        listener: EventListener | None = None,
    ) -> None:
        self._writing = writing
        self._queries = queries
        self._watermarks = watermarks
        self._where = where
        self._listener = listener

    def run(
        self, connection: psycopg.Connection[TupleRow], works: Sequence[Work[object]], *, is_new: bool
    ) -> list[WorkResult]:
        """Run and commit the works: in a pipeline, or one by one where any of them fails."""
        results = self._in_a_pipeline(connection, works)
        return results if results is not None else self._one_by_one(works, is_new=is_new)

    def _in_a_pipeline(
        self, connection: psycopg.Connection[TupleRow], works: Sequence[Work[object]]
    ) -> list[WorkResult] | None:
        """Run the works in pipeline mode and commit; None, everything undone, when one of them fails."""
        guards: list[object] = []
        try:
            with connection.pipeline() as pipeline:
                self._writing.begin(connection)
                session = Session(connection, self._queries, pipeline)
                happened = self._happened()
                transaction = Transaction(
                    session,
                    self._queries,
                    guards.append,
                    self._watermarks,
                    results_deferred=True,
                    happened=happened,
                )
                values = [work(transaction) for work in works]
                transaction.write_counts()
                session.send()
                evidence = self._writing.prepare_commit(connection, transaction)
                pipeline.sync()
                undone = not all(guards)
                xid = evidence.xid
        except (psycopg.errors.PipelineAborted, *HELD_UP):
            self._writing.drop()
            return None
        except NOT_NOW:
            raise
        except Exception:  # whose it was is found out one by one
            self._writing.drop()
            return None
        if undone:
            connection.execute("ROLLBACK")
            return None
        self._writing.commit(connection, xid, evidence.mark)
        transaction.committed()
        tell(self._listener, happened or ())
        return [WorkResult(value) for value in values]

    def _happened(self) -> list[Happened] | None:
        return None if self._listener is None else []

    def _one_by_one(self, works: Sequence[Work[object]], *, is_new: bool) -> list[WorkResult]:
        """Run the works in one transaction, each with a savepoint to go back to.

        Raises what is no work's own fault; an error that a new session (`is_new`) does not end is its work's own.
        """
        connection = self._writing.current()
        self._writing.begin(connection)
        session = Session(connection, self._queries)
        happened = self._happened()
        transaction = Transaction(session, self._queries, watermarks=self._watermarks, happened=happened)
        results = []
        for work in works:
            connection.execute("SAVEPOINT work")
            counts, told = transaction.counted(), len(happened or ())
            try:
                with translated(self._where):
                    results.append(WorkResult(work(transaction)))
            except Exception as error:
                fault = error.__cause__
                if isinstance(fault, Exception) and _is_everybodys(fault, is_new=is_new):
                    raise fault from error  # the fault is the database's, so nobody's work can be committed
                results.append(WorkResult(error=error))
                transaction.restore(counts)
                del (happened or [])[told:]
                connection.execute("ROLLBACK TO SAVEPOINT work")
                transaction.held_keys.clear()
                if isinstance(fault, HELD_UP):  # the next work may need the same: it has waited long enough
                    connection.execute("SET LOCAL lock_timeout = '100ms'")
            else:
                connection.execute("RELEASE SAVEPOINT work")
        transaction.write_counts()
        evidence = self._writing.prepare_commit(connection, transaction)
        self._writing.commit(connection, evidence.xid, evidence.mark)
        transaction.committed()
        tell(self._listener, happened or ())
        return results
