"""The calls on API keys: issue, list, rotate, revoke."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from postroom.accounts.key_management import KeyWish, NewKey
from postroom.core.api_key import AS_IN_THE_FILE, parse_networks, parse_scopes
from postroom.store.accounts import Accounts
from postroom.store.issued_keys import ALL, IssuedKey
from postroom.store.pools import Pools
from postroom.store.transaction import Transaction
from postroom.web.admin.call import AdminRequest, AnswerModel, Nothing, Reply, RequestModel, admin_call
from postroom.web.admin.values import WHOLE, Page, Time, Uid, duration_of, known_form, shown_time, time_of

ScopeName = Literal["send", "read", "manage", "accounts", "admin"]
_NO_OVERLAP: Final = ("0", "0s")


class NewKeyOf(RequestModel):
    """A key that is issued."""

    name: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        description="Whose it is, or what it is for: the audit names it"
    )
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=5)] | None = Field(
        default=None, description="What it may do; without it, send and read"
    )
    expires_at: Time | None = Field(default=None, description="When it stops working; null: never")
    allowed_recipients: (
        Annotated[list[Annotated[str, Field(max_length=320)]], Field(min_length=1, max_length=1000)] | None
    ) = Field(default=None, description="Addresses and patterns such as *@example.com; null: everybody")
    daily_limit: Annotated[int, Field(ge=1, le=1_000_000_000), WHOLE] | None = Field(
        default=None, description="The most recipients in any 24 hours"
    )
    networks: (
        Annotated[list[Annotated[str, Field(max_length=50)]], Field(min_length=1, max_length=1000)] | None
    ) = Field(default=None, description="Where requests may come from, such as 192.0.2.0/24; null: anywhere")
    test: bool = Field(default=False, description="Its messages go to the built-in inbox alone")

    def wish(self) -> KeyWish:
        """Return the key as it is wanted. Raises InvalidSubmission."""
        return KeyWish(
            name=self.name,
            scopes=AS_IN_THE_FILE if self.scopes is None else parse_scopes(list(self.scopes)),
            is_test=self.test,
            allowed_recipients=None if self.allowed_recipients is None else tuple(self.allowed_recipients),
            networks=None if self.networks is None else parse_networks(self.networks),
            daily_limit=self.daily_limit,
            expires_at=None if self.expires_at is None else time_of(self.expires_at, "expires_at"),
        )


class KeyList(Page):
    """Which keys are wanted."""

    account: Uid | None = Field(default=None, description="The id of an account: only its keys")


class Rotation(RequestModel):
    """How a key is replaced."""

    overlap: Annotated[str, Field(max_length=30, examples=["24h"])] | None = Field(
        default=None, description="For how long the old key works on, such as 24h; by default not at all"
    )


class KeyAnswer(AnswerModel):
    """A key, never its text."""

    id: str
    name: str
    owner: Literal["account", "pool", "installation"]
    account: str | None = Field(description="The id of the account that it acts for")
    pool: str | None = Field(description="The id of the pool that it acts for")
    scopes: list[ScopeName]
    test: bool
    allowed_recipients: list[str] | None
    networks: list[str] | None
    daily_limit: int | None
    hint: str = Field(description="Its last characters")
    created_at: str
    expires_at: str | None
    last_used_at: str | None = Field(description="To within an hour")


class NewKeyAnswer(KeyAnswer):
    """A key that was just issued. `key` is shown this once."""

    key: str


class KeysAnswer(AnswerModel):
    """A page of keys that were not revoked, the newest first."""

    data: list[KeyAnswer]
    has_more: bool
    next: str | None = Field(description="What `after` takes for the next page")


def _issue_for_account(asked: AdminRequest, body: NewKeyOf) -> Reply:
    return new_key(asked, asked.keys.issue_for_account(known_form(asked.id), body.wish(), asked.actor))


def _issue_for_installation(asked: AdminRequest, body: NewKeyOf) -> Reply:
    return new_key(asked, asked.keys.issue_for_installation(body.wish(), asked.actor))


def _list(asked: AdminRequest, query: KeyList) -> Reply:
    found = asked.keys.page(
        query.limit + 1,
        before=ALL if query.position is None else query.position,
        account_uid=None if query.account is None else known_form(query.account),
    )
    data, has_more = found[: query.limit], len(found) > query.limit
    owners = asked.store.read(_owners, data)
    return Reply(
        200,
        KeysAnswer(
            data=[KeyAnswer.model_validate(_values(each, owners)) for each in data],
            has_more=has_more,
            next=str(data[-1].key.id) if has_more else None,
        ),
    )


def _revoke(asked: AdminRequest, query: Nothing) -> Reply:
    asked.keys.revoke(known_form(asked.id), asked.actor)
    return Reply(204)


def _rotate(asked: AdminRequest, body: Rotation) -> Reply:
    overlap = 0
    if body.overlap is not None and body.overlap not in _NO_OVERLAP:
        overlap = duration_of(body.overlap, "overlap")
    return new_key(asked, asked.keys.rotate(known_form(asked.id), asked.actor, overlap))


def new_key(asked: AdminRequest, new: NewKey) -> Reply:
    """Answer with a key that was just issued."""
    owners = asked.store.read(_owners, [new.issued])
    return Reply(201, NewKeyAnswer.model_validate({**_values(new.issued, owners), "key": new.text}))


_Owners = dict[tuple[str, int], str]


def _owners(transaction: Transaction, keys: list[IssuedKey]) -> _Owners:
    """Return the ids in the API of the accounts and pools of keys, by kind and row."""
    found: _Owners = {}
    for account_id in {each.key.account_id for each in keys} - {None}:
        stored = Accounts(transaction).get(account_id or 0)
        if stored is not None:
            found["account", stored.account.id] = stored.account.uid
    if any(each.key.pool_id is not None for each in keys):
        found |= {("pool", pool.id): pool.uid for pool in Pools(transaction).all()}
    return found


def _values(issued: IssuedKey, owners: _Owners) -> dict[str, object]:
    key = issued.key
    return {
        "id": key.uid,
        "name": key.name,
        "owner": "account" if key.account_id else "pool" if key.pool_id else "installation",
        "account": owners.get(("account", key.account_id or 0)),
        "pool": owners.get(("pool", key.pool_id or 0)),
        "scopes": sorted(scope.value for scope in key.scopes),
        "test": key.is_test,
        "allowed_recipients": None if key.allowed_recipients is None else list(key.allowed_recipients),
        "networks": None if key.networks is None else [str(network) for network in key.networks],
        "daily_limit": key.daily_limit,
        "hint": issued.hint,
        "created_at": shown_time(issued.created_at),
        "expires_at": shown_time(key.expires_at),
        "last_used_at": shown_time(issued.last_used_at),
    }


KEY_CALLS: Final = (
    admin_call(
        "POST /v1/accounts/{id}/keys",
        "createAccountKey",
        "Issue a key that acts for an account",
        NewKeyOf,
        _issue_for_account,
        {201: NewKeyAnswer},
        (409,),
    ),
    admin_call(
        "POST /v1/keys",
        "createKey",
        "Issue a key of the installation",
        NewKeyOf,
        _issue_for_installation,
        {201: NewKeyAnswer},
    ),
    admin_call("GET /v1/keys", "listKeys", "List keys", KeyList, _list, {200: KeysAnswer}, (404,)),
    admin_call("DELETE /v1/keys/{id}", "revokeKey", "Revoke a key", Nothing, _revoke, {204: None}),
    admin_call(
        "POST /v1/keys/{id}/rotate",
        "rotateKey",
        "Replace a key by another one with the same rights",
        Rotation,
        _rotate,
        {201: NewKeyAnswer},
    ),
)
