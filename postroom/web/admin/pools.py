"""The calls on pools: groups of accounts, with weights, that a key may send through."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from postroom.accounts.pool_management import PoolManagement
from postroom.core.errors import InvalidSubmission
from postroom.store.pools import Pool
from postroom.web.admin.call import AdminRequest, AnswerModel, Nothing, Reply, RequestModel, admin_call
from postroom.web.admin.keys import NewKeyAnswer, NewKeyOf, new_key
from postroom.web.admin.values import WHOLE, Page, Uid, known_form, shown_time

Name = Annotated[str, Field(min_length=1, max_length=100)]
Weight = Annotated[int, Field(ge=1, le=1_000_000), WHOLE]


class Member(RequestModel):
    """An account of a pool."""

    account: Uid = Field(description="Its id")
    weight: Weight = Field(default=1, description="Its share beside the other members' weights")


Members = Annotated[list[Member], Field(min_length=1, max_length=1000)]


class NewPool(RequestModel):
    """A pool that is added."""

    name: Name
    members: Members


class PoolChange(RequestModel):
    """What is to change; what is not named stays."""

    name: Name | None = None
    members: Members | None = Field(default=None, description="All members, in place of those before")


class PoolList(Page):
    """Which pools are wanted."""


class MemberAnswer(AnswerModel):
    """An account of a pool."""

    account: str
    email: str
    weight: int


class PoolAnswer(AnswerModel):
    """A pool."""

    id: str
    name: str
    members: list[MemberAnswer]
    created_at: str
    updated_at: str


class PoolsAnswer(AnswerModel):
    """A page of pools, in the order in which they were added."""

    data: list[PoolAnswer]
    has_more: bool
    next: str | None = Field(description="What `after` takes for the next page")


def _pools(asked: AdminRequest) -> PoolManagement:
    return PoolManagement(asked.store, asked.shared.clock)


def _create(asked: AdminRequest, body: NewPool) -> Reply:
    return Reply(201, _answer(_pools(asked).create(body.name, _weights(body.members), asked.actor)))


def _list(asked: AdminRequest, query: PoolList) -> Reply:
    found = _pools(asked).page(query.limit + 1, after=query.position or 0)
    data, has_more = found[: query.limit], len(found) > query.limit
    return Reply(
        200,
        PoolsAnswer(
            data=[_answer(pool) for pool in data],
            has_more=has_more,
            next=str(data[-1].id) if has_more else None,
        ),
    )


def _get(asked: AdminRequest, query: Nothing) -> Reply:
    return Reply(200, _answer(_pools(asked).get(known_form(asked.id))))


def _change(asked: AdminRequest, body: PoolChange) -> Reply:
    members = None if body.members is None else _weights(body.members)
    return Reply(200, _answer(_pools(asked).change(known_form(asked.id), asked.actor, body.name, members)))


def _delete(asked: AdminRequest, query: Nothing) -> Reply:
    _pools(asked).delete(known_form(asked.id), asked.actor)
    return Reply(204)


def _issue(asked: AdminRequest, body: NewKeyOf) -> Reply:
    pool = _pools(asked).get(known_form(asked.id))
    return new_key(asked, asked.keys.issue_for_pool(pool.id, body.wish(), asked.actor))


def _weights(members: list[Member]) -> dict[str, int]:
    weights = {known_form(member.account): member.weight for member in members}
    if len(weights) != len(members):
        raise InvalidSubmission("an account is named twice, or one of these is no id", field="members")
    return weights


def _answer(pool: Pool) -> PoolAnswer:
    return PoolAnswer(
        id=pool.uid,
        name=pool.name,
        members=[
            MemberAnswer(account=member.account_uid, email=member.email, weight=member.weight)
            for member in pool.members
        ],
        created_at=shown_time(pool.created_at) or "",
        updated_at=shown_time(pool.updated_at) or "",
    )


_ONE: Final = {200: PoolAnswer}

POOL_CALLS: Final = (
    admin_call("POST /v1/pools", "createPool", "Add a pool", NewPool, _create, {201: PoolAnswer}, (409,)),
    admin_call("GET /v1/pools", "listPools", "List pools", PoolList, _list, {200: PoolsAnswer}),
    admin_call("GET /v1/pools/{id}", "getPool", "Show a pool", Nothing, _get, _ONE),
    admin_call("PATCH /v1/pools/{id}", "changePool", "Change a pool", PoolChange, _change, _ONE, (409,)),
    admin_call(
        "DELETE /v1/pools/{id}",
        "deletePool",
        "Delete a pool: its keys die, its accounts stay",
        Nothing,
        _delete,
        {204: None},
    ),
    admin_call(
        "POST /v1/pools/{id}/keys",
        "createPoolKey",
        "Issue a key that acts for a pool",
        NewKeyOf,
        _issue,
        {201: NewKeyAnswer},
    ),
)
