"""`postroom migrate` and `migrate-store`: prepare the database, or move its rows from SQLite to PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postroom.core.text import counted, is_text

if TYPE_CHECKING:
    from rich.progress import TaskID


@click.command()
@click.option(
    "--accept-server",
    is_flag=True,
    help="Go on with a server that is not the one that was used last, or a dump that was restored; what is queued is held.",
)
def migrate(accept_server: bool) -> None:
    """Prepare the database, or bring it up to date. Safe to run at any time."""
    from postroom.runtime import installation
    from postroom.runtime.own_files import check_own_files
    from postroom.settings import load_settings
    from postroom.store.store import open_store

    settings = load_settings()
    check_own_files(settings, installation.VAR)
    installation.start_logging(settings)
    store = open_store(settings.database_url, bouncer=settings.database_bouncer)
    applied = store.migrate()
    installation.note_servers(store, settings)
    installation.strike_after_upgrade(store, settings)
    if accept_server:
        held = installation.check_position(store, settings, accept=True)
        click.echo(
            f"this server is the right one from now on; {counted(held, 'message is', 'messages are')} held",
            err=True,
        )
    store.close()
    click.echo("\n".join(f"applied {name}" for name in applied) or "the database is up to date", err=True)


@click.command("migrate-store")
@click.argument("source", metavar="SQLITE")
@click.argument("target", metavar="POSTGRES", required=False)
@click.option("--bouncer", is_flag=True, help="POSTGRES is a pgbouncer in transaction mode.")
@click.option(
    "--cancel", "cancelled", is_flag=True, help="Let SQLITE be served from again; POSTGRES is not given."
)
def migrate_store(source: str, target: str | None, bouncer: bool, cancelled: bool) -> None:
    """Move everything from SQLITE (a file, or sqlite:///FILE) to POSTGRES (postgresql://…), which must be empty.

    Stop Postroom first. Every row is compared afterwards. An interrupted move goes on when it is run again.
    SQLITE is marked as moved: it cannot be served from any more, so that nothing is sent twice.
    """
    from postroom.store import move

    for name, given in ("SQLITE", source), ("POSTGRES", target or ""):
        if not is_text(given):
            raise click.UsageError(f"{name} is not UTF-8 text, and no database can be named otherwise")
    path = Path(source.removeprefix("sqlite:///"))
    if cancelled:
        found = path.is_file() and move.cancel(path)
        click.echo("it can be served from again" if found else "it was not moved", err=True)
        return
    if target is None or not target.startswith(("postgresql://", "postgres://")):
        raise click.UsageError("say where to: postgresql://USER@HOST/DATABASE")
    with _progress_bar() as progress:
        moved = move.move(path, target, bouncer=bouncer, progress=progress)
    for table, rows in moved.rows.items():
        click.echo(f"{table}: {rows}")
    click.echo("moved, and compared row by row; now set DATABASE_URL to the new one", err=True)


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of each step, on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done)

        yield show
