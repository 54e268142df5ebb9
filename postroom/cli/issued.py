"""Shows issued keys as `postroom keys` prints them: JSON documents and lines; the key itself once, when it is new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import click

from postroom.core.clock import rfc3339
from postroom.core.text import printable
from postroom.store.accounts import Accounts
from postroom.store.pools import Pools

if TYPE_CHECKING:
    from postroom.accounts.key_management import NewKey
    from postroom.core.api_key import ApiKey
    from postroom.core.clock import Instant
    from postroom.store.issued_keys import IssuedKey
    from postroom.store.store import Store
    from postroom.store.transaction import Transaction


class KeyDocument(TypedDict):
    """A key as `--json` prints it, never its text."""

    id: str | None
    name: str
    owner: str
    account: str | None
    pool: str | None
    scopes: list[str]
    test: bool
    allowed_recipients: list[str] | None
    networks: list[str] | None
    daily_limit: int | None
    hint: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class _Owner(TypedDict):
    """Whose key it is: a kind, an id in the API, and the words for a person."""

    kind: str
    id: str | None
    name: str


_Owners: TypeAlias = Mapping[tuple[int | None, int | None], _Owner]


def print_new(store: Store, new: NewKey, *, as_json: bool) -> None:
    """Print a key that was just issued: alone on standard output, or as a document."""
    owners = store.read(_owners, [new.issued])
    document = _document(new.issued, owners)
    if as_json:
        click.echo(json.dumps({**document, "key": new.text}))
        return
    click.echo(new.text)
    key = new.issued.key
    words = f"{key.name}, {_owner(key, owners)['name']}: this is shown once; postroom keys revoke {key.uid}"
    click.echo(printable(f"the key of {words} ends it"), err=True)


def print_keys(store: Store, keys: list[IssuedKey], *, as_json: bool) -> None:
    """Print keys, one in two lines, or as a list of documents."""
    owners = store.read(_owners, keys)
    if as_json:
        click.echo(json.dumps([_document(issued, owners) for issued in keys]))
    elif not keys:
        click.echo("there are no issued keys; postroom keys add makes one", err=True)
    for issued in () if as_json else keys:
        click.echo(_lines(issued, owners))


def _owners(transaction: Transaction, keys: list[IssuedKey]) -> _Owners:
    found: dict[tuple[int | None, int | None], _Owner] = {}
    for account_id in {each.key.account_id for each in keys}:
        stored = None if account_id is None else Accounts(transaction).get(account_id)
        if stored is not None:
            account = stored.account
            found[account_id, None] = {"kind": "account", "id": account.uid, "name": account.email}
    if any(each.key.pool_id is not None for each in keys):
        for pool in Pools(transaction).all():
            found[None, pool.id] = {"kind": "pool", "id": pool.uid, "name": f"pool {pool.name}"}
    return found


def _owner(key: ApiKey, owners: _Owners) -> _Owner:
    installation: _Owner = {"kind": "installation", "id": None, "name": "the installation"}
    return owners.get((key.account_id, key.pool_id), installation)


def _document(issued: IssuedKey, owners: _Owners) -> KeyDocument:
    key = issued.key
    owner = _owner(key, owners)
    return {
        "id": key.uid,
        "name": key.name,
        "owner": owner["kind"],
        "account": owner["id"] if owner["kind"] == "account" else None,
        "pool": owner["id"] if owner["kind"] == "pool" else None,
        "scopes": sorted(scope.value for scope in key.scopes),
        "test": key.is_test,
        "allowed_recipients": None if key.allowed_recipients is None else list(key.allowed_recipients),
        "networks": None if key.networks is None else [str(network) for network in key.networks],
        "daily_limit": key.daily_limit,
        "hint": issued.hint,
        "created_at": rfc3339(issued.created_at),
        "expires_at": None if key.expires_at is None else rfc3339(key.expires_at),
        "last_used_at": None if issued.last_used_at is None else rfc3339(issued.last_used_at),
    }


def _lines(issued: IssuedKey, owners: _Owners) -> str:
    key = issued.key
    parts = [
        _owner(key, owners)["name"],
        " ".join(sorted(scope.value for scope in key.scopes)),
        "test" if key.is_test else "",
        f"{key.daily_limit} recipients in 24 h" if key.daily_limit else "",
        f"to {', '.join(key.allowed_recipients)}" if key.allowed_recipients else "",
        f"from {', '.join(map(str, key.networks))}" if key.networks else "",
        f"used {_shown(issued.last_used_at)}" if issued.last_used_at else "never used",
        f"expires {_shown(key.expires_at)}" if key.expires_at else "",
    ]
    below = printable("; ".join(part for part in parts if part))
    return f"{key.uid}  ...{issued.hint}  {printable(key.name)}\n    {below}"


def _shown(at: Instant) -> str:
    return f"{rfc3339(at)[:19]}Z"
