"""The audit as values: who does something (`Actor`), and an entry of what was done or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from postroom.core.api_key import OF_THE_INSTALLATION, Scope
from postroom.core.clock import Instant


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something: a key by its name, or a user of this machine; and from where."""

    name: str  # `key NAME`, `admin token`, `user NAME`
    source: str  # the client's address, or the name of this machine
    scopes: frozenset[Scope] = OF_THE_INSTALLATION

    @property
    def is_admin(self) -> bool:
        return Scope.ADMIN in self.scopes


class AuditEntry(NamedTuple):
    """What somebody changed, or was refused. `detail` is JSON; no secret is ever in it."""

    id: int
    at: Instant
    actor: str
    source: str
    action: str
    target: str | None
    detail: str | None
    refused: int
