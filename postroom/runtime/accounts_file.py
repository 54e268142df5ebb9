"""data.csv at the start of `serve`: writes the first one, with a demo key for the built-in inbox, and reads it."""

from __future__ import annotations

import secrets

from postroom.accounts.csv import demo_csv
from postroom.accounts.csv_sync import AccountsFile, SyncReport, has_been_read, report
from postroom.core.errors import ConfigError
from postroom.core.files import MAY_PASS, reason_of
from postroom.runtime.installation import Service
from postroom.store.accounts import Accounts


def read_accounts_file(service: Service) -> SyncReport | None:
    """Bring the accounts in line with data.csv, and log its faults, new or not."""
    file = AccountsFile(service.store, service.vault, service.settings.accounts_csv)
    found = file.sync() or file.review()
    report(found)
    return found


def write_demo_accounts(service: Service) -> str | None:
    """Write a first data.csv with a key for the built-in inbox; return the key.

    None where there is a file, or was one: a new one in its place would end all keys. None too where there are accounts
    without one. Raises ConfigError.
    """
    path = service.settings.accounts_csv
    if has_been_read(service.store) or service.store.read(Accounts.page, 1):
        return None
    if not path.parent.exists():
        raise ConfigError(
            "POSTROOM_ACCOUNTS_CSV",
            f"there is no folder {path.parent.absolute()}; make it, or name another file",
        )
    key = secrets.token_urlsafe(24)
    try:
        with path.open("x", encoding="utf-8") as file:
            path.chmod(0o600)
            file.write(demo_csv(key))
    except FileExistsError:
        return None
    except OSError as error:
        if error.errno in MAY_PASS:
            raise
        raise ConfigError(
            "POSTROOM_ACCOUNTS_CSV", f"cannot write {path}: {reason_of(error)}; name another file"
        ) from error
    return key
