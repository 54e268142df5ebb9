"""`postroom audit`: who changed which account, key or pool, when and from where; and who was refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from postroom.core.clock import rfc3339
from postroom.core.text import printable
from postroom.store.audit import Audit

if TYPE_CHECKING:
    from postroom.core.audit import AuditEntry


@click.command()
@click.option(
    "--most",
    metavar="N",
    default=50,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="How many entries.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each.")
def audit(most: int, as_json: bool) -> None:
    """Show who changed accounts, keys and pools, the newest first: time, actor, source, action, target, detail."""
    from postroom.runtime import installation

    service = installation.open_service()
    try:
        entries = service.store.read(Audit.page, most)
    finally:
        service.store.close()
    for entry in entries:
        click.echo(json.dumps(_document(entry)) if as_json else _lines(entry))
    if not entries and not as_json:
        click.echo("the audit has no entry", err=True)


def _document(entry: AuditEntry) -> dict[str, object]:
    return {
        "id": str(entry.id),
        "at": rfc3339(entry.at),
        "actor": entry.actor,
        "source": entry.source,
        "action": entry.action,
        "target": entry.target,
        "detail": None if entry.detail is None else json.loads(entry.detail),
        "refused": bool(entry.refused),
    }


def _lines(entry: AuditEntry) -> str:
    refused = "REFUSED " if entry.refused else ""
    head = f"{rfc3339(entry.at)}  {refused}{entry.action} {entry.target or ''}".rstrip()
    below = f"    {entry.actor} from {entry.source}"
    return printable(head) + "\n" + printable(f"{below}: {entry.detail}" if entry.detail else below)
