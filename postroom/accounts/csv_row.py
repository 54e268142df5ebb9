"""Parses one row of `data.csv` into an AccountRow, or a fault that repeats nothing of the row. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from postroom.core.account import AccountSettings, Secret, Security
from postroom.core.address import InvalidAddress, parse_mailbox
from postroom.core.setting_values import parse_host, parse_port, parse_security, parse_truth, parse_whole
from postroom.providers import PROVIDERS
from postroom.settings import INBOX, MAX_CONNECTIONS

T = TypeVar("T")

REQUIRED: Final = ("key", "email", "app_password")
LIMITS: Final = ("daily_limit", "connections", "logins_per_minute")
SWITCHES: Final = ("pipelining", "chunking")
MANAGED: Final = ("aliases", "dkim_selector", "hold")  # of an account that is managed at run time
COLUMNS: Final = (*REQUIRED, "name", "host", "port", "security", "username", *LIMITS, *SWITCHES)

_MOST_A_DAY: Final = 1_000_000_000
_MOST_LOGINS: Final = 100_000


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One good row. `line` is its first line; fields that are None or empty were not given."""

    line: int
    key: Secret
    email: str
    name: str = ""
    host: str | None = None
    port: int | None = None
    security: Security | None = None
    username: str | None = None
    password: Secret = field(default=Secret(""), repr=False)
    daily_limit: int | None = None
    connections: int | None = None
    logins_per_minute: int | None = None
    pipelining: bool | None = None
    chunking: bool | None = None
    managed: tuple[tuple[str, str], ...] = ()  # the columns of MANAGED that there are, and their texts

    @property
    def identity(self) -> tuple[str, str | None, int | None, str]:
        """The mailbox and server: rows that share it are keys of one account."""
        return self.email, self.host, self.port, self.username or self.email

    @property
    def account_settings(self) -> AccountSettings:
        """What the account gets."""
        limits = self.daily_limit, self.connections, self.logins_per_minute
        return AccountSettings(self.name, self.security, *limits, self.pipelining, self.chunking)

    @property
    def settings(self) -> tuple[AccountSettings, Secret]:
        """What rows of one account must agree on."""
        return self.account_settings, self.password


class Fault(Exception):
    """A sentence about one row or about the whole file."""


class Malformed(Fault):
    """No row could be made out: its quotes or the number of its fields are wrong."""


def row_of(line: int, cells: dict[str, str], *, needs_key: bool = True) -> AccountRow:
    """Return the row that begins on `line`; without `needs_key` its key may be empty. Raises Fault."""
    for column, text in cells.items():
        if any("\udc80" <= letter <= "\udcff" for letter in text):
            raise Fault(f"{column} is not UTF-8 text; save the file as “CSV UTF-8”")
    return AccountRow(
        line=line,
        key=_key(cells["key"]) if cells["key"] or needs_key else Secret(""),
        email=_email(cells["email"]),
        name=_name(cells.get("name", "")),
        host=_optional(cells, "host", _host),
        port=_optional(cells, "port", parse_port),
        security=_optional(cells, "security", parse_security),
        username=_optional(cells, "username", _username),
        password=_password(cells),
        daily_limit=_optional(cells, "daily_limit", lambda text: parse_whole(text, 1, _MOST_A_DAY)),
        connections=_optional(cells, "connections", lambda text: parse_whole(text, 1, MAX_CONNECTIONS)),
        logins_per_minute=_optional(
            cells, "logins_per_minute", lambda text: parse_whole(text, 1, _MOST_LOGINS)
        ),
        pipelining=_optional(cells, "pipelining", parse_truth),
        chunking=_optional(cells, "chunking", parse_truth),
        managed=tuple((column, cells[column]) for column in MANAGED if column in cells),
    )


def _optional(cells: dict[str, str], column: str, parse: Callable[[str], T]) -> T | None:
    text = cells.get(column, "")
    try:
        return parse(text) if text else None
    except ValueError as error:
        raise Fault(f"{column} {error}") from None


def _key(text: str) -> Secret:
    if not text:
        raise Fault("key is empty")
    if not all(letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in text):
        raise Fault("key contains a control character")
    return Secret(text)


def _email(text: str) -> str:
    if not text:
        raise Fault("email is empty")
    try:
        return parse_mailbox(text).path
    except InvalidAddress as error:
        quotes_the_row = "'" in str(error)
        reason = "it is no mailbox such as ann@example.com" if quotes_the_row else str(error)
        raise Fault(f"email: {reason}") from None


def _name(text: str) -> str:
    name = " ".join(text.split())
    if _has_control(name):
        raise Fault("name contains a control character")
    return name


def _host(text: str) -> str:
    return INBOX if text.lower() == INBOX else parse_host(text)


def _username(text: str) -> str:
    if _has_control(text):
        raise ValueError("contains a control character")
    return text


def _password(cells: dict[str, str]) -> Secret:
    """Return the password; Google shows its app passwords as four groups of four letters."""
    text = cells["app_password"]
    if _has_control(text):
        raise Fault("app_password contains a control character")
    host = cells.get("host", "").lower()
    if not text and (not host or host in PROVIDERS):
        raise Fault("app_password is empty; only a server named in host may do without")
    joined = "".join(text.split())
    google = re.fullmatch(r"[A-Za-z]{16}", joined)
    return Secret(joined if google else text)


def _has_control(text: str) -> bool:
    return any(unicodedata.category(letter) == "Cc" for letter in text)
