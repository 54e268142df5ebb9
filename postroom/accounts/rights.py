"""The one table of rights: route, method, scope and kinds of owner. What is missing from it no key may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from postroom.core.api_key import ApiKey, Scope
from postroom.core.errors import NotPermitted


class Owner(Enum):
    """Whom a key acts for."""

    ACCOUNT = "account"
    POOL = "pool"
    INSTALLATION = "installation"


@dataclass(frozen=True, slots=True)
class Right:
    """What a key needs for a call. Without `needs_key` the call may be made without one; a key narrows it then."""

    method: str
    path: str  # as in OpenAPI: /v1/accounts/{id}
    scope: Scope
    owners: frozenset[Owner]
    needs_key: bool = True
    or_scope: Scope | None = None  # that is enough too

    def check(self, key: ApiKey) -> None:
        """Raise NotPermitted for a key that may not make this call."""
        if self.or_scope is None or not key.has(self.or_scope):
            key.check_scope(self.scope)
        if owner_of(key) not in self.owners:
            raise NotPermitted("this call is not for keys of " + _WHOSE[owner_of(key)], field="key")


_WHOSE: Final = {
    Owner.ACCOUNT: "an account",
    Owner.POOL: "a pool",
    Owner.INSTALLATION: "the installation",
}
_ALL: Final = frozenset(Owner)
_SENDERS: Final = frozenset({Owner.ACCOUNT, Owner.POOL})
_NOT_A_POOL: Final = frozenset({Owner.ACCOUNT, Owner.INSTALLATION})
_INSTALLATION: Final = frozenset({Owner.INSTALLATION})


def _managing(scope: Scope, *calls: str) -> tuple[Right, ...]:
    """Return the rights of calls that keys of the installation make: `POST /v1/keys`."""
    words = (call.split(" ") for call in calls)
    return tuple(Right(method, path, scope, _INSTALLATION) for method, path in words)


RIGHTS: Final = (
    Right("POST", "/send-email", Scope.SEND, _SENDERS),
    Right("GET", "/email-status/{request_id}", Scope.READ, _ALL, needs_key=False),
    Right("GET", "/v1/emails", Scope.READ, _ALL, or_scope=Scope.ACCOUNTS),
    Right("GET", "/v1/stats", Scope.READ, _NOT_A_POOL, or_scope=Scope.ACCOUNTS),
    Right("GET", "/v1/emails/{id}", Scope.READ, _ALL, or_scope=Scope.ACCOUNTS),
    Right("POST", "/v1/emails/{id}/cancel", Scope.MANAGE, _ALL),
    Right("DELETE", "/v1/emails/{id}/content", Scope.MANAGE, _ALL),
    *_managing(
        Scope.ACCOUNTS,
        "POST /v1/accounts",
        "GET /v1/accounts",
        "GET /v1/accounts/{id}",
        "PATCH /v1/accounts/{id}",
        "DELETE /v1/accounts/{id}",
        "POST /v1/accounts/{id}/verify",
        "POST /v1/accounts/{id}/pause",
        "POST /v1/accounts/{id}/resume",
        "GET /v1/accounts/{id}/health",
        "POST /v1/accounts/{id}/health",
        "POST /v1/accounts/{id}/keys",
        "GET /v1/keys",
        "POST /v1/keys",
        "DELETE /v1/keys/{id}",
        "POST /v1/keys/{id}/rotate",
    ),
    *_managing(
        Scope.ADMIN,
        "GET /metrics",
        "POST /v1/accounts/{id}/aliases/verify",
        "GET /v1/audit",
        "POST /v1/erasures",
        "POST /v1/pools",
        "GET /v1/pools",
        "GET /v1/pools/{id}",
        "PATCH /v1/pools/{id}",
        "DELETE /v1/pools/{id}",
        "POST /v1/pools/{id}/keys",
    ),
)
_BY_CALL: Final = {(right.method, right.path): right for right in RIGHTS}


def right_for(method: str, path: str) -> Right:
    """Return the right for a call, by the path of its route. Raises NotPermitted for one that the table lacks."""
    right = _BY_CALL.get(("GET" if method == "HEAD" else method, path))
    if right is None:
        raise NotPermitted("no key may make this call")
    return right


def owner_of(key: ApiKey) -> Owner:
    if key.account_id is not None:
        return Owner.ACCOUNT
    return Owner.INSTALLATION if key.is_of_installation else Owner.POOL


def table() -> list[str]:
    """Return the rights as the rows of a table in Markdown, for the documentation."""
    return [
        f"| `{right.method} {right.path}` | `{right.scope.value}`{_otherwise(right)} "
        f"| {', '.join(owner.value for owner in Owner if owner in right.owners)} |"
        for right in RIGHTS
    ]


def _otherwise(right: Right) -> str:
    if right.or_scope is not None:
        return f" or `{right.or_scope.value}`"
    return "" if right.needs_key else ", or no key"
