"""The connection that writes to PostgreSQL: begins and commits, and finds out about a commit whose answer was lost."""

from __future__ import annotations

import logging
import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg.rows import TupleRow

from postroom.core import failpoint
from postroom.core.errors import CommitUnknown, StoreUnavailable
from postroom.store.engine import Server
from postroom.store.postgres.connect import BEGIN, Connector
from postroom.store.postgres.connection import Connection
from postroom.store.postgres.errors import said
from postroom.store.postgres.listener import CHANNEL
from postroom.store.transaction import Transaction

log = logging.getLogger(__name__)

_MARK = "INSERT INTO commit_mark (mark) VALUES (%s) RETURNING pg_current_xact_id()::text"
_MARK_AND_WAKE = f"{_MARK}, pg_notify('{CHANNEL}', '')"
_MARKS_COUNT_S = 300.0  # after so long a commit is not missed any more
_marks = random.Random()  # noqa: S311  # they must differ, not be secret
os.register_at_fork(after_in_child=_marks.seed)  # or each of the web process's children would draw the same


@dataclass(frozen=True, slots=True)
class Evidence:
    """What will tell whether a transaction was committed: the mark that it leaves, and how to see that it is over."""

    mark: int
    _number: psycopg.Cursor[TupleRow]

    @property
    def xid(self) -> str:
        """The transaction's number; in pipeline mode known after a sync."""
        [[number, *_]] = self._number.fetchall()
        return str(number)


class _Last(NamedTuple):
    """Our last commit: its mark, when it was, and on which server."""

    mark: int
    at: float  # monotonic
    clock: int
    server: Server | None


def _is_under_way(connection: psycopg.Connection[TupleRow], xid: str) -> bool:
    try:
        [[status]] = connection.execute("SELECT pg_xact_status(%s::text::xid8)", [xid]).fetchall()
    except psycopg.errors.InvalidParameterValue:  # in the future: a crash has taken the number back
        return False
    return bool(status == "in progress")


class WritingConnection:
    """The one connection that writes, opened anew where it was lost; used by one thread at a time.

    A commit whose answer was lost is looked for by the mark that it leaves, for up to `find_out_within_s`;
    where that fails CommitUnknown is raised.
    """

    def __init__(self, connector: Connector, find_out_within_s: float) -> None:
        self._connector = connector
        self._find_out_within_s = find_out_within_s
        self.connection: Connection | None = None
        self.last: _Last | None = None
        self.stepped_back_to: int | None = None  # when our last commit was that the server has lost

    @property
    def is_open(self) -> bool:
        return self.connection is not None and not self.connection.closed

    def current(self) -> Connection:
        """Return the writing connection, a new one where the old one was lost."""
        if self.connection is not None and self.connection.closed:
            self.connection = None
        if self.connection is None:
            self.connection = self._connector.connect()
            self._look_for_the_last_commit(self.connection)
        return self.connection

    def _look_for_the_last_commit(self, connection: Connection) -> None:
        """See, after a failover, whether the new server has our last commit: else it has stepped back."""
        server, last = self._connector.server, self.last
        if last is None or server is None or last.server is None or server.timeline == last.server.timeline:
            return
        look = "SELECT EXISTS (SELECT 1 FROM commit_mark WHERE mark = %s)"
        [[is_there]] = connection.execute(look, [last.mark], prepare=False).fetchall()
        is_recent = time.monotonic() - last.at < _MARKS_COUNT_S
        self.last = None
        if not is_there and is_recent:
            self.stepped_back_to = last.clock
            log.error(
                "%s has lost what was committed last: it was no synchronous standby. What was accepted in its last moments "
                "is gone, and what is queued may have been sent: it is held", self._connector.where,
            )  # fmt: skip

    def drop(self) -> None:
        """Give up the writing connection: something failed on it.

        After a pipeline that failed, the driver may name prepared statements that the server never parsed,
        and every later transaction on that connection would fail.
        """
        connection, self.connection = self.connection, None
        if connection is None or connection.closed:
            return
        with suppress(psycopg.Error):  # what it holds is to be free before the next one begins
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK", prepare=False)
        connection.close()

    def begin(self, connection: psycopg.Connection[TupleRow]) -> None:
        connection.execute(BEGIN)
        if self._connector.bouncer:  # there are no sessions that could have the settings
            connection.execute(self._connector.setting_statement(local=True).encode())

    def undo(self) -> None:
        connection = self.connection
        if connection is not None and not connection.closed:
            with suppress(psycopg.Error):
                connection.execute("ROLLBACK")
                return
            self.drop()

    @staticmethod
    def prepare_commit(connection: psycopg.Connection[TupleRow], transaction: Transaction) -> Evidence:
        """Wake the workers, once for all works, and leave what will tell whether this was committed."""
        mark = _marks.getrandbits(63)
        statement = _MARK_AND_WAKE if transaction.has_new_work else _MARK
        return Evidence(mark, connection.execute(statement, [mark]))

    def commit(self, connection: psycopg.Connection[TupleRow], xid: str, mark: int) -> None:
        failpoint.hit("store.commit")
        try:
            done = connection.execute("COMMIT")
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            connection.close()
            log.warning("the connection was lost during COMMIT: %s", said(error))
            if not self._was_committed(xid, mark):
                raise
        else:
            if done.statusmessage != "COMMIT":
                raise StoreUnavailable(
                    f"the database {self._connector.where} answered COMMIT with {done.statusmessage}"
                )
        self.last = _Last(mark, time.monotonic(), time.time_ns() // 1000, self._connector.server)

    def _was_committed(self, xid: str, mark: int) -> bool:
        """Look what became of a transaction, once it is over. Raises CommitUnknown when nobody can tell."""
        deadline = time.monotonic() + self._find_out_within_s
        reason = "it is still under way"
        while time.monotonic() < deadline:
            try:
                with self._connector.connect() as connection:
                    # While it is under way, its backend has not noticed yet that we are gone.
                    if not _is_under_way(connection, xid):
                        look = "SELECT EXISTS (SELECT 1 FROM commit_mark WHERE mark = %s)"
                        [[committed]] = connection.execute(look, [mark]).fetchall()
                        log.warning("what had no answer %s committed", "was" if committed else "was not")
                        return bool(committed)
            except psycopg.Error as error:
                reason = said(error)
            time.sleep(0.1)
        raise CommitUnknown(
            f"the database {self._connector.where} was lost during COMMIT, and what became of it is not known: {reason}"
        )

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.connection is not None:
            self.connection.close()
