"""Decides what a server's refusal means: by the first matching row of `reply_table`, else by its code (RFC 5321). Pure.

A row's words are searched for in the reply's text. A row's advice about a provider's own controls (`fix`) is
given only where the host is that provider's; a row without words applies at its provider only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from postroom.core.clock import DAY, HOUR, MINUTE, SECOND
from postroom.core.outcome import Meaning, Reply
from postroom.core.reply_rows.row import LOGIN, SETUP, Place, Row
from postroom.core.reply_rows.senders import OF_THE_RIGHT
from postroom.core.reply_rows.words import RFC_5321
from postroom.core.reply_table import TABLE


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The circumstances that decide the meaning of a reply, beside its code and text."""

    host: str = ""  # of the server, as it is configured; tells the provider
    logged_in: bool = False  # credentials were given and accepted
    carried: bool = False  # the connection had carried a message before this one
    chose_from: bool = False  # the message has a From of its own, which it could change
    some_taken: bool = False  # another recipient of this message was accepted


UNKNOWN = Circumstances()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a refusal means. `period` in microseconds: the window that it names; a limit that names none: an hour."""

    meaning: Meaning
    period: int | None = None
    explanation: str = ""
    fix: str = ""
    source: str = ""
    transient: bool = False  # deferred whatever the basic code


# The servers of each provider, by the end of their names.
_HOSTS: tuple[tuple[str, str], ...] = (
    ("smtp.gmail.com", "google"),
    ("smtp.googlemail.com", "google"),
    ("smtp-relay.gmail.com", "google"),
    ("aspmx.l.google.com", "google"),
    ("outlook.com", "microsoft"),
    ("office365.com", "microsoft"),
    ("hotmail.com", "microsoft"),
    ("mail.yahoo.com", "yahoo"),
    ("smtp.aol.com", "yahoo"),
    ("mail.me.com", "icloud"),
    ("fastmail.com", "fastmail"),
    ("messagingengine.com", "fastmail"),
    ("zoho.com", "zoho"),
    ("zoho.eu", "zoho"),
    ("zoho.in", "zoho"),
    ("zeptomail.com", "zoho"),
    ("amazonaws.com", "ses"),
    ("sendgrid.net", "sendgrid"),
    ("mailgun.org", "mailgun"),
    ("postmarkapp.com", "postmark"),
    ("mailtrap.io", "mailtrap"),
    ("gmx.net", "gmx"),
    ("gmx.com", "gmx"),
    ("web.de", "gmx"),
    ("ionos.com", "ionos"),
    ("ionos.de", "ionos"),
    ("strato.de", "strato"),
    ("ovh.net", "ovh"),
    ("emailsrvr.com", "rackspace"),
    ("secureserver.net", "godaddy"),
    ("yandex.com", "yandex"),
    ("yandex.ru", "yandex"),
    ("mail.ru", "mailru"),
    ("qq.com", "tencent"),
    ("163.com", "netease"),
    ("126.com", "netease"),
    ("protonmail.ch", "proton"),
    ("proton.me", "proton"),
)


@lru_cache(maxsize=256)
def provider_of(host: str) -> str | None:
    """Return the provider that a server's name belongs to, or None."""
    name = host.lower().rstrip(".")
    return next((who for end, who in _HOSTS if name == end or name.endswith(f".{end}")), None)


_PATTERNS = {row.words: re.compile(row.words) for row in TABLE if row.words}
_FIX: dict[Meaning, str] = {
    Meaning.LIMIT: "messages wait until the provider takes some again",
    Meaning.CONNECTIONS: "messages go over the connections that are open, and wait where there are none",
    Meaning.RATE: "messages go on more slowly by themselves",
    Meaning.SESSION: "messages go on over another connection by themselves",
    Meaning.ACCOUNT: "put this right at the provider, then: postroom accounts resume EMAIL",
    Meaning.RECIPIENT: "ask the recipient by another way",
    Meaning.MESSAGE: "change the message, and send it again",
    Meaning.LATER: "messages are tried again by themselves",
}
"""What is to be done where a row explains and has no advice of its own."""
_LOOKED_AT = 400  # characters of a reply; the words that matter come before
_TOO_MANY = ("4.5.3", "5.5.3")
PERIODS: tuple[tuple[str, int], ...] = (
    (r"month", 30 * DAY),
    (r"week", 7 * DAY),
    (r"dai?ly|\bdays?\b|24[- ]?(?:h|hr|hour)s?\b|/ ?1?d\b|today", DAY),
    (r"hour|/ ?1?h\b", HOUR),
    (r"minute|/ ?\d{0,9} ?min\b|/ ?1?m\b", MINUTE),
    (r"second|\d ?s\b", SECOND),
)


