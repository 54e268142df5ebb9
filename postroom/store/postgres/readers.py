"""The pool of connections for reading: opened at the first need, checked before use, given up after a failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, cast

import psycopg
from aiosql.queries import Queries
from psycopg_pool import ConnectionPool

from postroom.store.postgres.connect import BEGIN, CONNECT_WITHIN_S, Connector
from postroom.store.postgres.connection import Connection
from postroom.store.postgres.errors import may_be_the_session, state_of, translated
from postroom.store.postgres.session import Session
from postroom.store.transaction import Transaction
from postroom.store.watermarks import Watermarks

_READERS = 4
_BORROW_WITHIN_S = 2.0
_CHECK_AFTER_S = 1.0


class Readers:
    """Connections that only read, shared by the threads of a process."""

    def __init__(self, connector: Connector, queries: Queries) -> None:
        self._connector = connector
        self._queries = queries
        self._suspect_since = 0.0  # when a connection was last found to be lost
        self._pool: ConnectionPool[Connection] | None = None
        self._pool_mutex = threading.Lock()

    def suspect(self) -> None:
        """Check every connection of the pool before it is used again: another one was found to be lost."""
        self._suspect_since = time.monotonic()

    def _open_pool(self) -> ConnectionPool[Connection]:
        """Open the readers' pool at the first need: by then it is known whether a bouncer is in between."""
        with self._pool_mutex:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._connector.conninfo,
                    connection_class=self._reader_class(),
                    min_size=0,
                    max_size=_READERS,
                    timeout=_BORROW_WITHIN_S,
                    reconnect_timeout=_BORROW_WITHIN_S,
                    check=self._check,
                    configure=self._configure_reader,
                    open=True,
                    name="postroom",
                )
            return self._pool

    def _reader_class(self) -> type[Connection]:
        connector = self._connector

        class Reader(Connection):
            @classmethod
            def connect(cls, conninfo: str = "", **_: object) -> Self:
                return cast("Self", connector.connect())

        return Reader

    def _configure_reader(self, connection: Connection) -> None:
        if self._connector.bouncer:
            return
        try:
            connection.execute("SET default_transaction_read_only = on")
        except psycopg.Error:
            connection.close()  # the pool does not
            raise

    def _check(self, connection: Connection) -> None:
        """Look whether a connection of the pool is still there, unless it was so a moment ago."""
        now = time.monotonic()
        seen = connection.seen_at
        if now - seen > _CHECK_AFTER_S or seen < self._suspect_since:
            with connection.answering_within(CONNECT_WITHIN_S):
                ConnectionPool.check_connection(connection)
            connection.seen_at = now

    @contextmanager
    def reading(self, watermarks: Watermarks | None) -> Iterator[Transaction]:
        """Lend a connection of the pool. One on which anything failed is not used again.

        Raises SessionInDoubt where a new session may do what this one could not: then all older ones are given up.
        """
        with translated(self._connector.where):
            try:
                with self._open_pool().connection() as connection:
                    try:
                        if self._connector.bouncer:  # the pool ends what is begun here
                            settings = self._connector.setting_statement(local=True)
                            connection.execute(f"{BEGIN} READ ONLY; {settings}".encode())
                        yield Transaction(
                            Session(connection, self._queries), self._queries, watermarks=watermarks
                        )
                    except psycopg.Error:
                        connection.close()
                        raise
            except psycopg.Error as error:
                self.suspect()  # the other readers' connections may be lost too
                if state_of(error) and may_be_the_session(error):
                    self._open_pool().drain()  # what has made one session fail may have made the others
                raise

    def close(self) -> None:
        """Close the pool, if it was ever opened."""
        if self._pool is not None:
            self._pool.close()
