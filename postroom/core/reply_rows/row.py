"""A row of the table of replies, and the steps of an SMTP conversation that a reply can answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from postroom.core.outcome import Meaning


class Place(Enum):
    """The step of the conversation that a reply answers."""

    GREETING = "greeting"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    BEARER = "AUTH XOAUTH2"  # a log-in with an access token
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "dot"
    OTHER = "other"  # RSET, NOOP, QUIT

    @classmethod
    def of(cls, verb: str) -> Place:
        """Return the place of an SMTPFault's verb."""
        return _PLACES.get(verb, cls.OTHER)


_PLACES = {place.value: place for place in Place} | {
    "connect": Place.GREETING,
    "HELO": Place.EHLO,
    "BDAT": Place.DOT,
    "AUTH OAUTHBEARER": Place.BEARER,
}


ANYWHERE = frozenset(Place)
SETUP = frozenset({Place.GREETING, Place.EHLO, Place.STARTTLS, Place.OTHER})
PASSWORD = frozenset({Place.AUTH})
TOKEN = frozenset({Place.BEARER})
LOGIN = PASSWORD | TOKEN
TEXT = frozenset({Place.DATA, Place.DOT})
OPENING = SETUP - {Place.OTHER} | LOGIN  # before a message
SENDING = frozenset({Place.MAIL, Place.RCPT, Place.DATA, Place.DOT})
BEFORE_RCPT = LOGIN | {Place.MAIL}
NOT_SETUP = ANYWHERE - SETUP
NOT_RCPT = NOT_SETUP - {Place.RCPT}


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that servers say. `words` and `code` are regular expressions; what is empty fits everything.

    `logged_in`: only where that was (True) or was not (False) so. `transient`: deferred whatever the basic code.
    """

    meaning: Meaning
    words: str = ""
    at: frozenset[Place] = SENDING
    code: str = ""
    enhanced: str = ""
    provider: str | None = None
    logged_in: bool | None = None
    transient: bool = False
    period: int | None = None
    explanation: str = ""
    fix: str = ""
    source: str = ""
