"""The exit status of a command, by the error that ended it, and the line that says why it failed."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from postroom.core.errors import (
    ConfigError,
    PlaceTaken,
    PostroomError,
    QuotaExceeded,
    SchemaMismatch,
    StoreDamaged,
    StoreUnavailable,
    TokenUnavailable,
)
from postroom.core.files import MAY_PASS, NotPlain, reason_of
from postroom.core.text import printable_lines

EX_USAGE, EX_INTERRUPTED = 2, 130  # as shells and click have them
EX_SOFTWARE, EX_IOERR, EX_TEMPFAIL, EX_CONFIG = 70, 74, 75, 78  # sysexits.h


def status_of(error: PostroomError | ConfigError) -> int:
    """Return the exit status of a command that this error ends."""
    if isinstance(error, (ConfigError, SchemaMismatch, StoreDamaged)):
        return EX_CONFIG
    return (
        EX_TEMPFAIL
        if isinstance(error, (StoreUnavailable, PlaceTaken, QuotaExceeded, TokenUnavailable))
        else 1
    )


def words_of(error: OSError) -> tuple[str, int]:
    """Return the words for an error of the operating system, and the exit status."""
    if isinstance(error, PermissionError):
        said = reason_of(error)
        return (
            f"{error.filename}: {said[0].lower()}{said[1:]}; run this as the user whose installation it is",
            EX_CONFIG,
        )
    where = f"{error.filename}: " if error.filename else ""
    if isinstance(error, NotPlain):
        return f"{where}{error.strerror}", EX_CONFIG
    return f"{where}{error.strerror or error}", EX_TEMPFAIL if error.errno in MAY_PASS else 1


def fail(message: str, status: int) -> NoReturn:
    """Print why the command failed, on standard error, and exit."""
    click.echo(printable_lines(f"postroom: {message}"), err=True)
    sys.exit(status)
