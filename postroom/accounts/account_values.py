"""Checks the values of an account that is added or changed at run time, in the words of data.csv's faults. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from postroom.accounts.csv_row import AccountRow, Fault, row_of
from postroom.core.account import Account, AccountSettings, Secret, Security
from postroom.core.address import InvalidAddress, parse_mailbox
from postroom.core.errors import InvalidSubmission
from postroom.core.networks import is_public
from postroom.core.setting_values import parse_truth
from postroom.settings import INBOX
from postroom.store.accounts import AccountIdentity

COLUMNS: Final = (
    "name", "host", "port", "security", "username",
    "daily_limit", "connections", "logins_per_minute", "pipelining", "chunking",
)  # fmt: skip
_SELECTOR: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9-]{1,63})*")
_MOST_ALIASES: Final = 100
Value = str | int | bool | None


@dataclass(frozen=True, slots=True)
class AccountValues:
    """An account as a person wants it, checked. `password` is None where none was given."""

    row: AccountRow
    password: Secret | None
    aliases: tuple[str, ...] | None
    dkim_selector: str | None
    hold: bool

    @property
    def identity(self) -> AccountIdentity:
        return AccountIdentity(self.row.email, self.row.host, self.row.port, self.row.username)

    @property
    def settings(self) -> AccountSettings:
        return self.row.account_settings


def account_values(
    given: Mapping[str, Value],
    *,
    password: Secret | None,
    aliases: tuple[str, ...] | None,
    has_secret: bool = False,
) -> AccountValues:
    """Check what is given by the names of data.csv's columns. Raises InvalidSubmission naming the field.

    `has_secret`: a password is stored, or the account logs in by OAuth2, so that none needs to be given.
    """
    cells = {name: _text(given.get(name)) for name in COLUMNS}
    cells |= {"key": "-", "email": _text(given.get("email"))}
    stands_in = "stored" if has_secret and password is None else ""
    cells["app_password"] = stands_in or (password.reveal() if password else "")
    try:
        row = row_of(0, cells)
    except Fault as fault:
        raise _invalid(str(fault)) from None
    return AccountValues(
        row=replace(row, password=Secret("")),
        password=row.password if password else None,
        aliases=None if aliases is None else aliases_of(aliases),
        dkim_selector=selector_of(given.get("dkim_selector")),
        hold=hold_of(given.get("hold")),
    )


def values_of(account: Account) -> dict[str, Value]:
    """Return what `account_values` takes of an account as it is."""
    return {
        "email": account.email,
        "name": account.name,
        "host": account.host,
        "port": account.port,
        "security": account.security.value if account.security else None,
        "username": account.username,
        "daily_limit": account.daily_limit,
        "connections": account.connections,
        "logins_per_minute": account.logins_per_minute,
        "pipelining": account.pipelining,
        "chunking": account.chunking,
        "dkim_selector": account.dkim_selector,
        "hold": account.hold,
    }


def check_secret_stays(account: Account, wanted: AccountValues) -> None:
    """Raise InvalidSubmission where a stored secret would go to another server than it was given for, or less protected.

    The caller has been given no secret in the same call.
    """
    present = values_of(account)
    for name in ("host", "port", "username"):
        if getattr(wanted.row, name) != present[name]:
            raise InvalidSubmission(
                f"a stored password is for its server alone: give the password again together with a new {name}",
                field=name,
            )
    if wanted.row.security is Security.NONE and account.security is not Security.NONE:
        raise InvalidSubmission(
            "a stored password does not go out without TLS unless it is given again with this",
            field="security",
        )


def is_private(host: str | None) -> bool:
    """Whether a host is this machine or in a private network, by its name or address alone (RFC 1918, RFC 4193).

    Where another name leads is looked at by each connection (`Account.is_confined`).
    """
    if host is None:
        return False
    if host == INBOX or host.lower().rstrip(".").endswith(("localhost", ".local", ".internal")):
        return True
    try:
        return not is_public(host.strip("[]"))
    except ValueError:
        return "." not in host.rstrip(".")


def _text(value: Value) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _invalid(words: str) -> InvalidSubmission:
    named = words.replace("app_password", "password")
    return InvalidSubmission(named, field=re.split(r"[ :;]", named)[0])


def aliases_of(emails: tuple[str, ...]) -> tuple[str, ...]:
    """Return aliases, each once. Raises InvalidSubmission."""
    if len(emails) > _MOST_ALIASES:
        raise InvalidSubmission(f"an account has at most {_MOST_ALIASES} aliases", field="aliases")
    try:
        return tuple(dict.fromkeys(parse_mailbox(email).path for email in emails))
    except InvalidAddress as error:
        raise InvalidSubmission(str(error), field="aliases") from None


def selector_of(value: Value) -> str | None:
    """Return a DKIM selector; an empty one is none. Raises InvalidSubmission."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > 253 or not _SELECTOR.fullmatch(value):
        raise InvalidSubmission(
            "must be the name in front of ._domainkey, such as google", field="dkim_selector"
        )
    return value


def hold_of(value: Value) -> bool:
    """Return whether an account is on hold, as it was given; nothing is no. Raises InvalidSubmission."""
    if isinstance(value, str) and value:
        try:
            return parse_truth(value)
        except ValueError:
            raise InvalidSubmission("must be true or false", field="hold") from None
    return bool(value)
