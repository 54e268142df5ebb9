"""`postroom backup` and `postroom restore`: save an installation in one file, and put one back."""

from __future__ import annotations

from pathlib import Path

import click

from postroom.core.clock import system_clock
from postroom.core.text import counted, printable


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE though it is no backup.")
def backup(file: Path, *, overwrite: bool) -> None:
    """Save the database, the secret key, data.csv and .env in FILE, while the service runs or not.

    FILE is a tar archive that only you can read; a backup that is there is replaced once the new one is whole, any other
    file is not. It holds passwords in clear. With PostgreSQL the database is not in it: use pg_dump.
    """
    from postroom.runtime import installation
    from postroom.runtime.backup import save

    service = installation.open_service()
    try:
        saved = save(
            service.store, service.settings, installation.VAR, file, system_clock, overwrite=overwrite
        )
        if service.store.is_remote:
            click.echo(
                "the database is on PostgreSQL and is not in this backup: save it with pg_dump, after this",
                err=True,
            )
    finally:
        service.store.close()
    for name, size in saved.files.items():
        click.echo(f"{name}: {size} bytes")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def restore(file: Path) -> None:
    """Put the backup FILE in place of what is in this folder, which is kept under other names. Stop Postroom first.

    Nothing that was queued when the backup was made is sent by itself, since most of it has gone out since: it is held
    and flagged. `postroom release --held` sends it, `postroom cancel --held` gives it up.
    """
    from postroom.runtime import installation
    from postroom.runtime.backup import DATABASE, BackupError, restore
    from postroom.worker import liveness

    if liveness.running_in(installation.VAR / "workers"):  # with PostgreSQL too
        raise BackupError("a worker runs here: stop Postroom first")
    done = restore(file, installation.VAR, system_clock)
    if done.wrote_settings:
        click.echo(".env was written", err=True)
    click.echo(f"restored {', '.join(done.files)}, as of {done.made_at}")
    for path in done.kept:
        click.echo(printable(f"what was here before is {path}"), err=True)
    if DATABASE not in done.files:
        click.echo(
            "the database is not in this backup: use pg_restore, then `postroom migrate --accept-server`",
            err=True,
        )
    elif done.held:
        click.echo(
            f"{counted(done.held, 'message is', 'messages are')} held, and may have been sent: "
            "`postroom release --held` sends what is held, `postroom cancel --held` gives it up"
        )
