"""`postroom keys`: shows the admin token of `/v1` on the host that has it, or makes another one."""

from __future__ import annotations

import sys

import click

from postroom.core.text import printable


@click.group()
def keys() -> None:
    """The keys of the admin API."""


@keys.command()
@click.option("--new", "is_new", is_flag=True, help="Make another token, which ends the one before.")
def admin(is_new: bool) -> None:
    """Print the admin token, or say where it is. Status 1 where this host does not have it."""
    from postroom.accounts.admin_token import find_admin_token, renew_admin_token
    from postroom.core.errors import ConfigError
    from postroom.runtime import installation

    service = installation.open_service()
    try:
        if is_new:
            if service.settings.admin_token is not None:
                raise ConfigError("POSTROOM_ADMIN_TOKEN", "it is set: give it another value, and restart")
            renew_admin_token(service.store, service.vault, installation.VAR)
        found = find_admin_token(service.store, service.vault, service.settings, installation.VAR)
    finally:
        service.store.close()
    if found.token is None:
        click.echo(printable(f"the admin token is not here, but in {found.place}"), err=True)
        sys.exit(1)
    click.echo(found.token.reveal())
