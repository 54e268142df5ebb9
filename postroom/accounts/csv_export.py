"""Writes accounts as a CSV file with the columns of data.csv: keys never, passwords where a vault is given."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from postroom.accounts.account_values import Value, values_of
from postroom.accounts.csv_row import COLUMNS, MANAGED
from postroom.accounts.csv_sync import unlock
from postroom.accounts.vault import Vault
from postroom.store.accounts import StoredAccount


def csv_of(
    accounts: Iterable[StoredAccount], vault: Vault | None, aliases: Mapping[int, Sequence[str]]
) -> str:
    """Return the accounts as the text of a CSV file; with their passwords where `vault` opens them.

    `aliases` are those of each account.

    Raises UndecryptableSecret.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, (*COLUMNS, *MANAGED), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for stored in accounts:
        cells = {name: _cell(value) for name, value in values_of(stored.account).items()}
        password = unlock(stored, vault).password.reveal() if vault else ""
        cells["aliases"] = " ".join(aliases.get(stored.account.id, ()))
        writer.writerow({**cells, "key": "", "app_password": password})
    return text.getvalue()


def _cell(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
