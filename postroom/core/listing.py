"""Lists of messages: what is noted of a message so that each filter finds it, and the filter itself as a value. Pure."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from postroom.core.address import InvalidAddress, parse_mailbox
from postroom.core.clock import Instant
from postroom.core.errors import InvalidSubmission
from postroom.core.status_word import StatusWord

BLOCK: Final = 1024  # messages whose times are kept together
_STATUSES: Final = 16  # more than there are, so that an account and a status make one number
_CODES: Final = {word: number for number, word in enumerate(StatusWord)}
_MOST_WORDS: Final = 20  # of a subject that are asked for
ENDS: Final = (StatusWord.SENT, StatusWord.FAILED, StatusWord.CANCELLED, StatusWord.SUPPRESSED)
WAITING: Final = (StatusWord.SCHEDULED, StatusWord.DEFERRED)
"""Of the statuses that pass, those that are noted: few messages have them for long."""


class Kind(IntEnum):
    """What a note says of a message."""

    ADDRESS = 1  # of a recipient
    DOMAIN = 2
    KEY = 3  # of a pool, which it was accepted with
    STATUS = 4  # of ENDS or WAITING
    ACCOUNT_STATUS = 5  # of ENDS, with its account


class Note(NamedTuple):
    """A row of `listed` without its message."""

    kind: int
    value: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages are wanted; None: whatever it is. `accounts` are those that somebody may see, or asks for."""

    status: StatusWord | None = None
    accounts: tuple[int, ...] | None = None
    key_id: int | None = None  # of a pool: only what was accepted with it
    recipient: str | None = None  # a mailbox, or @domain, as `recipient_of` makes it
    words: tuple[str, ...] = ()  # each begins a word of the subject
    since: Instant | None = None  # accepted then or later
    until: Instant | None = None  # accepted before


def recipient_of(text: str) -> str:
    """Return a mailbox, or `@domain`, as it is compared. Raises InvalidSubmission naming `to`."""
    try:
        if text.startswith("@"):
            return "@" + parse_mailbox(f"x{text}").domain
        return parse_mailbox(text).path.lower()
    except InvalidAddress as error:
        raise InvalidSubmission(f"give an address or @domain: {error}", field="to") from None


def check_span(since: Instant | None, until: Instant | None) -> None:
    """Refuse a span of time without anything in it. Raises InvalidSubmission naming `until`."""
    if since is not None and until is not None and since >= until:
        raise InvalidSubmission(
            "the end is not after the beginning: give a later end, or an earlier beginning", field="until"
        )


def words_of(text: str) -> tuple[str, ...]:
    """Return the words that a filter asks for as they are compared, each once. Raises InvalidSubmission naming `subject`.

    Somebody's filter is compared with thousands of subjects, which the same one has chosen: it has few words.
    """
    words = tuple(dict.fromkeys(text.casefold().split()))
    if len(words) > _MOST_WORDS:
        raise InvalidSubmission(f"give at most {_MOST_WORDS} words", field="subject")
    return words


def has_words(subject: str, words: tuple[str, ...]) -> bool:
    """Whether each of the words begins a word of the subject."""
    found = sorted(subject.casefold().split())
    return all(_begins_one(word, found) for word in words)


def _begins_one(word: str, found: list[str]) -> bool:
    """Whether a word begins one of these, which are in order: the first of those that do not come before it."""
    at = bisect_left(found, word)
    return at < len(found) and found[at].startswith(word)


def is_to(forward_path: str, recipient: str) -> bool:
    """Whether a recipient is the mailbox, or at the domain, that a filter asks for."""
    path = forward_path.lower()
    return path.endswith(recipient) if recipient.startswith("@") else path == recipient


def recipient_notes(forward_path: str) -> tuple[Note, Note]:
    """Return the notes of a recipient: its address and its domain."""
    path = forward_path.lower()
    return note_of_recipient(path), _note_of_domain("@" + path.rpartition("@")[2])


def note_of_recipient(recipient: str) -> Note:
    """Return the note that the messages of a filter's recipient have."""
    kind = Kind.DOMAIN if recipient.startswith("@") else Kind.ADDRESS
    digest = blake2b(recipient.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return Note(kind.value, int.from_bytes(digest, "big", signed=True))


_note_of_domain = lru_cache(maxsize=4096)(note_of_recipient)  # most messages go to few domains


@lru_cache(maxsize=4096)
def note_of_status(word: StatusWord, account_id: int | None = None) -> Note:
    """Return the note of a status, of all messages or of an account's."""
    if account_id is None:
        return Note(Kind.STATUS.value, _CODES[word])
    return Note(Kind.ACCOUNT_STATUS.value, account_id * _STATUSES + _CODES[word])
