"""`postroom secret replace`: go on with a new secret key, where the former one is lost."""

from __future__ import annotations

import click

from postroom.core.text import counted


@click.group()
def secret() -> None:
    """The secret key (POSTROOM_SECRET_KEY, or var/secret.key) that passwords and API keys are stored with."""


@secret.command()
def replace() -> None:
    """Go on with another secret key where the former one is lost. Stop Postroom on every host first.

    Passwords and keys are stored anew from data.csv. Messages stay as they are. The password of an account that is
    not in data.csv is lost: its queued messages wait until it has one again. Every issued key is revoked, since nobody
    can recognise one any more: issue others. The admin token stays where the next start finds its file or its setting.
    """
    from postroom.runtime.secret_replacement import replace_secret

    done = replace_secret()
    if done is None:
        click.echo("this is the secret key of the database; nothing was changed", err=True)
        return
    rows = counted(done.accepted, "row of data.csv was", "rows of data.csv were")
    click.echo(f"the secret key was replaced; {rows} stored with it", err=True)
    if done.revoked:
        keys = counted(done.revoked, "issued key was", "issued keys were")
        click.echo(f"{keys} revoked: no issued key can be recognised any more; issue others", err=True)
    for email in done.lost:
        click.echo(
            f"the password of {email} is lost: give it again, in data.csv or as it was given before", err=True
        )
