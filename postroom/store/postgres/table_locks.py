"""Takes all tables for a migration, without a deadlock with processes of the version before that go on meanwhile."""

from __future__ import annotations

import random
import time
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from postroom.store.postgres.errors import AGAIN, HELD_UP

_WITHIN_S: Final = 60.0
_PAUSE_S: Final = 0.1
_AT_MOST = (
    "SET LOCAL lock_timeout = '100ms'"  # far shorter than the time after which the server looks for deadlocks
)
_ANY_TIME = "SET LOCAL lock_timeout = 0"
_TAKE_ALL = """
DO $$
DECLARE tables text;
BEGIN
    SELECT string_agg(oid::regclass::text, ', ' ORDER BY relname) INTO tables
    FROM pg_class JOIN (SELECT relnamespace, relowner FROM pg_class WHERE oid = to_regclass('schema_migration')) AS ours
        USING (relnamespace, relowner)
    WHERE relkind = 'r';
    EXECUTE 'LOCK TABLE ' || tables || ' IN ACCESS EXCLUSIVE MODE';
END $$
"""


def take_all_tables(connection: psycopg.Connection[TupleRow]) -> None:
    """Lock every table of ours inside the transaction that is open.

    Statements of a migration lock one table after the other, in an order that is not that of an acceptance: each would
    wait for what the other has. So all are taken before anything is changed, and where one cannot be had at once, all
    are given back for a moment. Raises LockNotAvailable where somebody keeps one for a minute.
    """
    deadline = time.monotonic() + _WITHIN_S
    while True:
        try:
            with connection.transaction():  # a savepoint: what it has locked goes with it
                connection.execute(_AT_MOST)
                connection.execute(_TAKE_ALL)
        except (*AGAIN, *HELD_UP):
            if time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311  # not a secret
        else:
            connection.execute(_ANY_TIME)
            return
