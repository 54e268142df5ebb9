"""The calls on accounts: add, list, change, delete, verify, pause and resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from postroom.accounts.account_values import COLUMNS
from postroom.accounts.management import AccountView
from postroom.core.account import Secret
from postroom.core.clock import Instant
from postroom.core.errors import ConfigError, NotFound
from postroom.providers import ServerUndecided, server_for
from postroom.settings import MAX_CONNECTIONS
from postroom.store.connections import Connections
from postroom.store.usage import Usage
from postroom.web.admin.call import AdminRequest, AnswerModel, Nothing, Reply, RequestModel, admin_call
from postroom.web.admin.values import WHOLE, Address, Page, Text, known_form, shown_time

State = Literal["active", "parked", "paused", "closing"]
LimitName = Literal["daily_limit", "connections", "logins_per_minute"]
_BATCH: Final = 200

Port = Annotated[int, Field(ge=1, le=65535), WHOLE]
Count = Annotated[int, Field(ge=1, le=1_000_000_000), WHOLE]


class _Settings(RequestModel):
    """What may be set of an account when it is added, and later."""

    password: Annotated[str, Field(max_length=10_000)] | None = Field(
        default=None,
        repr=False,
        description="For the log-in; write-only: no call shows it",
        json_schema_extra={"writeOnly": True},
    )
    name: Text | None = Field(default=None, description="The sender's name, shown in front of the address")
    host: Annotated[str, Field(max_length=255)] | None = Field(
        default=None,
        description="The SMTP server; `inbox` is the built-in inbox; null: by the mailbox's domain",
    )
    port: Port | None = Field(default=None, description="null: by the security")
    security: Literal["starttls", "tls", "none"] | None = Field(default=None, description="null: by the port")
    username: Text | None = Field(default=None, description="For the log-in; null: the mailbox")
    daily_limit: Count | None = Field(
        default=None, description="The most recipients in any 24 hours; null: as the provider allows"
    )
    connections: Annotated[int, Field(ge=1, le=MAX_CONNECTIONS), WHOLE] | None = Field(
        default=None, description="The most connections at once; null: by the provider"
    )
    logins_per_minute: Annotated[int, Field(ge=1, le=100_000), WHOLE] | None = Field(
        default=None, description="How many log-ins a minute there are at most; null: by the provider"
    )
    pipelining: bool | None = Field(default=None, description="false: one SMTP command at a time")
    chunking: bool | None = Field(default=None, description="false: the text goes with DATA, never with BDAT")
    aliases: Annotated[list[Address], Field(max_length=100)] | None = Field(
        default=None, description="Further addresses that a message may have as its From"
    )
    dkim_selector: Annotated[str, Field(max_length=253)] | None = Field(
        default=None, description="The name in front of ._domainkey, where it is not a known provider's"
    )

    hold: bool | None = Field(
        default=None,
        description="true: retention deletes nothing of its messages; also for accounts of data.csv",
    )

    def given(self) -> dict[str, str | int | bool | None]:
        """Return what was given by the names of data.csv's columns."""
        names = (*COLUMNS, "email", "dkim_selector", "hold")
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}

    @property
    def secret(self) -> Secret | None:
        return Secret(self.password) if self.password else None

    @property
    def other_addresses(self) -> tuple[str, ...] | None:
        if "aliases" not in self.model_fields_set:
            return None
        return tuple(self.aliases or ())


class NewAccount(_Settings):
    """An account that is added. Its mailbox, host, port and username make it one account."""

    email: Address = Field(description="The mailbox that messages are sent from")


class AccountChange(_Settings):
    """What is to change; null goes back to the default. What is not named stays."""


class AccountList(Page):
    """Which accounts are wanted."""

    state: State | None = Field(default=None, description="Only those in this state")


class Deletion(RequestModel):
    """What becomes of messages that wait."""

    queued: Literal["finish", "cancel"] | None = Field(
        default=None,
        description="`finish`: they are sent first; `cancel`: they are cancelled. Needed where some wait",
    )


