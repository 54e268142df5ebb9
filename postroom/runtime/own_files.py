"""Lists the files of an installation, so that no log or backup is written over one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from postroom.core.env_file import NAME as DOT_ENV
from postroom.core.errors import ConfigError
from postroom.settings import Settings, secret_files, variables
from postroom.store import position
from postroom.store.store import sqlite_path

VAR = Path("var")  # in the installation's folder
_FOLDERS = ("workers", "inbox", "metrics")
_LOCKS = ("email_log.lock", "log.lock", "notices.lock")
_OF_DATABASE = ("", "-wal", "-shm", "-lock", "-journal", "-restoring", "-rescued")


def check_own_files(settings: Settings, var: Path) -> None:
    """Raise ConfigError where a setting names another file of the installation, such as the database as the log."""
    database = sqlite_path(settings.database_url)
    named = {"email_log": settings.email_log, "accounts_csv": settings.accounts_csv, "database_url": database}
    for setting, path in named.items():
        if path is None:
            continue
        owner = owner_of(path, settings, var, but=setting)
        folder = next((var / name for name in _FOLDERS if is_inside(path, var / name)), None)
        if owner or folder:
            is_what = f"is {owner}" if owner else f"is in {folder}, which is Postroom's own"
            raise ConfigError(variables(setting)[0], f"{path} {is_what}; name another file")


def owner_of(path: Path, settings: Settings, var: Path, *, but: str | None = None) -> str | None:
    """Return which file of the installation this is, by whatever name, except the files of the setting `but`."""
    return next(
        (what for whose, what, own in _own(settings, var) if whose != but and _is_same(path, own)), None
    )


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file is, or would be, in a folder or one below it."""
    try:
        return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents
    except (OSError, ValueError):  # such as a zero octet; the error says more where the file is opened
        return False


def _own(settings: Settings, var: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield each file of the installation: the setting that names it, what it is, where it is."""
    yield "", "the file of settings", Path(DOT_ENV)
    yield "accounts_csv", "the file of POSTROOM_ACCOUNTS_CSV", settings.accounts_csv
    yield "email_log", "the file of POSTROOM_EMAIL_LOG", settings.email_log
    if (database := sqlite_path(settings.database_url)) is not None:
        real = Path(os.path.realpath(database))
        yield "database_url", "the database", database
        for end in _OF_DATABASE:
            yield "database_url", f"the database's {end} file", real.with_name(real.name + end)
    yield "", "the file of the secret key", var / "secret.key"
    yield "", "the file of the admin token", var / "admin.token"
    yield "", "Postroom's own", var / position.FILE
    for lock in _LOCKS:
        yield "", "Postroom's own", var / lock
    if settings.smtp_ca_file is not None:
        yield "", "the file of POSTROOM_SMTP_CA_FILE", settings.smtp_ca_file
    for variable, file in secret_files().items():
        yield "", f"the file of {variable}", file


def _is_same(path: Path, own: Path) -> bool:
    try:
        if path.exists() and own.exists():
            return path.samefile(own)
        return os.path.realpath(path) == os.path.realpath(own)
    except (OSError, ValueError):
        return False
