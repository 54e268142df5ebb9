"""The call that lists messages: by status, account, recipient, subject and time, the newest first."""

from __future__ import annotations

from typing import Final, Literal, get_args

from pydantic import Field

from postroom.core.api_key import ApiKey
from postroom.core.clock import Instant
from postroom.core.errors import NotFound
from postroom.core.listing import Filter, recipient_of, words_of
from postroom.core.status_word import StatusWord
from postroom.core.text import printable
from postroom.store.listings import NEWEST, Listings
from postroom.store.messages import Listed
from postroom.web.admin.call import AdminRequest, AnswerModel, Reply, admin_call
from postroom.web.admin.cursors import SealedCursor, opened_cursor, sealed_cursor
from postroom.web.admin.filters import AccountFilter, Recipient, Span, Words
from postroom.web.admin.values import PageSize, shown_time

DEFAULT: Final = 20
_EMAILS: Final = "emails"
Word = Literal[
    "scheduled", "queued", "sending", "deferred", "held", "sent", "failed", "cancelled", "suppressed"
]
assert get_args(Word) == tuple(StatusWord)


class EmailList(Span):
    """Which messages are wanted; `since` and `until` are about when they were accepted."""

    status: Word | None = None
    account: AccountFilter | None = None
    to: Recipient | None = None
    subject: Words | None = Field(
        default=None,
        description="Each of its words, at most 20, begins a word of the subject, whatever the case",
    )
    after: SealedCursor | None = None
    limit: PageSize = DEFAULT


class ListedEmail(AnswerModel):
    """A message and what has become of it so far."""

    id: str
    status: Word
    reason: str | None = Field(
        description="Why it has that status, in the server's own words where it said any"
    )
    account: str = Field(description="The id of the account that it is sent through")
    from_: str = Field(serialization_alias="from", description="The mailbox that it is sent from")
    to: list[str]
    subject: str
    accepted_at: str
    finished_at: str | None = Field(description="When it was sent, had failed or was cancelled")
    test: bool = Field(description="It goes to the built-in inbox alone")
    possible_duplicate: bool = Field(description="It may have been sent twice")


class EmailsAnswer(AnswerModel):
    """A page of messages, the newest first."""

    data: list[ListedEmail]
    has_more: bool
    next: str | None = Field(description="What `after` takes for the next page")
    partial: bool = Field(
        description="Many messages were looked at and few fitted all filters; the next page goes on from there"
    )


def _list(asked: AdminRequest, query: EmailList) -> Reply:
    now = asked.shared.clock()
    before = NEWEST if query.after is None else opened_cursor(asked, _EMAILS, query.after, 1)[0]
    page = asked.store.read(Listings.page, _filter(asked, query), query.limit, before=before, now=now)
    return Reply(
        200,
        EmailsAnswer(
            data=[document_of(each, now) for each in page.messages],
            has_more=page.reached is not None,
            next=None if page.reached is None else sealed_cursor(asked, _EMAILS, page.reached),
            partial=page.is_partial,
        ),
    )


def _filter(asked: AdminRequest, query: EmailList) -> Filter:
    key = asked.principal.key
    since, until = query.times
    return Filter(
        status=None if query.status is None else StatusWord(query.status),
        accounts=accounts_for(asked, query.account),
        key_id=key.id if key.pool_id is not None else None,
        recipient=None if query.to is None else recipient_of(query.to),
        words=() if query.subject is None else words_of(query.subject),
        since=since,
        until=until,
    )


def accounts_for(asked: AdminRequest, named: str | None) -> tuple[int, ...] | None:
    """Return the accounts whose messages are wanted, of those that the key may see; None: of all.

    Raises NotFound for an account that is not there, or that is another owner's.
    """
    key = asked.principal.key
    if named is None:
        return None if key.account_id is None else (key.account_id,)
    found = tuple(asked.store.read(Listings.accounts, named.lower()))
    if key.account_id is not None:
        found = tuple(each for each in found if each == key.account_id)
    if not found or _is_hidden(key):
        raise NotFound("there is no account with this id or mailbox", field="account")
    return found


def _is_hidden(key: ApiKey) -> bool:
    """Whether a key may not know which accounts there are: a pool's sees what was sent with it alone."""
    return key.pool_id is not None


def document_of(listed: Listed, now: Instant) -> ListedEmail:
    """Return what lists say of a message: the API's, and `--json` of `postroom list` and `log`."""
    status = listed.status
    return ListedEmail.model_validate(
        {
            "id": status.request_id,
            "status": status.word(now).value,
            "reason": None if status.reason is None else printable(status.reason),
            "account": listed.account_uid,
            "from_": status.sender,
            "to": list(listed.recipients),
            "subject": listed.subject,
            "accepted_at": shown_time(listed.accepted_at),
            "finished_at": shown_time(listed.finished_at),
            "test": status.is_test,
            "possible_duplicate": status.possible_duplicate,
        }
    )


EMAIL_LIST_CALLS: Final = (
    admin_call(
        "GET /v1/emails", "listEmails", "List messages", EmailList, _list, {200: EmailsAnswer}, (404,)
    ),
)
