"""API keys as values: scopes, owner, and what a key may do: to whom, from where, until when. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple, TypeAlias

from postroom.core.clock import Instant
from postroom.core.errors import InvalidSubmission, NotPermitted

Network: TypeAlias = IPv4Network | IPv6Network
LIVE, TEST = "pr_live_", "pr_test_"  # how an issued key begins


class Scope(Enum):
    """What a key may do. Those of an account or a pool act for their owner alone."""

    SEND = "send"  # post and cancel messages
    READ = "read"  # its messages, statistics, templates
    MANAGE = "manage"  # its owner's templates, webhooks, suppressions
    ACCOUNTS = "accounts"  # all accounts, pools and keys; only of the installation
    ADMIN = "admin"  # everything; only of the installation


OF_AN_OWNER = frozenset({Scope.SEND, Scope.READ, Scope.MANAGE})
AS_IN_THE_FILE = frozenset({Scope.SEND, Scope.READ})  # of a key in data.csv, and of an issued one by default
OF_THE_INSTALLATION = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A working key. `id` is None for one of data.csv. Without account and pool it is the installation's."""

    digest: bytes = field(repr=False)
    id: int | None = None
    uid: str | None = None
    name: str = ""
    account_id: int | None = None
    pool_id: int | None = None
    scopes: frozenset[Scope] = AS_IN_THE_FILE
    is_test: bool = False
    allowed_recipients: tuple[str, ...] | None = None
    networks: tuple[Network, ...] | None = None
    daily_limit: int | None = None  # recipients in a rolling 24 h
    expires_at: Instant | None = None
    file_id: int | None = None  # the row of a key of data.csv
    # Of a key of data.csv that is stored by the secret key's digest alone: the one by the installation's own key.
    own_digest: bytes | None = field(default=None, repr=False)

    @property
    def is_of_installation(self) -> bool:
        return self.account_id is None and self.pool_id is None

    def has(self, scope: Scope) -> bool:
        """Whether the key has the scope; `admin` has them all, `accounts` acts on all accounts."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def check_source(self, address: str) -> None:
        """Raise NotPermitted for a request from outside of the key's networks."""
        if self.networks is None:
            return
        try:
            found = ip_address(address)
        except ValueError:
            found = None
        if found is None or not any(found in network for network in self.networks):
            raise NotPermitted("this key may not be used from this address", field="key")

    def check_scope(self, scope: Scope) -> None:
        """Raise NotPermitted for a key without the scope."""
        if not self.has(scope):
            raise NotPermitted(f"this key lacks the scope `{scope.value}`", field="key")

    def check_recipients(self, paths: tuple[str, ...]) -> None:
        """Raise NotPermitted, naming the first recipient that the key may not send to."""
        if self.allowed_recipients is None:
            return
        for path in paths:
            if not any(_matches(path.lower(), allowed) for allowed in self.allowed_recipients):
                raise NotPermitted(f"this key may not send to {path}", field="recipient")


def _matches(path: str, allowed: str) -> bool:
    """Whether a mailbox is an allowed one, or in the domain of `*@domain`."""
    if allowed.startswith("*@"):
        return path.rpartition("@")[2] == allowed[2:]
    return path == allowed


class Sight(NamedTuple):
    """Which messages a key may read: those of an account, those that were accepted with an issued key; None: of any."""

    account_id: int | None = None
    key_id: int | None = None


ALL_MESSAGES: Final = Sight()


def sight_of(key: ApiKey) -> Sight:
    """Return what a key may read.

    A pool's key sees what was sent with it, and nothing else of the pool's members; a key of the installation sees
    everything.
    """
    if key.pool_id is not None:
        return Sight(key_id=key.id or 0)
    return Sight(account_id=key.account_id)


def parse_scopes(words: list[str] | tuple[str, ...]) -> frozenset[Scope]:
    """Return scopes by their names. Raises InvalidSubmission naming `scopes`."""
    known = {scope.value: scope for scope in Scope}
    for word in words:
        if word not in known:
            raise InvalidSubmission(
                f"there is no scope {word!r}; there are {', '.join(known)}", field="scopes"
            )
    return frozenset(known[word] for word in words)


def parse_networks(texts: list[str] | tuple[str, ...]) -> tuple[Network, ...]:
    """Return networks in CIDR notation. Raises InvalidSubmission naming `networks`."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError:
            raise InvalidSubmission(
                f"{text!r} is no network; write it like 192.0.2.0/24 or 2001:db8::/32, without bits behind the prefix",
                field="networks",
            ) from None
    return tuple(found)
