"""`postroom accounts import` and `export`: takes data.csv in, takes accounts of a file over, writes them to a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postroom.cli.actor import actor
from postroom.core.errors import ConfigError
from postroom.core.text import counted, printable

if TYPE_CHECKING:
    from postroom.accounts.take_over import Difference
    from postroom.store.transaction import Transaction


@click.command("import")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--dry-run", "is_dry", is_flag=True, help="With FILE: say what would change, and change nothing."
)
def import_(file: Path | None, is_dry: bool) -> None:
    """Take data.csv into the database now, or take the accounts of FILE over.

    Without FILE: as a worker does by itself within a second of each change of data.csv.

    With FILE, all in one step: its accounts are managed here from then on (accounts add, set, remove; keys add, revoke),
    and no data.csv counts for them any more. Their keys work as before.
    """
    if file is not None:
        _take_over(file, is_dry=is_dry)
    elif is_dry:
        raise click.UsageError("--dry-run needs a FILE")
    else:
        _take_in()


def _take_in() -> None:
    from postroom.runtime import installation
    from postroom.runtime.accounts_file import read_accounts_file

    service = installation.open_service(serving=True)
    path = service.settings.accounts_csv
    if not path.exists():
        raise ConfigError("POSTROOM_ACCOUNTS_CSV", f"there is no file {path}")
    found = read_accounts_file(service)
    service.store.close()
    if found is None:
        click.echo(printable(f"{path} holds nothing new"), err=True)
    elif any(fault.fatal for fault in found.faults):
        sys.exit(1)


def _take_over(path: Path, *, is_dry: bool) -> None:
    from postroom.accounts.csv_sync import file_at
    from postroom.accounts.take_over import look, take_over
    from postroom.runtime import installation

    service = installation.open_service(serving=True)
    file = file_at(path, needs_keys=False)
    for fault in file.faults:
        where = f" line {fault.line}:" if fault.line else ""
        click.echo(printable(f"{path}{where} {fault.message}"), err=True)
    if file.fatal:
        sys.exit(1)
    if file.refused and not is_dry:  # the key of such a row would stop working
        click.echo("nothing was changed: mend these rows first, or take them out", err=True)
        sys.exit(1)
    if is_dry:
        found = look(service.store, service.vault, file.rows)
    else:
        found = take_over(service.store, service.vault, file.rows, actor(), path.name)
    service.store.close()
    for each in found:
        click.echo(_line(each))
    words = "would be taken over; nothing was changed" if is_dry else "are managed here now"
    click.echo(
        f"{counted(len(found), 'account')} {words if len(found) != 1 else words.replace('are', 'is')}",
        err=True,
    )
    if file.refused:
        sys.exit(1)


def _line(found: Difference) -> str:
    parts = [
        *(f"{name} changes" for name in found.changes),
        counted(found.keys, "key") + " taken over" if found.keys else "",
        counted(found.stopped, "key") + " not in the file: stopped" if found.stopped else "",
        counted(found.revoked, "key") + " revoked before: stays so" if found.revoked else "",
    ]
    return printable(f"{found.kind.value:10}  {found.email}: {', '.join(filter(None, parts)) or 'as it is'}")


def _aliases(ids: Sequence[int], transaction: Transaction) -> dict[int, list[str]]:
    return {each: [alias.email for alias in transaction.aliases.of(each)] for each in ids}


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--with-passwords", is_flag=True, help="Write the passwords too, in clear.")
def export(file: Path | None, with_passwords: bool) -> None:
    """Write the accounts as a CSV file with the columns of data.csv, to a new FILE of mode 0600 or standard output.

    Keys are stored as digests alone, so the column key is empty; passwords are left out unless --with-passwords is given.
    """
    from postroom.accounts.csv_export import csv_of
    from postroom.cli.accounts_named import in_use
    from postroom.core.files import write_new
    from postroom.runtime import installation

    service = installation.open_service()
    chosen = in_use(service.store)
    aliases = service.store.read(partial(_aliases, [each.account.id for each in chosen]))
    text = csv_of(chosen, service.vault if with_passwords else None, aliases)
    service.store.close()
    if file is None:
        click.echo(text, nl=False)
        return
    write_new(file, text.encode())
    click.echo(printable(f"{counted(len(chosen), 'account')} written to {file}"), err=True)
