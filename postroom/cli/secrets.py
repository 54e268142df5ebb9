"""`postroom secrets`: seal what is stored by a new secret key (`rotate`), or go on where the former is lost (`replace`)."""

from __future__ import annotations

import json
import sys

import click

from postroom.core.text import counted


@click.group()
def secrets() -> None:
    """The secret key (POSTROOM_SECRET_KEY, or var/secret.key) that passwords and API keys are stored with."""


@secrets.command()
@click.option(
    "--status", "is_status", is_flag=True, help="Change nothing; count what still needs the former key."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rotate(is_status: bool, as_json: bool) -> None:
    """Seal every stored secret by the new secret key, while the service runs.

    Set POSTROOM_SECRET_KEY, or the text of var/secret.key, to NEW,FORMER on every host and restart, then run this. If it
    is killed, run it again. When nothing needs the former key any more the status is 0: take it away, and restart.

    \b
    Prints what still needs a former key, one kind a line. Status 1 where anything does.
    """
    from postroom.runtime import secret_rotation

    done = None
    if is_status:
        left = secret_rotation.status()
    else:
        done, left = secret_rotation.rotate()
    if as_json:
        click.echo(json.dumps({"needs_former": left, **({} if done is None else {"rotated": done})}))
    else:
        _print(done, left)
    sys.exit(1 if any(left.values()) else 0)


def _print(done: int | None, left: dict[str, int]) -> None:
    for kind, number in left.items():
        click.echo(f"{number:>7}  {kind}")
    if done is not None:
        click.echo(
            f"{counted(done, 'stored secret was', 'stored secrets were')} sealed by the new key", err=True
        )
    if not any(left.values()):
        click.echo("nothing needs a former secret key", err=True)
    elif done is None:
        click.echo("these need a former secret key: postroom secrets rotate", err=True)
    else:
        click.echo(
            "these are left: their key is not given, or they were altered or changed meanwhile. Repeat this with the former "
            "key behind a comma, or give them again; keys of data.csv go over when they are used",
            err=True,
        )


@secrets.command()
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


@click.group(hidden=True)
def secret() -> None:
    """The former name of `postroom secrets`."""


secret.add_command(replace)