def read(reply: Reply, place: Place, circumstances: Circumstances = UNKNOWN) -> Reading:
    """Return what a refusal means: by the first row that matches, else by its basic code (RFC 5321 §4.2)."""
    provider = provider_of(circumstances.host)
    text = _plain(reply)
    rows = _rows_for(place, provider, circumstances.logged_in, reply.code, reply.enhanced or "")
    row = next((each for each in rows if not each.words or _PATTERNS[each.words].search(text)), None)
    if row is None:
        return _by_code(reply, place, circumstances)
    meaning = row.meaning
    if meaning is Meaning.SESSION and not circumstances.carried:
        meaning = Meaning.RATE  # a new connection would hear the same
    if row in OF_THE_RIGHT and circumstances.chose_from:
        meaning = Meaning.MESSAGE
    fix = row.fix if row.provider in (None, provider) else ""
    if row.explanation and not fix:
        fix = _FIX[meaning]
    period = row.period or _period(text, meaning)
    transient = row.transient or _is_452(reply, place)
    return Reading(meaning, period, row.explanation, fix, row.source, transient)


def _is_452(reply: Reply, place: Place) -> bool:
    """552 to RCPT means 452 (RFC 5321 §4.5.3.1.10)."""
    return place is Place.RCPT and reply.code == 552


def _plain(reply: Reply) -> str:
    text = f"{reply.enhanced or ''} {reply.text[:_LOOKED_AT]}".lower().replace("\u2019", "'")
    return " ".join(text.split())


@lru_cache(maxsize=512)
def _rows_for(
    place: Place, provider: str | None, logged_in: bool, code: int, enhanced: str
) -> tuple[Row, ...]:
    """Return the rows that match all but a reply's words; kept, since a flood of refusals has few codes."""
    return tuple(row for row in TABLE if _is_for(row, place, provider, logged_in, str(code), enhanced))


def _is_for(row: Row, place: Place, provider: str | None, logged_in: bool, code: str, enhanced: str) -> bool:
    """A provider's row without words is about codes that others use for something else."""
    if place not in row.at or (row.provider not in (None, provider) and not row.words):
        return False
    if row.logged_in not in (None, logged_in):
        return False
    if row.code and not re.fullmatch(row.code, code):
        return False
    return not row.enhanced or re.fullmatch(row.enhanced, enhanced) is not None


def _period(text: str, meaning: Meaning) -> int | None:
    """Return the window that the words name; a limit that names none is looked at again after an hour."""
    if meaning not in (Meaning.LIMIT, Meaning.RATE):
        return None
    named = next((span for words, span in PERIODS if re.search(words, text)), None)
    return named or (HOUR if meaning is Meaning.LIMIT else None)


def _by_code(reply: Reply, place: Place, circumstances: Circumstances) -> Reading:
    refused = reply.transient or reply.permanent
    if reply.code == 421 and place is Place.GREETING:
        return Reading(
            Meaning.CONNECTIONS, source=RFC_5321
        )  # of a server that goes on for those that it has let in
    if reply.code == 421 or not refused or place is Place.OTHER:
        return Reading(Meaning.LATER, source=RFC_5321)
    if place in SETUP | LOGIN:
        return Reading(Meaning.ACCOUNT if reply.permanent else Meaning.LATER, source=RFC_5321)
    if place is Place.MAIL and circumstances.carried:
        return Reading(Meaning.SESSION, source=RFC_5321)  # a new connection will tell
    if place is Place.RCPT:
        return _of_recipient(reply, circumstances)
    if place is Place.MAIL and reply.transient:
        return Reading(
            Meaning.RATE, None, "the server takes nothing from this account just now", _FIX[Meaning.RATE]
        )
    return Reading(Meaning.MESSAGE if reply.permanent else Meaning.LATER, source=RFC_5321)


def _of_recipient(reply: Reply, circumstances: Circumstances) -> Reading:
    """Too many recipients where none was taken is said of the account (RFC 5321 §4.5.3.1.10)."""
    too_many = reply.enhanced in _TOO_MANY or re.search(r"too many (?:recipients|rcpts?)", _plain(reply))
    if too_many and not circumstances.some_taken:
        return Reading(
            Meaning.RATE, None, "the server takes no recipient just now", _FIX[Meaning.RATE], RFC_5321
        )
    return Reading(Meaning.RECIPIENT, source=RFC_5321, transient=_is_452(reply, Place.RCPT))
