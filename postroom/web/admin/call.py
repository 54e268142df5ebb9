"""A call of the admin API as a value, and the request to it: its id, its key, and a store that requires a working key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from postroom.accounts.key_management import KeyManagement
from postroom.accounts.keys import Principal
from postroom.accounts.management import AccountManagement
from postroom.core.audit import Actor
from postroom.store.keyed import KeyedStore
from postroom.store.store import Store
from postroom.web.services import Services


class RequestModel(BaseModel):
    """What a call takes: the fields of its body, or of its query."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class AnswerModel(BaseModel):
    """What a call answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(RequestModel):
    """No fields."""


M = TypeVar("M", bound=RequestModel)


@dataclass(frozen=True)
class AdminRequest:
    """One request: whose it is, and what its address names."""

    shared: Services
    principal: Principal
    actor: Actor
    id: str  # of the address; empty where it names none

    @cached_property
    def store(self) -> Store:
        """The store, which refuses as soon as the key has stopped working."""
        return KeyedStore(self.shared.store, self.principal.key, self.shared.clock)

    @cached_property
    def accounts(self) -> AccountManagement:
        return AccountManagement(self.store, self.shared.vault, self.shared.settings, self.shared.clock)

    @cached_property
    def keys(self) -> KeyManagement:
        return KeyManagement(self.store, self.shared.vault, self.shared.clock)


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and the document of an answer."""

    status: int
    document: AnswerModel | None = None


@dataclass(frozen=True, slots=True)
class AdminCall:
    """One call: `takes` is its body, or its query where the method has no body. `admin_call` makes it."""

    method: str
    path: str
    name: str
    says: str
    takes: type[RequestModel]
    handle: Callable[[AdminRequest, RequestModel], Reply]
    answers: Mapping[int, type[AnswerModel] | None]
    refusals: tuple[int, ...]  # beside those of every call

    @property
    def has_body(self) -> bool:
        return self.method in ("POST", "PATCH", "PUT")

    @property
    def changes(self) -> bool:
        return self.method != "GET"


def admin_call(
    call: str,
    name: str,
    says: str,
    takes: type[M],
    handle: Callable[[AdminRequest, M], Reply],
    answers: Mapping[int, type[AnswerModel] | None],
    refusals: tuple[int, ...] = (),
) -> AdminCall:
    """Return a call, such as `GET /v1/accounts`, whose `handle` is given what it takes."""
    method, path = call.split(" ")

    def checked(asked: AdminRequest, taken: RequestModel) -> Reply:
        assert isinstance(taken, takes)
        return handle(asked, taken)

    return AdminCall(method, path, name, says, takes, checked, answers, refusals)