class AliasName(RequestModel):
    """Which alias of the account is meant."""

    email: Address


class AliasAnswer(AnswerModel):
    """An address that messages may have as their From."""

    email: str
    verified_at: str | None = Field(description="When it was shown that the server keeps it")
    verified_by: Literal["message", "admin"] | None = Field(
        description="How: a message that came back with it, or an admin who confirmed it"
    )


class LimitAnswer(AnswerModel):
    """One limit; null: there is none, or it is not known yet."""

    name: LimitName
    limit: int | None
    used: int | None = Field(
        description="Recipients in the last 24 hours; open connections of all workers; log-ins that still count for the pace"
    )
    left: int | None


class AccountAnswer(AnswerModel):
    """An account, without its secrets."""

    id: str
    email: str
    name: str
    host: str | None
    port: int | None
    security: Literal["starttls", "tls", "none"] | None
    username: str | None
    has_password: bool
    daily_limit: int | None
    connections: int | None
    logins_per_minute: int | None
    pipelining: bool | None
    chunking: bool | None
    aliases: list[AliasAnswer]
    dkim_selector: str | None
    hold: bool
    source: Literal["csv", "api"] = Field(description="csv: it stands in data.csv and is changed there")
    state: State
    reason: str | None = Field(description="Why it is parked or paused")
    paused_by: Literal["person", "breaker"] | None
    since: str | None
    until: str | None = Field(description="When it goes on by itself")
    worked_at: str | None = Field(description="When its log-in was accepted last")
    created_at: str | None
    limits: list[LimitAnswer]


class AccountsAnswer(AnswerModel):
    """A page of accounts, in the order in which they were added."""

    data: list[AccountAnswer]
    has_more: bool
    next: str | None = Field(description="What `after` takes for the next page")


def _create(asked: AdminRequest, body: NewAccount) -> Reply:
    view = asked.accounts.create(
        body.given(), asked.actor, password=body.secret, aliases=body.other_addresses or ()
    )
    return Reply(201, _answer(asked, view))


def _list(asked: AdminRequest, query: AccountList) -> Reply:
    found: list[AccountView] = []
    for view in _from(asked, query.position or 0):
        if query.state is None or state_of(view) == query.state:
            found.append(view)
        if len(found) > query.limit:
            break
    data = found[: query.limit]
    has_more = len(found) > query.limit
    return Reply(
        200,
        AccountsAnswer(
            data=[_answer(asked, view) for view in data],
            has_more=has_more,
            next=str(data[-1].account.id) if has_more else None,
        ),
    )


def _from(asked: AdminRequest, after: int) -> Iterator[AccountView]:
    while views := asked.accounts.page(_BATCH, after=after):
        yield from views
        after = views[-1].account.id


def _get(asked: AdminRequest, query: Nothing) -> Reply:
    return Reply(200, _answer(asked, asked.accounts.get(known_form(asked.id))))


def _change(asked: AdminRequest, body: AccountChange) -> Reply:
    view = asked.accounts.change(
        known_form(asked.id), body.given(), asked.actor, password=body.secret, aliases=body.other_addresses
    )
    return Reply(200, _answer(asked, view))


def _delete(asked: AdminRequest, query: Deletion) -> Reply:
    uid = known_form(asked.id)
    if asked.accounts.delete(uid, asked.actor, query.queued):
        return Reply(204)
    try:
        return Reply(202, _answer(asked, asked.accounts.get(uid)))
    except NotFound:  # its last message has ended meanwhile
        return Reply(204)


def _pause(asked: AdminRequest, body: Nothing) -> Reply:
    return Reply(200, _answer(asked, asked.accounts.pause(known_form(asked.id), asked.actor)))


def _resume(asked: AdminRequest, body: Nothing) -> Reply:
    return Reply(200, _answer(asked, asked.accounts.resume(known_form(asked.id), asked.actor)))


