"""Parses POSTROOM_NOTIFY into ways: URLs for Apprise, and `mailto:ADDRESS?account=EMAIL`; shows schemes alone. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from postroom.core.account import Secret
from postroom.core.address import InvalidAddress, Mailbox, parse_mailbox

MAILTO: Final = "mailto"
MAILTO_FORM: Final = "mailto:ADDRESS?account=EMAIL"
_BETWEEN: Final = re.compile(r"[\s,]+(?=[a-z][a-z0-9+.-]*://|mailto:)", re.IGNORECASE)
_URL: Final = re.compile(r"([a-z][a-z0-9+.-]{0,30}):(//)?(.*)", re.IGNORECASE | re.DOTALL)
_MOST_WAYS: Final = 20
_OTHER_CLIENTS: Final = ("mailto", "mailtos")  # with two slashes, Apprise would send by SMTP itself


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the admins. `name` is safe to show: its place in the list, and the scheme of the URL."""

    name: str
    scheme: str
    url: Secret = field(repr=False)
    recipient: str = ""  # of mailto alone
    account: str = ""  # the mailbox that it is sent from; of mailto alone

    @property
    def is_message(self) -> bool:
        return self.scheme == MAILTO


def parse_ways(text: str) -> tuple[Way, ...]:
    """Return the ways that a text names, separated by white space or commas. Raises ValueError, which repeats no secret."""
    parts = [part for part in _BETWEEN.split(text.strip(" \t\r\n,")) if part]
    if len(parts) > _MOST_WAYS:
        raise ValueError(f"must be at most {_MOST_WAYS} URLs")
    return tuple(_way(number, part.strip(" \t\r\n,")) for number, part in enumerate(parts, 1))


def _way(number: int, url: str) -> Way:
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"must be URLs such as json://host/path; number {number} of them has no scheme")
    scheme, rest = found[1].lower(), found[3]
    name = f"{number} ({scheme})"
    if scheme in _OTHER_CLIENTS and (found[2] or scheme != MAILTO):
        raise ValueError(
            f"must have no {scheme}:{found[2] or ''} (number {number}): write mailto:ADDRESS?account=EMAIL, sent from "
            "that account"
        )
    if found[2] is None and scheme != MAILTO:  # the word may be half of a secret
        raise ValueError(
            f"must be URLs such as json://host/path; number {number} has no // behind its first colon"
        )
    if not rest.strip("/"):
        end = MAILTO_FORM if scheme == MAILTO else f"{scheme}://..., as docs/notices.md shows"
        raise ValueError(
            f"must be whole URLs; number {number} ({scheme}:) ends behind its scheme: write {end}"
        )
    if any(character.isspace() for character in url):
        raise ValueError(f"must be URLs; number {number} ({scheme}:) has white space in it, write it as %20")
    if scheme != MAILTO:
        return Way(name, scheme, Secret(url))
    return _mailto(name, number, url, rest)


def _mailto(name: str, number: int, url: str, rest: str) -> Way:
    address, _, query = rest.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    keys = [key for key, _ in given]
    if "account" not in keys:
        raise ValueError(f"must say which account a mailto: sends from (number {number}): {MAILTO_FORM}")
    if keys != ["account"]:
        raise ValueError(
            f"must have account=EMAIL once, and nothing else, behind the ? of a mailto: (number {number})"
        )
    recipient = _mailbox(number, "ADDRESS", unquote(address))
    account = _mailbox(number, "EMAIL", given[0][1].replace(" ", "+"))
    return Way(name, MAILTO, Secret(url), recipient.path, account.path.lower())


def _mailbox(number: int, what: str, text: str) -> Mailbox:
    """Return a mailbox of a mailto. Raises ValueError, which says which of the two is wrong and repeats neither."""
    try:
        return parse_mailbox(text)
    except InvalidAddress as error:
        reason = "" if "'" in str(error) else f" ({error})"
        raise ValueError(
            f"must be {MAILTO_FORM} (number {number}): its {what} is no mailbox of the form name@domain{reason}"
        ) from None
