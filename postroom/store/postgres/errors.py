"""Classifies PostgreSQL's errors: temporary or permanent, and the session's fault or the statement's.

They are told apart by SQLSTATE only: servers translate their messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

from postroom.core.errors import SessionInDoubt, StoreDamaged, StoreError, StoreUnavailable

AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
# Somebody holds what one work needs.
HELD_UP = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)
DAMAGED = (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted)
NOT_NOW = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,  # a standby that has not been promoted
    PoolTimeout,
    PoolClosed,
)
# The data of one work: data exception, integrity constraint, program limit exceeded.
_OF_THE_WORK = ("22", "23", "54")
# The server's resources, its disk, or another transaction: a new session would meet the same.
_OF_THE_SERVER = ("53", "58", "40")


def said(error: Exception) -> str:
    """Return the first line of an error."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def state_of(error: Exception) -> str:
    """Return the SQLSTATE, or an empty text where libpq has made the error."""
    return getattr(error, "sqlstate", None) or ""


def may_be_the_session(error: Exception) -> bool:
    """Whether a new session might do what this one could not: its prepared statements, its cached plans, its settings."""
    if not isinstance(error, psycopg.Error) or isinstance(error, (*AGAIN, *HELD_UP, *DAMAGED)):
        return False
    return not state_of(error).startswith((*_OF_THE_WORK, *_OF_THE_SERVER))


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except DAMAGED as error:
        raise StoreDamaged(f"the database {where} is damaged: {said(error)}") from error
    except (*NOT_NOW, psycopg.errors.InsufficientPrivilege) as error:  # the operator may grant it again
        raise StoreUnavailable(f"the database {where} cannot be used just now: {said(error)}") from error
    except psycopg.Error as error:
        if may_be_the_session(error):
            raise SessionInDoubt(f"the database {where}: {said(error)}") from error
        raise StoreError(f"the database {where}: {said(error)}") from error