def _verify_alias(asked: AdminRequest, body: AliasName) -> Reply:
    view = asked.accounts.verify_alias(known_form(asked.id), body.email, asked.actor)
    return Reply(200, _answer(asked, view))


def state_of(view: AccountView) -> State:
    account = view.account
    if account.closing_at is not None:
        return "closing"
    state: State = account.state.value
    return state


def _answer(asked: AdminRequest, view: AccountView) -> AccountAnswer:
    account = view.account
    return AccountAnswer(
        id=account.uid,
        email=account.email,
        name=account.name,
        host=account.host,
        port=account.port,
        security=None if account.security is None else account.security.value,
        username=account.username,
        has_password=view.has_password,
        daily_limit=account.daily_limit,
        connections=account.connections,
        logins_per_minute=account.logins_per_minute,
        pipelining=account.pipelining,
        chunking=account.chunking,
        aliases=[
            AliasAnswer.model_validate({**alias._asdict(), "verified_at": shown_time(alias.verified_at)})
            for alias in view.aliases
        ],
        dkim_selector=account.dkim_selector,
        hold=account.hold,
        source="csv" if account.source == "csv" else "api",
        state=state_of(view),
        reason=account.state_reason,
        paused_by="person" if account.paused_by == "person" else "breaker" if account.paused_by else None,
        since=shown_time(account.state_since),
        until=shown_time(account.resume_at),
        worked_at=shown_time(account.worked_at),
        created_at=shown_time(account.created_at or None),
        limits=_limits(asked, view, asked.shared.clock()),
    )


def _limits(asked: AdminRequest, view: AccountView, now: Instant) -> list[LimitAnswer]:
    account = view.account
    daily, connections, logins = account.daily_limit, account.connections, account.logins_per_minute
    try:
        server = server_for(account, asked.shared.settings)
        daily, connections, logins = server.daily_limit, server.connections, server.logins_per_minute
    except (ServerUndecided, ConfigError):
        pass
    used = asked.store.read(Usage.recipients_used, account.id, now)
    open_now, of_late = asked.store.read(Connections.in_use, account.id, logins, now)
    return [
        _limit("daily_limit", daily, used),
        _limit("connections", connections, open_now),
        _limit("logins_per_minute", logins, of_late),
    ]


def _limit(name: LimitName, limit: int | None, used: int) -> LimitAnswer:
    left = None if limit is None else max(0, limit - used)
    return LimitAnswer(name=name, limit=limit, used=used, left=left)


_ONE: Final = {200: AccountAnswer}

ACCOUNT_CALLS: Final = (
    admin_call(
        "POST /v1/accounts",
        "createAccount",
        "Add an account",
        NewAccount,
        _create,
        {201: AccountAnswer},
        (409,),
    ),
    admin_call(
        "GET /v1/accounts", "listAccounts", "List accounts", AccountList, _list, {200: AccountsAnswer}
    ),
    admin_call("GET /v1/accounts/{id}", "getAccount", "Show an account", Nothing, _get, _ONE),
    admin_call(
        "PATCH /v1/accounts/{id}", "changeAccount", "Change an account", AccountChange, _change, _ONE, (409,)
    ),
    admin_call(
        "DELETE /v1/accounts/{id}",
        "deleteAccount",
        "Delete an account; 202 while its last messages are still sent",
        Deletion,
        _delete,
        {204: None, 202: AccountAnswer},
        (409,),
    ),
    admin_call(
        "POST /v1/accounts/{id}/pause",
        "pauseAccount",
        "Have an account send nothing until it is resumed",
        Nothing,
        _pause,
        _ONE,
        (409,),
    ),
    admin_call(
        "POST /v1/accounts/{id}/resume",
        "resumeAccount",
        "Let an account go on",
        Nothing,
        _resume,
        _ONE,
        (409,),
    ),
    admin_call(
        "POST /v1/accounts/{id}/aliases/verify",
        "verifyAlias",
        "Confirm that the account's server keeps an alias as From",
        AliasName,
        _verify_alias,
        _ONE,
    ),
)
