"""The checks at acceptance: recipient, subject, emptiness, size, and the disk reserve (POSTROOM_DISK_RESERVE)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from postroom.core.address import InvalidAddress, Mailbox, header_fault, parse_mailbox
from postroom.core.errors import DiskFull, InvalidSubmission, TooLarge
from postroom.core.message import Submission

_PIECE = 262_144  # characters
MOST_TAGS = 250_000
_MOST_REFERENCES = 100
_LONGEST_MESSAGE_ID = 900  # octets; a line has 998 (RFC 5322 §2.1.1)
# RFC 5322 §3.6.4: dot-atoms; what old programs send besides is taken too, as long as it is printable ASCII.
_MESSAGE_ID = re.compile(r"[!-;=?A-~]+@[!-;=?A-~]+")
_MANY_TAGS = 500  # some 4 ms


def recipients(submission: Submission) -> tuple[Mailbox, ...]:
    """Return the recipients as mailboxes, each once. Raises InvalidSubmission naming the first bad one."""
    try:
        mailboxes = [parse_mailbox(text) for text in submission.recipients]
    except InvalidAddress as error:
        raise InvalidSubmission(str(error), field="recipient") from error
    if not mailboxes:
        raise InvalidSubmission("there is no recipient", field="recipient")
    return tuple({mailbox.path: mailbox for mailbox in mailboxes}.values())


def sender(submission: Submission) -> Mailbox | None:
    """Return the From that was asked for; None: the account's own mailbox. Raises InvalidSubmission for anybody else's.

    A provider rewrites a From that is not the account's own, or an alias that it knows, without a word.
    """
    if submission.sender is None:
        return None
    try:
        mailbox = parse_mailbox(submission.sender)
    except InvalidAddress as error:
        raise InvalidSubmission(str(error), field="from") from error
    own = submission.account.email.lower()
    if mailbox.path.lower() != own and mailbox.path.lower() not in map(str.lower, submission.aliases):
        raise InvalidSubmission(
            f"{mailbox.path} is neither the account's mailbox ({submission.account.email}) nor one of its aliases, and the "
            "provider would replace it; add it to the account's aliases once the provider knows it",
            field="from",
        )
    return mailbox


def thread(submission: Submission) -> tuple[str | None, tuple[str, ...]]:
    """Return In-Reply-To and References (RFC 5322 §3.6.4), each id in angle brackets. Raises InvalidSubmission."""
    reply_to = submission.in_reply_to
    in_reply_to = None if reply_to is None else _message_id(reply_to, "in_reply_to")
    if len(submission.references) > _MOST_REFERENCES:
        raise InvalidSubmission(f"give at most {_MOST_REFERENCES} ids", field="references")
    references = tuple(_message_id(text, "references") for text in submission.references)
    if in_reply_to is not None and in_reply_to not in references:
        references = (*references, in_reply_to)
    return in_reply_to, references


def _message_id(text: str, field: str) -> str:
    bare = text.strip().removeprefix("<").removesuffix(">")
    if not _MESSAGE_ID.fullmatch(bare) or len(bare) > _LONGEST_MESSAGE_ID:
        raise InvalidSubmission("must be a Message-ID such as <id@example.com>", field=field)
    return f"<{bare}>"


def subject_is_one_line(submission: Submission) -> None:
    """Refuse a subject with line breaks or other control characters: they could forge header fields."""
    fault = header_fault(submission.subject)
    if fault is not None:
        raise InvalidSubmission(f"the subject must be one line of text, without {fault}", field="subject")


def check_not_empty(submission: Submission) -> None:
    """Refuse a message with neither subject nor body."""
    if not submission.subject.strip() and all(map(_is_blank, _pieces(submission.body))):
        raise InvalidSubmission("the subject and the body are both empty; give at least one", field="body")


def body_is_text(submission: Submission) -> None:
    """Refuse half surrogate pairs: they are not characters and no mail can carry them."""
    if submission.body.isascii():
        return
    for number, piece in enumerate(_pieces(submission.body)):
        try:
            piece.encode()
        except UnicodeEncodeError as error:
            where = f"at position {number * _PIECE + error.start}"
            raise InvalidSubmission(f"the body holds half a surrogate pair {where}", field="body") from error


def html_is_bounded(submission: Submission) -> None:
    """Refuse HTML with more tags than its text part can be made of within seconds."""
    if submission.is_html and submission.body.count("<") > MOST_TAGS:
        raise InvalidSubmission(
            f"the HTML has more than {MOST_TAGS:,} tags; send less of it, or a link to the page", field="body"
        )


def takes_long(submission: Submission) -> bool:
    """Whether the message takes so long to make that others should not wait for it."""
    return submission.is_html and submission.body.count("<") > _MANY_TAGS


def _pieces(text: str) -> Iterator[str]:
    """Cut a text, for each step over it holds Python's lock."""
    return (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))


def _is_blank(text: str) -> bool:
    return not text.strip()


def check_disk_space(free_bytes: int, reserve: int) -> int:
    """Refuse new messages while there is still room to record what becomes of the old. Raises DiskFull.

    Return how many octets are free above the reserve.
    """
    if free_bytes < reserve:
        raise DiskFull(free_bytes, reserve)
    return free_bytes - reserve


def check_size(size: int, most: int) -> None:
    """Refuse more than `most` bytes."""
    if size > most:
        raise TooLarge(
            f"the message has {size} bytes when encoded; this service takes at most {most}", field="body"
        )
