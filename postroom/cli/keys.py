"""`postroom keys`: issues, lists, revokes and rotates API keys; `admin` shows the admin token of `/v1` or makes another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from postroom.cli.actor import actor
from postroom.cli.completion import mailboxes, pool_names
from postroom.cli.issued import print_keys, print_new
from postroom.cli.listing import only_of_account
from postroom.cli.owners import account_named, pool_named
from postroom.cli.values import Cidr, Duration, Expiry, faults_name
from postroom.core.api_key import AS_IN_THE_FILE, Scope, parse_scopes
from postroom.core.text import counted, printable

if TYPE_CHECKING:
    from postroom.accounts.key_management import KeyManagement, KeyWish, NewKey
    from postroom.core.api_key import Network
    from postroom.core.clock import Instant
    from postroom.store.store import Store

_OPTIONS: Final = {
    "name": "--name",
    "scopes": "--scope",
    "expires_at": "--expires",
    "allowed_recipients": "--allow",
    "daily_limit": "--daily-limit",
}
_LONGEST_NAME: Final = 100
_PAGE: Final = 500
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def keys() -> None:
    """API keys, and the admin token.

    \b
    postroom keys add --account ann@gmail.com   a key that sends as Ann, printed this once
    postroom keys list                          all keys, and when each was last used
    postroom keys rotate ID --overlap 24h       another key in its place
    postroom keys revoke ID                     end it at once
    """


@contextmanager
def _management() -> Iterator[tuple[Store, KeyManagement]]:
    from postroom.accounts.key_management import KeyManagement
    from postroom.runtime import installation

    service = installation.open_service(serving=True)
    try:
        yield service.store, KeyManagement(service.store, service.vault)
    finally:
        service.store.close()


@keys.command()
@click.option(
    "--account", metavar="EMAIL|ID", shell_complete=mailboxes, help="It sends through this account."
)
@click.option("--pool", metavar="NAME|ID", shell_complete=pool_names, help="It sends through this pool.")
@click.option("--installation", is_flag=True, help="It acts on all accounts, as its scopes say.")
@click.option("--name", help="Whose it is, or what for: the audit names it. Without it, its owner's name.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What it may do; once for each scope. Without it: send and read.",
)
@click.option("--expires", metavar="30d|TIME", type=Expiry(), help="When it stops working.")
@click.option(
    "--allow", multiple=True, metavar="ADDRESS|*@DOMAIN", help="Whom it may send to; once for each."
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="CIDR",
    type=Cidr(),
    help="Where it works from; once for each.",
)
@click.option("--daily-limit", type=click.IntRange(1, 1_000_000_000), help="Recipients in any 24 hours.")
@click.option("--test", "is_test", is_flag=True, help="Its messages go to the built-in inbox alone.")
@_JSON
def add(
    *,
    account: str | None,
    pool: str | None,
    installation: bool,
    name: str | None,
    scopes: tuple[str, ...],
    expires: Instant | None,
    allow: tuple[str, ...],
    networks: tuple[Network, ...],
    daily_limit: int | None,
    is_test: bool,
    as_json: bool,
) -> None:
    """Issue a key of an account, a pool or the installation, and print it. It is shown this once."""
    from postroom.accounts.key_management import KeyWish

    if (account is not None) + (pool is not None) + installation != 1:
        raise click.UsageError("give one of --account, --pool and --installation")
    wish = KeyWish(
        name=(account or pool or "the installation")[:_LONGEST_NAME] if name is None else name,
        scopes=parse_scopes(scopes) if scopes else AS_IN_THE_FILE,
        is_test=is_test,
        allowed_recipients=allow or None,
        networks=networks or None,
        daily_limit=daily_limit,
        expires_at=expires,
    )
    with _management() as (store, management):
        with faults_name(_OPTIONS):
            new = _issue(store, management, account, pool, wish)
        print_new(store, new, as_json=as_json)


def _issue(
    store: Store, management: KeyManagement, account: str | None, pool: str | None, wish: KeyWish
) -> NewKey:
    if account is not None:
        uid = account_named(store, account).uid
        return management.issue_for_account(uid, wish, actor(), source="cli")
    if pool is not None:
        return management.issue_for_pool(pool_named(store, pool).id, wish, actor(), source="cli")
    return management.issue_for_installation(wish, actor(), source="cli")


@keys.command("list")
@only_of_account
@_JSON
def list_(account: str | None, as_json: bool) -> None:
    """List the issued keys, the newest first: id, last characters, name, owner, scopes, last use (to the hour), expiry.

    Keys of data.csv stand there, and are not listed.
    """
    with _management() as (store, management):
        uid = None if account is None else account_named(store, account).uid
        found = page = management.page(_PAGE, account_uid=uid)
        while len(page) == _PAGE:
            page = management.page(_PAGE, before=page[-1].key.id or 0, account_uid=uid)
            found = found + page
        print_keys(store, found, as_json=as_json)


@keys.command()
@click.argument("id_", metavar="ID")
def revoke(id_: str) -> None:
    """End a key: no request that begins after this succeeds with it."""
    with _management() as (_, management):
        management.revoke(id_.lower(), actor())
    click.echo(printable(f"the key {id_.lower()} is revoked"), err=True)


@keys.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--overlap",
    metavar="24h",
    type=Duration(),
    default=0,
    help="How long the old one works on; else not at all.",
)
@_JSON
def rotate(id_: str, overlap: int, as_json: bool) -> None:
    """Issue a key with the same rights in place of another, and print it. It is shown this once."""
    with _management() as (store, management):
        new = management.rotate(id_.lower(), actor(), overlap)
        print_new(store, new, as_json=as_json)
    seconds = counted(overlap // 1_000_000, "second")
    click.echo(f"the former one {f'works for {seconds} more' if overlap else 'is revoked'}", err=True)


@keys.command()
@click.option("--new", "is_new", is_flag=True, help="Make another token, which ends the one before.")
def admin(is_new: bool) -> None:
    """Print the admin token, or say where it is. Status 1 where this host does not have it."""
    from postroom.accounts.admin_token import find_admin_token, renew_admin_token
    from postroom.core.errors import ConfigError
    from postroom.runtime import installation

    service = installation.open_service(serving=is_new)
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
