"""Findings about what the database has of an account: name, route, state, log-in, limit, aliases, extensions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from shlex import quote

from postroom.accounts.doctor.finding import Finding, error, not_known, note, ok, warning
from postroom.core.account import Account, AccountState
from postroom.core.clock import rfc3339
from postroom.providers import Server, unusual_port
from postroom.settings import INBOX
from postroom.store.aliases import Alias

_NEARLY = 0.8  # of a daily limit


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What is stored about an account. Nothing here has been tried."""

    account: Account
    has_password: bool
    has_oauth_grant: bool
    token_refused: str | None  # why its provider gives no access token any more
    last_reason: str | None  # why its newest message that was not sent was not
    password_was_refused: bool  # the present one
    recipients_used: int  # of the last 24 hours
    aliases: Sequence[Alias]

    @property
    def has_credentials(self) -> bool:
        return self.has_password or self.has_oauth_grant


@dataclass(frozen=True, slots=True)
class Login:
    """What a real log-in showed: whether it worked, None where it was not tried; and the words for it."""

    works: bool | None
    words: str


def about_name(facts: AccountFacts) -> Finding:
    account = facts.account
    shown = f"{account.name} <{account.email}>" if account.name else account.email
    if account.source == "csv":
        return ok("name", f"sends as {shown}", "its settings are a row of data.csv")
    how = (
        f"postroom accounts set {quote(account.email)} changes its settings (PATCH /v1/accounts/{account.uid}); "
        "another host, port or username needs the password again"
    )
    return ok("name", f"sends as {shown}", how)


def about_route(server: Server, why: str) -> Iterator[Finding]:
    """Yield which server the account sends through, and why; and a port that is unusual for its security."""
    if server.host == INBOX:
        yield ok("route", "the built-in inbox: its messages never leave this machine")
        return
    yield ok("route", f"{server.host}:{server.port} with security {server.security.value}: {why}")
    if doubt := unusual_port(server.port, server.security):
        yield warning("route", doubt, fix=f"set the account's security as port {server.port} wants it")


def about_no_route(reason: str) -> Finding:
    """Nobody has named the server, or what is named may not be used; the reason says the fix."""
    return error(
        "route", "there is no server to send through", reason, "name the SMTP server as the account's host"
    )


def about_state(facts: AccountFacts) -> Finding:
    """Return the account's state, in the words of `postroom accounts` and of its messages' status."""
    account, resume = facts.account, f"postroom accounts resume {quote(facts.account.email)}"
    if account.closing_at is not None:
        return note("state", "closing: it is deleted once its last messages have ended")
    if account.paused_by == "person":
        return note("state", f"paused{_since(account)} by a person", account.state_reason, resume)
    if account.state is AccountState.PAUSED:
        return error(
            "state",
            f"paused{_since(account)}{_until(account)}: its messages wait",
            account.state_reason,
            f"put right what the reason says, then: {resume}",
        )
    if account.state is AccountState.PARKED:
        return warning(
            "state",
            f"parked{_since(account)}{_until(account)}: it rests for a limit, and its messages wait",
            account.state_reason,
            f"wait, or have it tried at once: {resume}",
        )
    if account.worked_at is not None:
        return ok("state", f"active; it logged in for a message last at {rfc3339(account.worked_at)}")
    if facts.last_reason:
        return error(
            "state", "failing: it has never worked", facts.last_reason, "put right what the reason says"
        )
    return note("state", "active; it has sent no message yet")


def _since(account: Account) -> str:
    return "" if account.state_since is None else f" since {rfc3339(account.state_since)}"


def _until(account: Account) -> str:
    return "" if account.resume_at is None else f" until {rfc3339(account.resume_at)}"


def about_login(facts: AccountFacts, login: Login | None) -> Finding:
    """Return what a real log-in showed, or, where none was tried, what is known of the last one."""
    email = facts.account.email
    if facts.token_refused:
        said, fix = (
            "the provider gives no access token any more",
            f"postroom accounts authorize {quote(email)}",
        )
        return error("login", said, facts.token_refused, fix)
    if login is None or (login.works is None and not facts.password_was_refused):
        return _not_tried(facts, login)
    if login.works:
        return ok("login", login.words)
    if login.works is None or facts.password_was_refused:
        return error(
            "login", "the server has refused the account's password", login.words, _new_password(email)
        )
    fix = f"put right what the reason says, then: postroom accounts check {quote(email)}"
    return error("login", "the account cannot log in", login.words, fix)


def _new_password(email: str) -> str:
    return f"give the account its present password, then: postroom accounts check {quote(email)}"


def _not_tried(facts: AccountFacts, login: Login | None) -> Finding:
    account = facts.account
    if facts.password_was_refused:
        reason = account.state_reason or facts.last_reason
        said = "the server has refused the account's password"
        return error("login", said, reason, _new_password(account.email))
    if not facts.has_credentials:
        return note("login", "the account has no password: no log-in is made")
    words = login.words if login else None
    return not_known("login", "no log-in was tried", words, f"postroom accounts check {quote(account.email)}")


def about_limit(facts: AccountFacts, daily_limit: int | None) -> Finding:
    if daily_limit is None:
        return ok("limit", "no daily limit")  # without one nothing is counted
    used = facts.recipients_used
    left = max(0, daily_limit - used)
    said = f"{used} of {daily_limit} recipients used in the last 24 hours, {left} left"
    if not left:
        return warning(
            "limit", said, "its messages wait", "wait, or raise its daily_limit if its provider allows more"
        )
    return note("limit", said) if used >= _NEARLY * daily_limit else ok("limit", said)


def about_aliases(email: str, aliases: Iterable[Alias]) -> Iterator[Finding]:
    for alias in aliases:
        if alias.verified_at is not None:
            by = "a message that kept it" if alias.verified_by == "message" else alias.verified_by
            yield ok("alias", f"{alias.email} is verified by {by} at {rfc3339(alias.verified_at)}")
        else:
            yield note(
                "alias",
                f"nobody has shown yet that the server keeps {alias.email} as From",
                fix=f"send a message from {alias.email} to a mailbox of yours and look at its From; where it was kept: "
                f"postroom accounts verify {quote(email)} --alias {quote(alias.email)}",
            )


def about_extensions(account: Account) -> Iterator[Finding]:
    if lacks := account.server_lacks:
        yield note(
            "extensions",
            f"without {' and '.join(lacks.extensions)} since {rfc3339(lacks.since)}: {lacks.server} offers what it "
            "does not accept",
            lacks.said,
            "nothing has to be done; its server's owner may want to know",
        )
