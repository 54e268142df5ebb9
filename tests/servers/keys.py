"""Keys and pools of an installation that runs, made as the API and the command line make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from postroom.accounts.digest_key import adopt_digest_key
from postroom.accounts.key_management import KeyManagement, KeyWish
from postroom.accounts.vault import Vault
from postroom.core.audit import Actor
from postroom.core.clock import system_clock
from postroom.settings import load_settings
from postroom.store.accounts import Accounts
from postroom.store.pools import Pool, Pools
from postroom.store.store import Store, open_store
from tests.servers.waiting import eventually

if TYPE_CHECKING:
    from tests.servers.installation import Installation

_WE = Actor("user tests", "here")


@contextmanager
def opened(service: Installation) -> Iterator[Store]:
    """The service's database."""
    default = f"sqlite:///{service.folder / 'var/postroom.db'}"
    with closing(open_store(service.environment.get("DATABASE_URL", default), create=False)) as store:
        yield store


def issue_key(service: Installation, mailbox: str, *, is_test: bool = False) -> str:
    """Issue a key of an account."""
    with opened(service) as store:
        wish = KeyWish("tests", is_test=is_test)
        issued = _management(service, store).issue_for_account(_uids(store)[mailbox], wish, _WE)
    return _known(service, issued.text)


def make_pool(service: Installation, weights: Mapping[str, int]) -> Pool:
    """Make a pool of accounts, by their mailboxes."""
    with opened(service) as store:
        ids = {stored.account.email: stored.account.id for stored in store.read(Accounts.all)}
        members = {ids[mailbox]: weight for mailbox, weight in weights.items()}
        return store.write(Pools.create, "a pool", members, system_clock())


def issue_pool_key(service: Installation, pool: Pool, *, is_test: bool = False) -> str:
    """Issue a key of a pool."""
    with opened(service) as store:
        wish = KeyWish("tests", is_test=is_test)
        issued = _management(service, store).issue_for_pool(pool.id, wish, _WE)
    return _known(service, issued.text)


def _known(service: Installation, key: str) -> str:
    """Return the key once the web process has read it."""
    headers = {"Authorization": f"Bearer {key}"}
    eventually(
        lambda: service.client.call("GET", "/email-status/none", headers=headers).status == 404,
        message="the key to be known",
    )
    return key


def _management(service: Installation, store: Store) -> KeyManagement:
    vault = Vault.open(load_settings(), service.folder / "var", create=False)
    adopt_digest_key(store, vault, create=False)
    return KeyManagement(store, vault)


def _uids(store: Store) -> dict[str, str]:
    return {stored.account.email: stored.account.uid for stored in store.read(Accounts.all)}
