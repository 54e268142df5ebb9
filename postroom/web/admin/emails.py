"""The calls on one message: its history (status, recipients, attempts with what was said, events), and its cancellation."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from postroom.core.api_key import sight_of
from postroom.core.clock import SECOND, Instant
from postroom.core.dialogue import Speaker
from postroom.core.errors import Conflict, NotFound
from postroom.core.message_history import AttemptHistory, MessageHistory, PastEvent, RecipientHistory
from postroom.core.outcome import Reply as ServerReply
from postroom.core.status_word import StatusWord
from postroom.core.text import printable
from postroom.store.histories import Histories
from postroom.store.transaction import Transaction
from postroom.web.admin.call import AdminRequest, AnswerModel, Nothing, Reply, admin_call
from postroom.web.admin.email_lists import Word
from postroom.web.admin.values import known_form, shown_time

_SPEAKERS: Final = {Speaker.CLIENT: "client", Speaker.SERVER: "server", Speaker.NOTE: "note"}


class ReplyAnswer(AnswerModel):
    """What a server answered."""

    code: int
    enhanced: str | None
    text: str


class RecipientAnswer(AnswerModel):
    """One recipient of a message, with a status of its own."""

    address: str
    status: Word
    reason: str | None
    reply: ReplyAnswer | None
    possible_duplicate: bool
    finished_at: str | None


class SpokenAnswer(AnswerModel):
    """A line of a dialogue; `note` is what happened besides words, such as a connection."""

    ms: int = Field(description="Milliseconds since its beginning")
    from_: Literal["client", "server", "note"] = Field(serialization_alias="from")
    text: str


class AttemptAnswer(AnswerModel):
    """One attempt to send a message."""

    number: int
    started_at: str
    finished_at: str
    duration: float = Field(description="Seconds")
    phase: str | None = Field(
        description="The verb of the step at which it ended, such as AUTH or RCPT; `DATA end`: the answer to the text"
    )
    outcome: str = Field(description="sent, deferred, failed or in_doubt")
    blame: str | None = Field(
        description="Who caused it: recipient, message, connection or account; null: it was sent"
    )
    reply: ReplyAnswer | None
    explanation: str | None = Field(description="What it means, and the fix")
    dialogue: list[SpokenAnswer] | None = Field(
        description="What was said, without secrets and text; null once its time of keeping is over"
    )


class EventAnswer(AnswerModel):
    """Something that happened to a message."""

    at: str
    event: str
    recipient: str | None
    detail: str | None


class EmailAnswer(AnswerModel):
    """All that is known of a message but its content."""

    id: str
    status: Word
    reason: str | None = Field(
        description="Why it has that status, in the server's own words where it said any"
    )
    waits_for: str | None = Field(description="What it waits for, in words")
    account: str = Field(description="The id of the account that it is sent through")
    from_: str = Field(serialization_alias="from", description="The mailbox that it is sent from")
    to: list[RecipientAnswer]
    subject: str
    size: int = Field(description="Octets of the whole message")
    test: bool = Field(description="It goes to the built-in inbox alone")
    possible_duplicate: bool = Field(description="It may have been sent twice")
    accepted_at: str
    scheduled_at: str | None = Field(description="Nothing is sent before; null: at once")
    will_send_at: str | None = Field(description="Until when it waits")
    finished_at: str | None
    attempts: list[AttemptAnswer] = Field(description="The newest 100, the oldest first")
    events: list[EventAnswer]


def document_of(history: MessageHistory, now: Instant) -> EmailAnswer:
    """Return what the API says of a message; `postroom status --json` prints the same."""
    status, word = history.status, history.status.word(now)
    will_send_at = status.will_send_at if (status.will_send_at or 0) > now else None
    return EmailAnswer.model_validate(
        {
            "id": status.request_id,
            "status": word.value,
            "reason": _shown(status.reason),
            "waits_for": _shown(history.waits_for(now)),
            "account": history.account_uid,
            "from_": status.sender,
            "to": [_recipient(each, word) for each in history.recipients],
            "subject": history.subject,
            "size": history.size,
            "test": status.is_test,
            "possible_duplicate": status.possible_duplicate,
            "accepted_at": shown_time(history.accepted_at),
            "scheduled_at": shown_time(status.not_before),
            "will_send_at": shown_time(will_send_at),
            "finished_at": shown_time(history.finished_at),
            "attempts": [_attempt(each) for each in history.attempts],
            "events": [_event(each) for each in history.events],
        }
    )


def _recipient(recipient: RecipientHistory, of_message: StatusWord) -> dict[str, object]:
    return {
        "address": recipient.address,
        "status": recipient.word(of_message).value,
        "reason": _shown(recipient.reason),
        "reply": _reply(recipient.reply),
        "possible_duplicate": recipient.possible_duplicate,
        "finished_at": shown_time(recipient.finished_at),
    }


def _event(event: PastEvent) -> dict[str, object]:
    return {
        "at": shown_time(event.at),
        "event": event.kind,
        "recipient": event.recipient,
        "detail": _shown(event.detail),
    }


def _attempt(attempt: AttemptHistory) -> dict[str, object]:
    dialogue = attempt.dialogue
    return {
        "number": attempt.number,
        "started_at": shown_time(attempt.started_at),
        "finished_at": shown_time(attempt.finished_at),
        "duration": max(attempt.finished_at - attempt.started_at, 0) / SECOND,
        "phase": attempt.phase,
        "outcome": attempt.outcome,
        "blame": attempt.blame,
        "reply": _reply(attempt.reply),
        "explanation": _shown(attempt.explanation),
        "dialogue": None
        if dialogue is None
        else [{"ms": line.ms, "from_": _SPEAKERS[line.speaker], "text": line.text} for line in dialogue],
    }


def _reply(reply: ServerReply | None) -> dict[str, object] | None:
    if reply is None:
        return None
    return {"code": reply.code, "enhanced": reply.enhanced, "text": printable(reply.text)}


def _shown(text: str | None) -> str | None:
    return None if text is None else printable(text)


def _get(asked: AdminRequest, query: Nothing) -> Reply:
    history = asked.store.read(Histories.of, known_form(asked.id), sight_of(asked.principal.key))
    if history is None:
        raise NotFound("there is no message with this id", field="id")
    return Reply(200, document_of(history, asked.shared.clock()))


def _cancel(asked: AdminRequest, _: Nothing) -> Reply:
    id_, sight, now = known_form(asked.id), sight_of(asked.principal.key), asked.shared.clock()

    def work(transaction: Transaction) -> MessageHistory:
        if transaction.messages.status(id_, sight) is None:
            raise NotFound("there is no message with this id", field="id")
        if not transaction.holds.cancel(id_, now):
            status = transaction.messages.status(id_, sight)
            raise Conflict(f"only a message that waits can be cancelled: {id_} is {status}", field="id")
        transaction.audit.append(asked.actor, "message.cancel", id_, now)
        history = Histories(transaction).of(id_, sight)
        assert history is not None  # it was just cancelled
        return history

    return Reply(200, document_of(asked.store.write(work), now))


EMAIL_CALLS: Final = (
    admin_call(
        "POST /v1/emails/{id}/cancel",
        "cancelEmail",
        "Cancel a message that waits",
        Nothing,
        _cancel,
        {200: EmailAnswer},
        (409,),
    ),
    admin_call(
        "GET /v1/emails/{id}", "getEmail", "Read the history of a message", Nothing, _get, {200: EmailAnswer}
    ),
)
