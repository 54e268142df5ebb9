"""`postroom pools`: adds, lists, changes and removes pools: accounts that share the messages of the pool's keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypedDict

import click

from postroom.cli.actor import actor
from postroom.cli.completion import mailboxes, pool_names
from postroom.cli.owners import account_named, pool_named
from postroom.cli.values import Member, faults_name
from postroom.core.clock import rfc3339
from postroom.core.text import counted, printable
from postroom.store.pools import Pools

if TYPE_CHECKING:
    from postroom.accounts.pool_management import PoolManagement
    from postroom.store.pools import Pool
    from postroom.store.store import Store

_MEMBER: Final = "EMAIL|ID[=WEIGHT]"


class _Member(TypedDict):
    """An account of a pool, as `--json` prints it."""

    account: str
    email: str
    weight: int


class _Row(TypedDict):
    """A pool as `--json` prints it."""

    id: str
    name: str
    members: list[_Member]
    created_at: str
    updated_at: str


@click.group()
def pools() -> None:
    """Pools: accounts that share, by their weights, what a key of the pool sends.

    \b
    postroom pools add sales ann@gmail.com bob@gmail.com=2   Bob takes twice as much
    postroom keys add --pool sales                           a key that sends through both
    """


@contextmanager
def _management() -> Iterator[tuple[Store, PoolManagement]]:
    from postroom.accounts.pool_management import PoolManagement
    from postroom.runtime import installation

    service = installation.open_service()
    try:
        yield service.store, PoolManagement(service.store)
    finally:
        service.store.close()


@pools.command()
@click.argument("name")
@click.argument("members", metavar=_MEMBER, type=Member(), nargs=-1, required=True, shell_complete=mailboxes)
def add(name: str, members: tuple[tuple[str, int], ...]) -> None:
    """Add a pool of accounts, and print its id. The weight is a member's share beside the others': 1 without it."""
    with _management() as (store, management):
        weights = _weights(store, members)
        with faults_name({"name": "NAME", "members": _MEMBER}):
            pool = management.create(name, weights, actor())
    click.echo(pool.uid)
    click.echo(printable(f"the pool {pool.name} has {counted(len(pool.members), 'account')}"), err=True)


@pools.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List the pools with their accounts and weights."""
    with _management() as (store, _):
        found = store.read(Pools.all)
    if as_json:
        click.echo(json.dumps([_document(pool) for pool in found]))
    elif not found:
        click.echo("there are no pools; postroom pools add makes one", err=True)
    for pool in () if as_json else found:
        click.echo(printable(f"{pool.uid}  {pool.name}"))
        for member in pool.members:
            click.echo(printable(f"    {member.email}={member.weight}"))


@pools.command("set")
@click.argument("pool", metavar="NAME|ID", shell_complete=pool_names)
@click.argument("members", metavar=f"[{_MEMBER}]...", type=Member(), nargs=-1, shell_complete=mailboxes)
@click.option("--name", help="Its name from now on.")
def set_(pool: str, members: tuple[tuple[str, int], ...], name: str | None) -> None:
    """Give a pool another name, or these members in place of those before."""
    if name is None and not members:
        raise click.UsageError("give the members of the pool, or --name")
    with _management() as (store, management):
        uid = pool_named(store, pool).uid
        weights = _weights(store, members) if members else None
        with faults_name({"name": "--name", "members": _MEMBER}):
            changed = management.change(uid, actor(), name, weights)
    click.echo(printable(f"the pool {changed.name} has {counted(len(changed.members), 'account')}"), err=True)


@pools.command()
@click.argument("pool", metavar="NAME|ID", shell_complete=pool_names)
def remove(pool: str) -> None:
    """Remove a pool: its keys end at once, and its accounts stay."""
    with _management() as (store, management):
        found = pool_named(store, pool)
        management.delete(found.uid, actor())
    click.echo(printable(f"the pool {found.name} is removed, and its keys are revoked"), err=True)


def _weights(store: Store, members: tuple[tuple[str, int], ...]) -> dict[str, int]:
    weights = {account_named(store, given).uid: weight for given, weight in members}
    if len(weights) != len(members):
        raise click.BadParameter(
            "an account is named twice", ctx=click.get_current_context(), param_hint=f"'{_MEMBER}'"
        )
    return weights


def _document(pool: Pool) -> _Row:
    return {
        "id": pool.uid,
        "name": pool.name,
        "members": [
            {"account": member.account_uid, "email": member.email, "weight": member.weight}
            for member in pool.members
        ],
        "created_at": rfc3339(pool.created_at),
        "updated_at": rfc3339(pool.updated_at),
    }
